"""`tsloss compare` refuses what it cannot run before a model is loaded, and writes tables."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest
from small_designs import write

from tsloss_fast import cli
from tsloss_fast.benchmarks.study import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["defualt"], "neither a file nor one of ablation, default"),
        (["default", "--methods", "ce", "adam"], "got 'adam', expected one of ce, l2"),
        (["default", "--tasks", "navigation"], "'navigation' is neither a file nor"),
        (["default", "--seeds", "1", "1"], "seeds: number 1 and number 2 are the same"),
        (["default", "--tables"], "No such file"),
        (["default", "--device", "cuda:7"], "--device: got 'cuda:7', expected one of cpu"),
        (["{big}"], "was asked for 20 train items, but only 4 different ones"),
    ],
)
def test_what_cannot_be_run_is_refused_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = write(tmp_path, tasks=[{"task": "boolean", "difficulty": 1, "train_size": 20}])
    arguments = [argument.format(big=big) for argument in arguments]
    assert cli.main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [big]


def test_a_folder_that_cannot_be_made_or_is_held_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["compare", "quick", "--out", str(file / "out")]) == 1
    assert "file" in capsys.readouterr().err
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["compare", "quick", "--out", str(tmp_path)]) == 1
    assert "is in use by another process" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file"]


def test_a_study_is_run_and_its_tables_are_written(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(write(tmp_path)), "--models", str(tiny_folder), "--out"]
    assert cli.main([*arguments, str(tmp_path / "out"), "--threads", "1"]) == 0
    page = (tmp_path / "out" / "small.md").read_text(encoding="utf-8")
    printed = capsys.readouterr()
    assert printed.out.strip() == page.strip()
    assert "| tsloss |" in page
    assert "2/2" in printed.err
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures
    assert all(f"wrote {tmp_path / 'out' / name}" in printed.err for name in pictures)
    before = (tmp_path / "out" / "small.jsonl").read_bytes()
    assert cli.main([*arguments, str(tmp_path / "out"), "--tables"]) == 0
    assert capsys.readouterr().out.strip() == page.strip()
    assert (tmp_path / "out" / "small.jsonl").read_bytes() == before


def test_a_study_that_failed_in_part_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def fail(design: Any, out: Path, *more: Any) -> int:
        seen.extend(more)
        out.mkdir()
        (out / "small.jsonl").touch()
        return 2

    monkeypatch.setattr(run, "run_study", fail)
    words = [str(write(tmp_path)), "--out", str(tmp_path / "out"), "--processes", "3"]
    assert cli.main(["compare", *words, "--threads", "7"]) == 1
    assert seen == [3, 7, "cpu"]
    assert "error: 2 cohorts failed; the same command tries again" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["compare", *words, "--threads", "0"])
