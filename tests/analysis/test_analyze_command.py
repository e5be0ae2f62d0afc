"""The command `tsloss analyze`: what it prints, writes and skips, and its exit code."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
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
parquet = pytest.importorskip("pyarrow.parquet")

from tsloss_fast import cli  # noqa: E402
from tsloss_fast.analysis.analyze import command  # noqa: E402
from tsloss_fast.analysis.analyze.command import ALL_COLUMNS, main  # noqa: E402
from tsloss_fast.analysis.analyze.quantities import COLUMNS, measure  # noqa: E402
from tsloss_fast.analysis.analyze.stored import SourceError  # noqa: E402


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


def test_it_is_a_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    shown = capsys.readouterr().out
    assert shown.startswith("usage: tsloss analyze")
    assert "example: tsloss analyze" in shown
    assert "float16 and bfloat16 are computed as float32" in " ".join(shown.split())


def test_the_table_has_a_row_for_each_cloud_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prompts(tmp_path)
    (tmp_path / "README.md").write_text("no data")
    assert run(tmp_path) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar where standard error is no terminal, and no README
    lines = captured.out.splitlines()
    assert lines[0] == f"in {tmp_path}:"
    assert "paper, edges <= 3" in lines[1]
    assert len({line.index("|") for line in lines[1:]}) == 1
    for line, (epoch, tensor) in zip(lines[3:], made.items(), strict=True):
        cells = [cell for block in line.split("|") for cell in block.split()]
        measured = measure(tensor[0])
        assert cells[0] == f"soft_prompt_epoch_{epoch}.pt"
        assert cells[1:6] == [str(epoch), "20", "16", "19", "0"]
        assert cells[9] == str(measured["h1_bars"])
        assert cells[10:12] == [str(measured["paper_h0_bars"]), str(measured["paper_h1_bars"])]
        assert cells[14:16] == [
            str(measured["paper_cut_h0_bars"]),
            str(measured["paper_cut_h1_bars"]),
        ]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return json.loads(path.read_text("utf-8"))
    if path.suffix == ".parquet":
        return parquet.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    with path.open(newline="") as file:
        return [
            {k: ALL_COLUMNS[k](v) if v else None for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_all_columns_are_written_with_all_their_digits(suffix: str, tmp_path: Path) -> None:
    made = prompts(tmp_path / "prompts")
    output = tmp_path / "new" / f"topology{suffix}"
    assert run(tmp_path / "prompts", "-o", output, "--max-edge-length", 2.5) == 0
    rows = rows_of(output)
    assert [row["step"] for row in rows] == [0, 2, 10]
    for row, tensor in zip(rows, made.values(), strict=True):
        assert list(row) == list(ALL_COLUMNS)
        assert row["source"].endswith(".pt")
        assert row["stored"] == "float32"
        measured = measure(tensor[0], max_edge_length=2.5)
        assert {name: row[name] for name in COLUMNS} == measured
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_without_a_cut_both_of_the_papers_are_the_same(suffix: str, tmp_path: Path) -> None:
    prompts(tmp_path / "prompts")
    output = tmp_path / f"topology{suffix}"
    assert run(tmp_path / "prompts", "-o", output, "--max-edge-length", "inf") == 0
    for row in rows_of(output):
        for name, value in row.items():
            if name.startswith("paper_cut_"):
                assert value == row["paper_" + name.removeprefix("paper_cut_")]
        assert row["max_edge_length"] == (None if suffix == ".json" else math.inf)


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
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
    np.save(folder / "nan.npy", np.full((3, 2), np.nan))
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


def test_every_adapter_of_a_folder_is_one_row(tmp_path: Path) -> None:
    for folder, tokens in ((tmp_path, 5), (tmp_path / "german", 7)):
        folder.mkdir(exist_ok=True)
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": tokens}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        prompt = {"prompt_embeddings": torch.randn(tokens, 3)}
        save_file(prompt, folder / "adapter_model.safetensors")
    output = tmp_path / "o.json"
    assert run(tmp_path, "--no-h1", "-o", output) == 0
    found = [(row["source"], row["n_points"]) for row in rows_of(output)]
    assert found == [(str(tmp_path), 5), (str(tmp_path / "german"), 7)]


def test_a_point_that_is_not_finite_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.eye(4)
    array[2, 1] = array[3, 0] = np.nan
    np.save(tmp_path / "x.npy", array)
    assert run(tmp_path / "x.npy") == 1
    said = "2 of 16 coordinates are NaN or infinite, the first of them in point 2"
    assert said in capsys.readouterr().err


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


def test_what_the_command_needs_is_asked_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tsloss analyze needs tqdm.*tsloss-fast\[analysis\]"):
        main([str(tmp_path / "missing")])


@pytest.mark.parametrize(
    "arguments",
    [(), ("x", "-o", "x.txt"), ("x", "--max-edge-length", "-1"), ("x", "--max-edge-length", "nan")],
)
def test_wrong_usage_is_told_before_anything_is_read(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)


def test_a_key_selects_in_every_file_that_has_names(tmp_path: Path) -> None:
    for index in range(2):
        np.savez(tmp_path / f"{index}.npz", a=np.eye(3), b=np.eye(4))
    prompts(tmp_path)
    assert run(tmp_path, "--key", "b", "-o", tmp_path / "o.json") == 0
    labels = [(row["label"], row["n_points"]) for row in rows_of(tmp_path / "o.json")]
    assert labels == [("b", 4)] * 2 + [("", 20)] * 3


def test_relative_and_absolute_paths_may_be_given_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.eye(3))
    assert run("a.npy", tmp_path / "b.npy", "-o", "o.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"in {tmp_path}:"
    assert [line.split()[0] for line in lines[3:5]] == ["a.npy", "b.npy"]
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
