"""The command `tsloss analyze`: what it prints, writes and skips, and its exit code."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gudhi", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("sklearn")
pytest.importorskip("scipy")
save_file = pytest.importorskip("safetensors.torch").save_file
pytest.importorskip("tqdm")
pytest.importorskip("pyarrow")

from saved_points import points, write_record  # noqa: E402

from tsloss_fast import cli  # noqa: E402
from tsloss_fast.analysis.analyze import command, sources  # noqa: E402
from tsloss_fast.analysis.analyze.command import ALL_COLUMNS, main  # noqa: E402
from tsloss_fast.analysis.analyze.quantities import COLUMNS, measure  # noqa: E402
from tsloss_fast.analysis.analyze.tensor_files import SourceError  # noqa: E402
from tsloss_fast.analysis.relation import CAUTION  # noqa: E402


def prompts(folder: Path, epochs: tuple[int, ...] = (0, 2, 10)) -> dict[int, torch.Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for epoch in epochs:
        generator = torch.Generator().manual_seed(epoch)
        made[epoch] = torch.randn(1, 20, 16, generator=generator) * (0.3 + 0.1 * epoch)
        torch.save(made[epoch], folder / f"soft_prompt_epoch_{epoch}.pt")
    return made


def run(*arguments: object) -> int:
    return cli.main(["analyze", *map(str, arguments)])


@pytest.mark.parametrize("wide", [False, True])
def test_the_table_has_a_row_for_each_cloud_in_order(
    wide: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    made = prompts(tmp_path)
    (tmp_path / "README.md").write_text("no data")
    assert run(tmp_path, *["--wide", "--max-edge-length", "0.1"] * wide) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar where standard error is no terminal, and no README
    place, head, *lines = captured.out.splitlines()
    assert place == f"in {tmp_path}:"
    for line, (epoch, tensor) in zip(lines, made.items(), strict=False):
        measured, cells = measure(tensor[0]), line.split()
        assert cells[:5] == [f"soft_prompt_epoch_{epoch}.pt", str(epoch), "20", "16", "19"]
        assert cells[5] == format(measured["h0_mean_lifetime"], ".4g")
        assert cells[8] == str(measured["h1_bars"])
        names = ("paper_h0_bars", "paper_h1_bars") if wide else ()
        assert cells[10:12] == [str(measured[name]) for name in names]
    # A line stands for the columns that the authors' cut makes 0 in every row.
    zero = "0 in every row, because no edge longer than 0.1 counts: "
    zero += "cut H0, cut H1, cut mean H0, cut entropy"
    assert lines[len(made) :] == [zero] * wide
    assert ("cut H0" in head) is False


def test_the_table_fits_a_terminal_and_long_names_lose_their_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for index in range(2):
        name = f"a_folder_of_a_long_name/and_another_one/prompts_of_layer_{index}.npz"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / name, **{f"layer.{k}.of.a.tall.model": np.eye(3) for k in range(2)})
    np.save(tmp_path / "z.npy", np.eye(3))
    assert run(tmp_path, "--key", "*") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith("…")
    assert "_0.npz  …" in lines[1]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return json.loads(path.read_text("utf-8"))
    with path.open(newline="") as file:
        return [
            {k: ALL_COLUMNS[k](v) if v else None for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_all_columns_are_written_with_all_their_digits(suffix: str, tmp_path: Path) -> None:
    made = prompts(tmp_path / "prompts")
    output = tmp_path / "new" / f"topology{suffix}"
    assert run(tmp_path / "prompts", "--output", output, "--max-edge-length", 2.5) == 0
    rows = rows_of(output)
    assert [row["step"] for row in rows] == [0, 2, 10]
    for row, tensor in zip(rows, made.values(), strict=True):
        assert list(row) == list(ALL_COLUMNS)
        assert row["source"].endswith(".pt")
        assert row["stored"] == "float32"
        measured = measure(tensor[0], max_edge_length=2.5)
        assert {name: row[name] for name in COLUMNS} == measured
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_names_need_not_be_unicode(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    np.save(folder / f"{name}.npy", np.eye(3))
    torch.save({"\ud800": torch.eye(3)}, folder / "x.pt")
    output = tmp_path / f"{name}{suffix}"
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(folder, "--no-h1", "-o", output) == 0
    terminal.flush()
    shown = terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert f"caf\\udce9{suffix}" in shown
    rows = rows_of(output)
    assert [Path(row["source"]).name for row in rows] == ["caf\\udce9.npy", "x.pt"]
    assert rows[1]["label"] == "\\ud800"
    assert all(text in shown for text in ("caf\\udce9.npy", "\\ud800"))


def test_standard_error_may_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    monkeypatch.setattr(sys, "stderr", None)
    assert run(tmp_path, "--no-h1", "-o", tmp_path / "o.json") == 0
    assert len(rows_of(tmp_path / "o.json")) == 1


def test_damaged_files_are_named_and_skipped_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = tmp_path / "prompts", tmp_path / "other"
    prompts(folder)
    whole = (folder / "soft_prompt_epoch_2.pt").read_bytes()
    np.save(folder / "nan.npy", np.array([[0.0, 0.0], [np.nan, np.inf], [0.0, 0.0]]))
    (folder / "garbage.npy").write_bytes(b"garbage")
    (folder / "half.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    other.mkdir()
    (other / "topology.arrows").write_bytes(b"\xff\xff\xff\xff\x10")
    torch.save({"state": {}}, folder / "optimizer.pt")
    output = tmp_path / "topology.json"
    missing = tmp_path / "missing"
    assert run(folder, other, missing, "-o", output) == 1
    warnings = capsys.readouterr().err.splitlines()
    assert all(line.startswith("tsloss: warning: ") for line in warnings)
    skipped = [line for line in warnings if ": skipped: " in line]
    names = ["nan.npy", "garbage.npy", "half.pt", "half.safetensors", "topology.arrows", "missing"]
    assert len(skipped) == len(names)
    for name in names:
        assert sum(name in line for line in skipped) == 1, name
    assert any(
        "2 of 6 coordinates are NaN or infinite, the first of them in point 1" in line
        for line in skipped
    )
    assert sum("passed over" in line and "optimizer.pt" in line for line in warnings) == 1
    assert [row["step"] for row in rows_of(output)] == [0, 2, 10]


def test_what_lies_in_a_folder_may_be_no_cloud_but_what_is_given_may_not(tmp_path: Path) -> None:
    prompts(tmp_path)
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "training_args.bin")
    (tmp_path / "notes.txt").write_text("no data")
    assert run(tmp_path) == 0
    assert run(tmp_path, tmp_path / "optimizer.pt") == 1
    assert run(tmp_path, tmp_path / "training_args.bin") == 1
    assert run(tmp_path, tmp_path / "notes.txt") == 1


def test_if_nothing_can_be_read_that_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.npy").write_bytes(b"garbage")
    with pytest.raises(SourceError, match="nothing could be read"):
        main([str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.csv")])
    assert run(tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "x.npy" in captured.err
    assert not (tmp_path / "out.csv").exists()


def test_clouds_above_the_limit_have_no_h1_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "big.npy", np.random.default_rng(0).standard_normal((30, 2)))
    prompts(tmp_path)
    assert run(tmp_path, "--max-points", 29) == 0
    assert "no H1 for 1 of 4 clouds: more than 29 points" in capsys.readouterr().out


def test_dimension_0_alone_needs_no_gudhi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts(tmp_path)
    monkeypatch.setitem(sys.modules, "gudhi", None)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "gudhi" else find(n))
    assert run(tmp_path, "--no-h1", "-o", tmp_path / "topology.json") == 0
    assert all(row["h1_bars"] is None for row in rows_of(tmp_path / "topology.json"))
    with pytest.raises(ImportError, match=r"gudhi.*tsloss-fast\[analysis\]"):
        main([str(tmp_path)])


def test_a_file_whose_reader_is_not_installed_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert run(tmp_path, "--no-h1", "-o", tmp_path / "o.json") == 1
    assert len(rows_of(tmp_path / "o.json")) == 3
    said = capsys.readouterr().err
    assert "model.gguf is read by the package gguf, which is not installed here" in said
    assert "tsloss-fast[tuning]" in said


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from tsloss_fast import cli
folder, *files = sys.argv[1:]
for paths, out in ((files, "o.csv"), ([folder], "r.json")):
    print(cli.main(["analyze", "--no-h1", *paths, "-o", f"{folder}/{out}"]), file=sys.stderr)
"""


def test_files_of_points_need_no_pyarrow_and_a_record_says_that_it_does(tmp_path: Path) -> None:
    prompts(tmp_path)
    np.save(tmp_path / "a.npy", np.eye(3))
    np.savez(tmp_path / "b.npz", x=np.eye(3))
    save_file({"x": torch.eye(3)}, tmp_path / "c.safetensors")
    files = sorted(tmp_path.iterdir())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "topology.arrows").touch()
    command = [sys.executable, "-c", WITHOUT_PYARROW, *map(str, [tmp_path, *files])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    assert said[0] == "0"
    assert "topology.arrows is read by the package pyarrow, which is not installed" in said[1]
    assert said[2] == "1"
    assert [len(rows_of(tmp_path / name)) for name in ("o.csv", "r.json")] == [6, 6]


def write_run(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    clouds = [points(seed=10 * seed + step) for step in range(6)]
    write_record(folder / "topology.arrows", clouds)
    (folder / "config.json").write_text(json.dumps({"config": {"seed": seed, "task": "reviews"}}))
    lines = [
        json.dumps({"kind": "eval", "step": 10 * step, "accuracy": float(cloud.norm())})
        for step, cloud in enumerate(clouds)
    ]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))


def test_of_runs_of_five_seeds_it_says_how_topology_goes_with_performance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for seed in range(5):
        write_run(tmp_path / f"seed-{seed}", seed)
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    # A row of a record has the name of its run's folder.
    assert said.splitlines()[2].split()[:3] == ["seed-0", "a", "0"]
    assert "Task reviews, model unknown, 5 runs of 5 seeds: " in said
    assert "Over the steps, mean death and accuracy: Spearman +1 (95% interval +1 to +1" in said
    assert said.endswith(f"{CAUTION}\n")
    shutil.copy(tmp_path / "seed-1/config.json", tmp_path / "seed-0")  # the seed of another run
    assert run(tmp_path) == 0
    assert CAUTION not in capsys.readouterr().out
    (tmp_path / "seed-0/metrics.jsonl").write_text("{\n")
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert "How topology goes with performance is not looked at" in said
    assert CAUTION not in said


def test_what_is_missing_or_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    assert run(tmp_path / "gone.npy", tmp_path / "a.npy") == 1
    assert f"there is no file or folder {tmp_path / 'gone.npy'}" in capsys.readouterr().err
    monkeypatch.setattr(sources, "read_source", None)
    (tmp_path / "o.csv").mkdir()
    for out, said in (("o.csv", "is a folder"), ("a.npy/o.csv", "a.npy")):
        assert run(tmp_path / "a.npy", "--out", tmp_path / out) == 1
        assert said in capsys.readouterr().err


def test_what_the_command_needs_is_asked_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tsloss analyze needs tqdm.*tsloss-fast\[analysis\]"):
        main([str(tmp_path / "missing")])


@pytest.mark.parametrize(
    "arguments",
    [(), ("x", "-o", "x.txt"), ("x", "--max-edge-length", "-1"), ("x", "--max-edge-length", "inf")],
)
def test_wrong_usage_is_told_before_anything_is_read(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)


def test_relative_and_absolute_paths_may_be_given_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.eye(3))
    assert run("a.npy", tmp_path / "b.npy", "-o", "o.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"in {tmp_path}:"
    assert [line.split()[0] for line in lines[2:4]] == ["a.npy", "b.npy"]
    assert len(rows_of(tmp_path / "o.json")) == 2


def test_the_file_is_written_before_anything_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))

    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(command, "_table", broken)
    with pytest.raises(BrokenPipeError):
        main([str(tmp_path / "a.npy"), "-o", str(tmp_path / "o.json")])
    assert len(rows_of(tmp_path / "o.json")) == 1
