"""`tsloss compare` refuses what it cannot run before a model is loaded, and writes tables."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from small_designs import made, write
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.run import run_study

from tsloss_fast import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["defualt"], "neither a file nor one of ablation, conver"),
        (["default", "--tables"], "No such file"),
        (["default", "--device", "cuda:7"], "finds none of this kind; use cpu"),
    ],
)
def test_what_cannot_be_run_is_refused_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_held_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["compare", "quick", "--out", str(tmp_path)]) == 1
    assert "is in use by another process" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_study_is_run_once_and_a_failing_model_harms_no_other(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    models = [str(tmp_path / "no such model"), str(tiny_folder)]
    words = ["compare", str(write(tmp_path, seeds=[0, 1], models=models)), "--out", str(out)]
    assert cli.main([*words, "--processes", "2", "--threads", "1"]) == 1
    said = capfd.readouterr()
    assert "no such model, seed 1 (ce at 0.03, tsloss at 0.03): Model" in said.err
    assert "error: 2 cohorts failed; the same command tries again" in said.err
    assert "| tsloss |" in said.out
    assert said.out.strip() == (out / "small.md").read_text(encoding="utf-8").strip()
    pictures = list(out.glob("*.png"))
    assert pictures
    assert all(f"wrote {path}" in said.err for path in pictures)
    lines = read_results(out)
    assert [line["kind"] for line in lines] == ["experiment", "session", *["run"] * 4]
    assert lines[1]["processes"] == 2
    assert lines[1]["machine"]["torch"]
    before = (out / "small.jsonl").read_bytes()
    assert cli.main([*words, "--tables"]) == 0
    assert capfd.readouterr().out == said.out
    assert (out / "small.jsonl").read_bytes() == before
    # Another design, whose runs are among these under other names, starts no process.
    arms = ["ce", {"name": "mine", "loss": "tsloss"}]
    other = made(tmp_path, models=[str(tiny_folder)], name="part", methods=arms)
    assert run_study(other, out, processes=0) == 0
    assert [line["kind"] for line in read_results(out / "part.jsonl")] == ["experiment"]
    selected = other.select(read_results(out))[1:]
    assert [line["trial"]["method"] for line in selected] == ["ce", "mine"]
    with pytest.raises(SystemExit):
        cli.main([*words, "--threads", "0"])
