"""The measurement of the GPU rehearsed on the CPU, in the processes that will measure there: what a
machine with a GPU will show must not be lost to a mistake of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cuda_checks import HAVE_DEVICE
from gpu_goals import GOALS
from tsloss_fast.benchmarks.gpu import supervision
from tsloss_fast.benchmarks.gpu.__main__ import main
from tsloss_fast.benchmarks.gpu.clock import WORKS
from tsloss_fast.benchmarks.gpu.parts import PARTS
from tsloss_fast.benchmarks.gpu.rows import REHEARSAL, Row, line

WORKING_GUDHI = """
class RipsComplex:
    def __init__(self, points): pass
    def create_simplex_tree(self, max_dimension): return self
    def compute_persistence(self): pass
"""


def rehearse(folder: Path, gudhi: str, *arguments: str) -> tuple[int, Path]:
    """Status and output of a rehearsal, whose measuring processes find a GUDHI of ours."""
    (folder / "path").mkdir()
    (folder / "path/gudhi.py").write_text(gudhi, encoding="utf-8")
    target = folder / "gpu.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "path")
        status = main(["--rehearse", "--output", str(target), *arguments])
    return status, target


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    status, target = rehearse(tmp_path_factory.mktemp("rehearsal"), WORKING_GUDHI)
    assert status == 0
    return target


def test_a_rehearsal_has_every_row_of_the_goals_and_says_what_it_is(rehearsal: Path) -> None:
    text = rehearsal.read_text(encoding="utf-8")
    assert text.startswith(REHEARSAL)
    lines = [line for line in text.splitlines() if line.startswith("| (") or "host sync" in line]
    for work, goal in GOALS.items():
        work, _, baseline = work.partition(" | ")
        (found,) = (
            line
            for line in lines
            if f"| {goal} |" in line and line.startswith(f"| {work}") and baseline in line
        )
        assert "NOT RUN" not in found
    assert sum("≤" in line for line in lines) == len(GOALS) + 1  # the edges of the largest
    for measured in ("host until it is queued", "launches |", "of TSLoss, eager"):
        assert measured in text
    assert "- torch: " in text


def test_the_json_of_a_rehearsal_holds_the_same(rehearsal: Path) -> None:
    record = json.loads(rehearsal.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["rehearsal"] is True
    assert record["machine"]["torch"] == torch.__version__
    written = rehearsal.read_text(encoding="utf-8")
    for entry in record["rows"]:
        value, met = entry.pop("value"), entry.pop("met")
        row = Row(**entry)
        assert line(row) in written
        assert (row.value, row.met) == (value, met)
    works = [found["work"] for found in record["kernels"]]
    assert works == [work.name for work in WORKS]
    text = rehearsal.with_name("kernels.md").read_text(encoding="utf-8")
    assert [line.split(": ")[0] for line in text.splitlines() if line.startswith("## ")] == [
        f"## {work}" for work in works
    ]


def test_nothing_is_left_beside_what_was_written(rehearsal: Path) -> None:
    names = {path.name for path in rehearsal.parent.iterdir()}
    assert names == {"path", "gpu.md", "gpu.json", "kernels.md"}


@pytest.mark.slow
def test_a_process_that_dies_costs_the_rest_of_its_part_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    status, target = rehearse(tmp_path, kill)
    assert status == 1
    text = target.read_text(encoding="utf-8")
    died = "| (1, 100, 4096) |  |  |  |  |  | FAILED: the measuring process was ended by signal"
    assert died in text
    assert text.count("FAILED") == 1
    for work, goal in GOALS.items():
        if "GUDHI" not in work:
            assert f"| {goal} |" in text, work
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert sum(row["failed"] for row in record["rows"]) == 1
    assert len(record["kernels"]) == len(WORKS)


@pytest.mark.slow
def test_a_process_that_hangs_costs_the_rest_of_its_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "PATIENCE_SECONDS", 15.0)
    monkeypatch.setattr(supervision, "PARTS", PARTS[:1])
    status, target = rehearse(tmp_path, "import time\ntime.sleep(1000)\n")
    assert status == 1
    text = target.read_text(encoding="utf-8")
    assert "| FAILED: the measuring process gave no answer for 15 s |" in text
    assert text.count("FAILED") == 1
    assert "| (1, 49152, 576) |" in text


def test_a_rehearsal_of_some_rows_has_no_others(tmp_path: Path) -> None:
    status, target = rehearse(tmp_path, WORKING_GUDHI, "kernels of 1x4096x768", "synchronisations")
    assert status == 0
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["work"].partition(" of")[0] for row in record["rows"]] == ["host synchronisations"]
    assert [found["work"] for found in record["kernels"]] == ["(1, 4096, 768)"]


def test_without_time_every_part_is_named(tmp_path: Path) -> None:
    status, target = rehearse(tmp_path, WORKING_GUDHI, "--seconds", "0")
    assert status == 3
    lines = target.read_text(encoding="utf-8").splitlines()
    late = [line for line in lines if line.endswith("| NOT RUN: no time was left |")]
    assert len(late) == sum(len(group) for group in PARTS)


def test_arguments_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for bad in (
        ["--seconds", "-1"],
        ["--seconds", "nan"],
        ["1x2x3"],
        ["--output", str(tmp_path / "file" / "gpu.md")],
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--rehearse", *bad])
        assert caught.value.code == 2
    assert capsys.readouterr().out == ""
    if not HAVE_DEVICE:
        assert main([]) == 2
        assert "needs a CUDA device and a build with CUDA kernels" in capsys.readouterr().err
