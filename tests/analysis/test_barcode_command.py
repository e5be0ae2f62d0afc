"""`tsloss barcode`: the barcode of a whole table in a file, by blocks, and what it says."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import clusters, copies, gaussian
from saved_tables import DIM, ROWS, assert_barcode_of, left_behind, save, table

from tsloss_fast import h0_persistence
from tsloss_fast._files import exclusive
from tsloss_fast.analysis.table import table as searched
from tsloss_fast.cli import main


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, where the command writes unless it is told another place."""
    monkeypatch.chdir(tmp_path)


def test_the_table_of_a_safetensors_file_is_written_into_the_working_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        points = torch.cat([table(), table()[:7]]).to(dtype)
        file = save(tmp_path / "models" / "m.safetensors", embedding=points, bias=points[0])
        assert main(["barcode", str(file)]) == 0
        assert_barcode_of(points, Path("m.barcode.npz"))
        said = capsys.readouterr().out
        stored = str(dtype).removeprefix("torch.")
        assert f"m.safetensors embedding: {ROWS + 7} x {DIM} ({stored}), euclidean" in said
        assert re.search(rf"^{ROWS + 6} bars: .* 7 of length 0$", said, re.MULTILINE)
        assert re.search(r"s in 1 process of \d+ threads?, \d+ MB at most\nwrote m\.bar", said)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["m.barcode.npz", "m.safetensors"]


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
def test_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    points = torch.cat([table(), torch.from_numpy(copies(40, 5, DIM).astype(np.float32) + 1)])
    file = save(tmp_path / "model.safetensors", embedding=points)
    real = searched.rows_of_block
    monkeypatch.setattr(searched, "rows_of_block", lambda *args: min(real(*args), 96))
    assert main(["barcode", str(file), "--metric", metric, "--out", str(tmp_path / "o.npz")]) == 0
    assert_barcode_of(points, tmp_path / "o.npz", metric)


def test_npy_and_gudhis_text(tmp_path: Path) -> None:
    gudhi = pytest.importorskip("gudhi")
    points = clusters(3, 60, 4, seed=1, width=0.1)
    np.save(tmp_path / "points.npy", points)
    out = tmp_path / "points.txt"
    assert main(["barcode", str(tmp_path / "points.npy"), "--out", str(out)]) == 0
    read = gudhi.read_persistence_intervals_in_dimension(persistence_file=str(out))
    deaths = h0_persistence(torch.from_numpy(points)).deaths
    np.testing.assert_allclose(read[:-1, 1], deaths, rtol=1e-12)
    assert np.isinf(read[-1, 1])
    assert (read[:, 0] == 0).all()


def write_gguf(path: Path, quantised: str, big: bool = False) -> torch.Tensor:
    """Write a file with a table of tokens and a second table; return the numbers of the first."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[quantised]
    points = gaussian(200, 64)
    data = gguf.quants.quantize(points, kind)
    order = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.add_tensor("other.weight", points[:10])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(gguf.quants.dequantize(data, kind).astype(np.float32))


def test_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quantised in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        stored = write_gguf(tmp_path / "model.gguf", quantised)
        assert main(["barcode", str(tmp_path / "model.gguf")]) == 0
        assert_barcode_of(stored, tmp_path / "model.barcode.npz")
    write_gguf(tmp_path / "model.gguf", "F32", big=True)
    said = errors([str(tmp_path / "model.gguf")], capsys)
    assert "has the byte order of another machine" in said
    assert "gguf-convert-endian COPY.gguf native" in said


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".npz"])
def test_tables_of_torch_and_in_archives(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    if suffix == ".npz":
        np.savez(file, embedding=table().numpy(), bias=np.zeros(3))
    else:
        torch.save({"state_dict": {"embedding": table(), "bias": torch.zeros(3)}}, file)
    assert main(["barcode", str(file)]) == 0
    assert_barcode_of(table(), tmp_path / "model.barcode.npz")


def test_a_table_in_a_shard_is_found_through_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "1.safetensors", embedding=table())
    save(tmp_path / "2.safetensors", head=table().flip(0))
    places = {"embedding": "1.safetensors", "head": "2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    out = tmp_path / "o.npz"
    assert main(["barcode", str(index), "--key", "head", "--out", str(out)]) == 0
    assert_barcode_of(table().flip(0), out)
    assert "2.safetensors head: 500 x 48" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows(tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "p.npy", gaussian(rows, 3))
    assert main(["barcode", str(tmp_path / "p.npy")]) == 0
    with np.load(tmp_path / "p.barcode.npz") as found:
        assert found["linkage"].shape == (max(rows - 1, 0), 4)


def test_names_need_not_be_unicode_and_streams_may_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names of files are UTF-8 on macOS.
    name = "p" if sys.platform == "darwin" else os.fsdecode(b"caf\xe9")
    np.save(f"{name}.npy", table().numpy())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["barcode", f"{name}.npy"]) == 0
    assert_barcode_of(table(), Path(f"{name}.barcode.npz"))


def test_one_output_is_computed_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "p.npy", table().numpy())
    file, out = str(tmp_path / "p.npy"), tmp_path / "o.npz"
    with exclusive(tmp_path / ".o.npz.partial", passing=True):
        (tmp_path / ".o.npz.partial" / ".tmp-process-0.npz").touch()
        said = errors([file, "--out", str(out)], capsys)
        assert f"o.npz is being computed by another process (pid {os.getpid()})" in said
        assert "choose another --out" in said
        assert main(["barcode", file, "--out", str(tmp_path / "other.npz")]) == 0
        # The file that the other command is writing is left alone.
        assert (tmp_path / ".o.npz.partial" / ".tmp-process-0.npz").exists()
    assert main(["barcode", file, "--out", str(out)]) == 0
    assert left_behind(out) == []


def test_a_state_is_written_to_no_other_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "p.npy", table().numpy())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "process-0.npz").touch()
    (tmp_path / ".p.barcode.npz.partial").symlink_to(tmp_path / "other")
    assert "is a symbolic link: remove it" in errors([str(tmp_path / "p.npy")], capsys)
    assert len(list((tmp_path / "other").iterdir())) == 1


def errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["barcode", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tsloss: error: ")
    return said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("no/such/model.safetensors", "there is no file"),
        ("two.safetensors", r"2 tensors that can be tables \(a, b\): choose with --key"),
        ("two.safetensors --key c", "no tensor is called 'c'; it holds a, b"),
        ("two.safetensors --key *", "'\\*' matches several tables: choose one of a, b"),
        ("flat.safetensors --key a", rf"'a' has the shape \({DIM},\); expected float16"),
        (".", "is a folder"),
        ("broken.safetensors", r"is damaged, or no \.safetensors file"),
        ("points.csv", r"name ends in \.npy, \.npz, \.pt,"),
        ("words.npy", "expected float16"),
        ("p.npy --key a", "holds one array and no names; leave out --key"),
        ("p.npy --out x.json", "--out: expected a name that ends in .npz or .txt, got x.json"),
        ("p.npy --out points.csv/x.npz", "cannot write points.csv/x.npz: .* is no folder"),
        ("p.npy --block-mb 0", "--block-mb: expected a number above 0, got 0"),
        ("p.npy --threads 0", "--threads: expected a number above 0, got 0"),
        ("p.npy --under torchrun --processes 0", "--processes: expected a number above 0, got 0"),
        ("p.npy --processes 2", "--processes goes with --under torchrun"),
        ("nan.safetensors", "point 300 of the cloud contains NaN"),
    ],
)
def test_errors_say_what_to_do_and_leave_nothing(
    arguments: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = table()
    bad[300, 5] = torch.nan
    save(tmp_path / "nan.safetensors", a=bad)
    save(tmp_path / "two.safetensors", a=table(), b=table())
    save(tmp_path / "flat.safetensors", a=table()[0], b=table())
    np.save("p.npy", table().numpy())
    np.save("words.npy", np.array(["a"]))
    Path("broken.safetensors").write_bytes(b"nothing")
    Path("points.csv").write_text("1,2")
    before = sorted(tmp_path.iterdir())
    assert re.search(expected, errors(arguments.split(), capsys))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_under_torchrun_an_error_is_one_of_every_process(tmp_path: Path) -> None:
    bad = table()
    bad[400, 3] = torch.inf
    file = save(tmp_path / "model.safetensors", embedding=bad)
    launch = ["--under", "torchrun", "--processes", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "tsloss_fast", "barcode", str(file), *launch],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    assert "point 400 of the cloud contains NaN" in result.stderr
    assert list(tmp_path.glob("*.npz")) == []


def test_the_end_removes_what_killed_processes_left(tmp_path: Path) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    state = tmp_path / ".model.barcode.npz.partial"
    state.mkdir()
    (state / ".tmp-process-1.npz").write_bytes(b"half a state")
    assert main(["barcode", str(file)]) == 0
    assert not state.exists()
