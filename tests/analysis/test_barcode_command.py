"""`tsloss barcode`: the barcode of a whole table in a file, by blocks, and again after a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import clusters, copies, gaussian

from tsloss_fast import barcode, h0_persistence
from tsloss_fast.analysis.table import command, work
from tsloss_fast.cli import main

safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs safetensors")

ROWS, DIM = 500, 48


def table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(gaussian(ROWS, DIM)).to(dtype)


def save(path: Path, **tensors: torch.Tensor) -> Path:
    safetensors_torch.save_file({k: t.clone() for k, t in tensors.items()}, path)
    return path


def assert_barcode_of(points: torch.Tensor, out: Path, metric: str = "euclidean") -> None:
    h0 = h0_persistence(points, metric)
    with np.load(out, allow_pickle=False) as found:
        assert sorted(found.files) == ["deaths", "edges", "linkage"]
        np.testing.assert_array_equal(found["deaths"], h0.deaths)
        np.testing.assert_array_equal(found["edges"], h0.edges)
        np.testing.assert_array_equal(found["linkage"], barcode.single_linkage(h0))


def left_behind(out: Path) -> list[Path]:
    return [p for p in out.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    points = table(dtype)
    file = save(tmp_path / "model.safetensors", embedding=points, bias=points[0])
    assert main(["barcode", str(file)]) == 0
    assert_barcode_of(points, tmp_path / "model.barcode.npz")
    assert left_behind(tmp_path / "x") == []


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
def test_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    points = torch.cat([table(), torch.from_numpy(copies(40, 5, DIM).astype(np.float32) + 1)])
    file = save(tmp_path / "model.safetensors", embedding=points)
    real = command.rows_of_block
    monkeypatch.setattr(command, "rows_of_block", lambda *args: min(real(*args), 96))
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


@pytest.mark.parametrize("quantised", ["F32", "F16", "Q8_0", "Q4_0"])
def test_gguf(tmp_path: Path, quantised: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[quantised]
    points = gaussian(200, 64)
    data = gguf.quants.quantize(points, kind)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.add_tensor("other.weight", points[:10])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert main(["barcode", str(tmp_path / "model.gguf")]) == 0
    stored = torch.from_numpy(gguf.quants.dequantize(data, kind).astype(np.float32))
    assert_barcode_of(stored, tmp_path / "model.barcode.npz")


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows(tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "p.npy", gaussian(rows, 3))
    assert main(["barcode", str(tmp_path / "p.npy")]) == 0
    with np.load(tmp_path / "p.barcode.npz") as found:
        assert found["linkage"].shape == (max(rows - 1, 0), 4)


def test_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "m.safetensors", embedding=torch.cat([table(), table()[:7]]))
    assert main(["barcode", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"m.safetensors embedding: {ROWS + 7} x {DIM} (F32), euclidean" in said
    assert f"{ROWS + 6} bars" in said
    assert "7 of length 0" in said
    assert "MB at most" in said
    assert "wrote" in said


def errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["barcode", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tsloss: error: ")
    return said


def test_errors_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no file" in errors([str(tmp_path / "no.safetensors")], capsys)
    two = str(save(tmp_path / "two.safetensors", a=table(), b=table()))
    assert "choose with --key one of a, b" in errors([two], capsys)
    assert "there is no table 'c'" in errors([two, "--key", "c"], capsys)
    flat = str(save(tmp_path / "flat.safetensors", a=table()[0], b=table()))
    assert "'a' is no table" in errors([flat, "--key", "a"], capsys)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    assert "cannot be read as a .safetensors file" in errors([str(broken)], capsys)
    other = tmp_path / "points.csv"
    other.write_text("1,2")
    assert "ends in .safetensors" in errors([str(other)], capsys)
    assert "--out: expected" in errors([two, "--key", "a", "--out", "x.json"], capsys)
    assert "--block-mb" in errors([two, "--key", "a", "--block-mb", "0"], capsys)
    assert "--processes goes with" in errors([two, "--key", "a", "--processes", "2"], capsys)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    assert "expected float16" in errors([str(tmp_path / "words.npy")], capsys)
    bad = table()
    bad[300, 5] = torch.nan
    nan = str(save(tmp_path / "nan.safetensors", a=bad))
    assert "point 300 of the cloud contains NaN" in errors([nan], capsys)
    assert list(tmp_path.glob("*.npz")) == []


def run_until(
    monkeypatch: pytest.MonkeyPatch, file: Path, out: Path, stop: int
) -> tuple[int, list[str]]:
    """Stops after so many units of work, as Ctrl-C does; the exit code and the stages begun."""
    done, begun = [0], []
    real_done, real_begin = work.Work.done, work.Work.begin

    def counted(self: Any, state: Any, forest: Any) -> None:
        real_done(self, state, forest)
        done[0] += 1
        if done[0] == stop:
            raise KeyboardInterrupt

    def seen(self: Any, stage: str, units: int) -> Any:
        result = real_begin(self, stage, units)
        begun.append(f"{stage} {result.units}/{units}")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(work, "KEEP_SECONDS", 0.0)
        patch.setattr(work.Work, "done", counted)
        patch.setattr(work.Work, "begin", seen)
        patch.setattr(command, "rows_of_block", lambda *args: 96)
        code = main(["barcode", str(file), "--out", str(out)])
    return code, begun


def test_it_goes_on_wherever_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = table()
    file = save(tmp_path / "model.safetensors", embedding=points)
    out = tmp_path / "o.npz"
    blocks = -(-ROWS // 96)
    units = blocks + blocks * (blocks + 1) // 2
    for stop in range(1, units + 1):
        code, _ = run_until(monkeypatch, file, out, stop)
        assert code == 130
        assert not out.exists()
        code, begun = run_until(monkeypatch, file, out, -1)
        assert code == 0
        assert_barcode_of(points, out)
        pairs = units - blocks
        at = [f"sample {min(stop, blocks)}/{blocks}", f"own pairs {max(stop - blocks, 0)}/{pairs}"]
        assert begun == at
        assert left_behind(out) == []
        out.unlink()


def test_another_file_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out = tmp_path / "o.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    points = table() + 1
    save(file, embedding=points)
    code, begun = run_until(monkeypatch, file, out, -1)
    assert code == 0
    assert begun[0].startswith("sample 0/")
    assert_barcode_of(points, out)


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tsloss_fast", "barcode", *arguments]


def test_squares_lost_before_the_stop_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two points so near each other that the search has to be done again, with lengths."""
    points = torch.from_numpy(gaussian(400, 4, dtype=np.float64))
    points[:2, 0] = 0
    points[1] = points[0]
    points[1, 0] = 1e-200
    np.save(tmp_path / "p.npy", points.numpy())
    expected = h0_persistence(points).deaths
    assert expected[0] == 1e-200
    out = tmp_path / "o.npz"
    units = 2 * (5 + 15)
    for stop in range(1, units + 1, 3):
        assert run_until(monkeypatch, tmp_path / "p.npy", out, stop)[0] == 130
        assert run_until(monkeypatch, tmp_path / "p.npy", out, -1)[0] == 0
        with np.load(out) as found:
            np.testing.assert_array_equal(found["deaths"], expected)
        out.unlink()


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_state_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out = tmp_path / "o.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    (state,) = tmp_path.glob(".o.npz.partial/process-0.npz")
    state.write_bytes(state.read_bytes()[:-200] if damage is None else damage)
    code, begun = run_until(monkeypatch, file, out, -1)
    assert code == 0
    assert begun[0].startswith("sample 0/")
    assert_barcode_of(table(), out)
    assert left_behind(out) == []


# The command, but for how often its state is kept.
OFTEN = """
import sys
from tsloss_fast.analysis.table import work
from tsloss_fast.cli import main

work.KEEP_SECONDS = 0.1
sys.exit(main(["barcode", *sys.argv[1:]]))
"""


def kill_all(script: Path) -> None:
    """Every process that runs the script: those of torchrun are in sessions of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(script).encode() in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment(tmp_path: Path, processes: int) -> None:
    points = torch.from_numpy(gaussian(20000, 256))
    file = save(tmp_path / "model.safetensors", embedding=points)
    out = tmp_path / "o.npz"
    script = tmp_path / "often.py"
    script.write_text(OFTEN, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *(launch if processes == 2 else []), str(script)]
    command += [str(file), "--out", str(out), "--block-mb", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    state = tmp_path / ".o.npz.partial" / "process-0.npz"
    for pause in (0.0, 0.3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 120
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None, "it ended before a state was kept"
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(pause)
        kill_all(script)
        process.wait()
        assert not out.exists()
    last = subprocess.run(
        command, env=environment, check=True, timeout=300, capture_output=True, text=True
    )
    assert "goes on where it was stopped" in last.stderr
    assert_barcode_of(points, out)
    assert left_behind(out) == []


@pytest.mark.slow
def test_under_torchrun_an_error_is_one_of_every_process(tmp_path: Path) -> None:
    bad = table()
    bad[400, 3] = torch.inf
    file = save(tmp_path / "model.safetensors", embedding=bad)
    result = subprocess.run(
        command_line(str(file), "--under", "torchrun", "--processes", "2"),
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    assert "point 400 of the cloud contains NaN" in result.stderr
    assert list(tmp_path.glob("*.npz")) == []
