"""The benchmark measures what it says, compares before it times, and hides nothing.

Nothing here depends on how fast the machine is."""

from __future__ import annotations

import io
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from made_results import cell_of, made_row, results_of
from tsloss_fast.benchmarks import plot, report, suite, thresholds, worst
from tsloss_fast.benchmarks.environment import pinned
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.records import results_from_json
from tsloss_fast.benchmarks.workloads import KINDS, STEP_KINDS

FIRST = ("forward", *STEP_KINDS)


def test_a_run_writes_the_table_the_numbers_and_the_plot(tmp_path: Path) -> None:
    stream = io.StringIO()
    # Rows come in the order that was asked for, whichever threads they are measured on.
    sizes = ["6x4", "2x5x8@2", "backward-8x5", "loss-7x8", "9x3-float64"]
    target = tmp_path / "kept" / "run.md"
    results = suite.run(sizes, seconds=1e-4, output=target, isa="baseline", stream=stream)
    assert [row.workload for row in results.rows] == sizes
    assert results.machine["instruction set of tsloss_fast"] == "baseline"
    assert results.machine["threads of torch"] == "1"
    assert results.settings["date"] == date.today().isoformat()
    assert not results.wrong
    assert report.text(results) in stream.getvalue()
    for row in results.rows:
        assert f"| {row.label} | tsloss_fast |" in target.read_text(encoding="utf-8")
    again = results_from_json(target.with_suffix(".json").read_text(encoding="utf-8"))
    for read, row in zip(again.rows, results.rows, strict=True):
        for mine, theirs in zip(read.measurements, row.measurements, strict=True):
            assert (mine.label, mine.status, mine.error) == (
                theirs.label,
                theirs.status,
                theirs.error,
            )
            assert mine.seconds == pytest.approx(theirs.seconds, rel=1e-3)
    expected = {"run.md", "run.json"}
    if "plot" not in results.settings:
        expected.add("run.png")
        assert target.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "](run.png)" in target.read_text(encoding="utf-8")
    assert {path.name for path in target.parent.iterdir()} == expected
    assert {Path(name).name for name in results.files} == expected


def test_a_library_that_crashes_or_lies_costs_its_own_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal\ndef ripser(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
    lie = (
        "import numpy as np\n"
        "def linkage(d, method):\n"
        "    n = round((1 + (1 + 8 * len(d)) ** 0.5) / 2)\n"
        "    return np.full((n - 1, 4), 7.0)\n"
    )
    (tmp_path / "ripser.py").write_text(crash, encoding="utf-8")
    (tmp_path / "fastcluster.py").write_text(lie, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    stream = io.StringIO()
    row = suite.run(["6x4"], seconds=1e-4, stream=stream).rows[0]
    assert cell_of(row, "ripser.py").status == "failed"
    assert "failed: ripser.py on 6×4: its process was ended by signal SIGKILL" in stream.getvalue()
    assert cell_of(row, "torch.pdist + fastcluster").disagrees
    assert row.ours.status == "measured"
    assert not row.ours.disagrees


def test_a_process_that_cannot_start_gives_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "_check_isa", lambda isa: None)
    with pytest.raises(RuntimeError, match=r"ended with status 1: .*sse9"):
        suite.run(["6x4"], seconds=1e-4, isa="sse9", stream=io.StringIO())


def test_the_instruction_set_of_the_environment_holds_the_other_libraries_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TSLOSS_ISA", "baseline")
    results = suite.run(["6x4"], seconds=1e-4, stream=io.StringIO())
    assert results.settings["isa"] == "baseline"
    assert results.machine["instruction set of torch"] == "DEFAULT"


def test_a_saved_run_is_shown_again_and_put_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = results_of(made_row("10000x2@1", 3.0, quitefastmst=1.0))
    saved, page = tmp_path / "run.json", tmp_path / "README.md"
    saved.write_text(made.to_json(), encoding="utf-8")
    page.write_text("a\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nb\n", encoding="utf-8")
    arguments = ["--show", str(saved), "--readme", str(page), "--output", str(tmp_path / "run.md")]
    assert suite.main(arguments) == 0
    assert capsys.readouterr().out.startswith(report.text(made, elsewhere=True))
    table = report.text(made, elsewhere=True)
    expected = f"a\n<!-- benchmark -->\n```\n{table}```\n<!-- /benchmark -->\nb\n"
    assert page.read_text(encoding="utf-8") == expected
    assert "measured on another machine" in (tmp_path / "run.md").read_text(encoding="utf-8")
    here = {"processor": "a processor", "cores": "2", "system": "a system"}
    monkeypatch.setattr(suite, "machine", lambda: here)
    assert suite.main(["--show", str(saved), "--goals"]) == 0
    shown = capsys.readouterr().out
    assert "another machine" not in shown
    assert "missed by 200%" in shown
    page.write_text("no place", encoding="utf-8")
    assert suite.main(arguments) == 2
    assert "must hold <!-- benchmark -->" in capsys.readouterr().err
    assert suite.main(["--readme", str(page)]) == 2
    assert "without --show" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, "no sizes given"),
        ({"sizes": ["6y4"]}, "'6y4' names no workload"),
        ({"threads": 0}, "threads is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"isa": "sse9"}, "isa is 'sse9': this machine supports baseline"),
        ({"limit": 0.0}, "limit is 0.0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        suite.run(**arguments)


def test_the_command_line_gives_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for bad in (["6y4"], ["6x4", "--output", str(tmp_path / "file" / "run.md")]):
        assert suite.main(bad) == 2
        error = capsys.readouterr().err
        assert error.startswith("tsloss bench: ")
        assert error.count("\n") == 1


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.md"
    suite.replace(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        suite.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_benchmark_is_refused() -> None:
    for text in ("{}", "[]", json.dumps({"machine": {}, "settings": {}, "rows": [{}]}), "no json"):
        with pytest.raises(ValueError, match=r"benchmark|Expecting value"):
            results_from_json(text)


def test_the_measuring_process_gets_its_threads_from_the_environment() -> None:
    variables = pinned(2, "avx2")
    assert variables["ATEN_CPU_CAPABILITY"] == "avx2"
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "2"
    assert variables["OMP_WAIT_POLICY"] == "PASSIVE"
    assert variables["TSLOSS_ISA"] == "avx2"
    assert "TSLOSS_ISA" not in pinned(1)


def test_every_kind_has_ours_first_and_a_mark_for_each_baseline_in_the_plot() -> None:
    assert set(IMPLEMENTATIONS) == set(KINDS)
    for kind, (ours, *others) in IMPLEMENTATIONS.items():
        assert ours.role == "ours"
        labels = [other.label for other in others]
        assert len(set(labels)) == len(labels)
        first = [other for other in others if other.role == "baseline" and kind in FIRST]
        assert {other.label.split(",")[0] for other in first} <= set(plot.MARKS)


@pytest.mark.parametrize("script", [thresholds, worst])
def test_an_output_that_cannot_be_written_is_found_out_before_measuring(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit):
        script.main(["--output", str(tmp_path / "file" / "run.md")])
    assert capsys.readouterr().out == ""
