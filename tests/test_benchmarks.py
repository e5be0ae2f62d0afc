"""The benchmark measures what it says, compares before it times, and hides nothing.

Nothing here depends on how fast anything is.
"""

from __future__ import annotations

import gc
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from tsloss_fast.benchmarks import goals, plot, report, suite, thresholds, worst
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks.implementation import Array, Call, Implementation, stack_deaths
from tsloss_fast.benchmarks.machine import pinned
from tsloss_fast.benchmarks.measure import interleave, measure
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.records import Measurement, Results, Row, results_from_json
from tsloss_fast.benchmarks.workloads import DEFAULT, KINDS, QUICK, parse, select

from tsloss_fast import _core

MACHINE = {
    "processor": "a processor",
    "cores": "2",
    "tsloss-fast": "1",
    "torch": "2",
    "instruction set of tsloss_fast": "baseline",
}


def results_of(*rows: Row) -> Results:
    return Results(dict(MACHINE), {"threads": 1}, list(rows))


def scaled(factor: float, role: str = "baseline", label: str = "another library") -> Implementation:
    """tsloss_fast with its deaths multiplied by ``factor``."""

    def prepare(points: torch.Tensor, threads: int) -> Call:
        call = IMPLEMENTATIONS["forward"][0].prepare(points, threads)
        assert call.deaths is not None
        read: Callable[[object], Array] = call.deaths
        return Call(call.run, lambda result: factor * read(result))

    return Implementation(label, "scaled", prepare, role=role)


def cell_of(row: Row, label: str) -> Measurement:
    return next(m for m in row.measurements if m.label == label)


# --- workloads


@pytest.mark.parametrize("name", [*DEFAULT, "vocabulary-49152x576", "3x5x8", "clusters-2x9x4"])
def test_a_workload_has_one_name(name: str) -> None:
    assert parse(name).name == name
    assert parse(parse(name).label.replace(" ", "-")).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("20", "names no workload"),
        ("20x", "names no workload"),
        ("x20x3", "names no workload"),
        ("sideways-20x3", "unknown kind 'sideways'"),
        ("1x3", "at least 2 points"),
        ("5x0", "at least 2 points"),
        ("0x5x3", "at least 2 points"),
        ("loss-4x5x3", "without a batch"),
    ],
)
def test_a_bad_size_is_refused_with_what_was_expected(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_the_quick_set_is_four_sizes_of_the_default_set() -> None:
    assert [w.name for w in select(None, quick=True)] == list(QUICK)
    assert len(QUICK) == 4
    assert set(QUICK) < set(DEFAULT)
    assert [w.name for w in select(["6x4", "6×4", "5x4"], quick=True)] == ["6x4", "5x4"]


def test_the_data_are_the_same_in_every_run_and_have_the_stated_shape() -> None:
    torch.manual_seed(int(time.time()))
    assert torch.equal(parse("3x5x8").cloud(), parse("3x5x8").cloud())
    assert parse("3x5x8").cloud().shape == (3, 5, 8)
    deaths = measuring.exact_deaths(parse("clusters-60x8").cloud())
    assert deaths is not None
    assert (deaths[:-4] < 0.1).all()
    assert (deaths[-4:] > 1).all()


# --- comparison


def test_the_float64_check_agrees_with_scipy_and_keeps_bars_of_length_zero() -> None:
    cloud = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    tree = minimum_spanning_tree(squareform(pdist(cloud.double().numpy())))
    found = measuring.exact_deaths(cloud)
    assert found is not None
    np.testing.assert_allclose(found, np.sort(tree.data), rtol=1e-13)
    coincident = measuring.exact_deaths(torch.cat([cloud, cloud]))
    assert coincident is not None
    assert (coincident[:30] == 0).all()
    np.testing.assert_allclose(coincident[30:], found, rtol=1e-13)


def test_a_relative_difference_is_relative_to_the_larger_value() -> None:
    compare = measuring.relative_difference
    assert compare(np.array([2.0, 0.0]), np.array([2.0, 0.0])) == (0, "")
    assert compare(np.array([1.0, 1e-9]), np.array([1.0, 0.0])) == (1, "")
    assert compare(np.array([1e-9 * 1.5]), np.array([1e-9])) == (pytest.approx(1 / 3), "")
    assert "NaN" in compare(np.array([np.nan]), np.array([1.0]))[1]
    assert "shape (1,) instead of (2,)" in compare(np.zeros(1), np.zeros(2))[1]


def test_a_gradient_is_compared_in_the_norm() -> None:
    compare = measuring.norm_difference
    expected = np.array([[3.0, 0.0], [4.0, 0.0]])
    assert compare(expected, expected) == (0, "")
    assert compare(np.array([[3.0, 0.0], [4.0, 0.5]]), expected) == (pytest.approx(0.1), "")
    assert "NaN" in compare(np.full((2, 2), np.nan), expected)[1]
    assert "shape (2,)" in compare(np.zeros(2), expected)[1]


def test_bars_of_length_zero_that_a_library_drops_are_put_back_and_infinite_ones_left_out() -> None:
    points = torch.zeros(2, 4, 3)
    found = stack_deaths([np.array([2.0, 1.0]), np.array([np.inf, 3.0, 1.0, 2.0])], points)
    np.testing.assert_array_equal(found, [[0, 1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="4 finite bars for 4 points"):
        stack_deaths([np.ones(4), np.ones(3)], points)


@pytest.mark.parametrize("name", ["12x6", "3x12x6", "threads-40x5", "loss-12x6", "backward-12x6"])
def test_all_installed_implementations_agree(name: str) -> None:
    workload = parse(name)
    row = measure(workload, IMPLEMENTATIONS[workload.kind], seconds=1e-4)
    assert row.ours.label == "tsloss_fast"
    assert row.ours.status == "measured"
    for cell in row.measurements:
        if cell.status == "measured":
            assert not cell.disagrees, cell
            assert cell.role != "baseline" or cell.difference is not None, cell
            assert cell.seconds
        else:
            assert cell.status == "not installed", cell
            assert cell.reason.startswith("pip install "), cell


def test_gram_distances_are_shown_to_fail_on_tight_clusters() -> None:
    row = measure(parse("clusters-64x256"), IMPLEMENTATIONS["clusters"], seconds=1e-4)
    assert not row.ours.disagrees
    gram = cell_of(row, "torch.cdist + fastcluster")
    if gram.status == "not installed":
        pytest.skip("fastcluster is not installed")
    assert gram.disagrees
    assert "!" in report.text(results_of(row))


def test_a_wrong_result_of_a_baseline_is_marked_in_every_table() -> None:
    row = measure(parse("12x6"), [IMPLEMENTATIONS["forward"][0], scaled(1.01)], seconds=1e-4)
    results = results_of(row)
    assert cell_of(row, "another library").difference == pytest.approx(0.01 / 1.01, rel=1e-3)
    line = next(x for x in report.text(results).splitlines() if x.startswith("another library"))
    assert line.endswith("1e-2!")
    assert "(1e-2!)" in report.markdown(results)
    assert not results.wrong


@pytest.mark.parametrize("factor", [1.01, np.nan])
def test_a_wrong_result_of_tsloss_fast_is_called_wrong(factor: float) -> None:
    ours = scaled(factor, role="ours", label="tsloss_fast")
    results = results_of(measure(parse("12x6"), [ours], seconds=1e-4))
    assert results.wrong == ["12×6"]
    assert "WRONG: tsloss_fast on 12×6" in report.text(results)
    assert "WRONG: tsloss_fast on 12×6" in report.markdown(results)


def test_whatever_was_not_measured_is_named_with_its_reason() -> None:
    def broken(points: torch.Tensor, threads: int) -> Call:
        raise RuntimeError("out of\nluck")

    ours = IMPLEMENTATIONS["forward"][0]
    others = [
        Implementation("absent", "", ours.prepare, {"no_such_module": "no-such-package"}),
        Implementation("broken", "", broken),
        Implementation("slow", "", ours.prepare, most_points=11),
        scaled(np.nan, label="nan"),
    ]
    text = report.text(results_of(measure(parse("12x6"), [ours, *others], seconds=1e-4)))
    assert "not installed: absent (pip install no-such-package)" in text
    assert "failed: broken on 12×6: RuntimeError: out of luck" in text
    assert "not run: slow on 12×6: too slow for this suite above 11 points" in text
    assert "bad result: nan on 12×6: gave NaN or infinity" in text
    everything = measure(parse("12x6"), [ours, others[2]], seconds=1e-4, limits=False)
    assert cell_of(everything, "slow").status == "measured"


# --- timing


def test_samples_of_different_implementations_are_interleaved() -> None:
    order: list[str] = []

    def call(label: str, seconds: float) -> tuple[Callable[[], None], float]:
        def run() -> None:
            order.append(label)
            time.sleep(seconds)

        return run, seconds

    runners = interleave({"short": call("short", 0.002), "long": call("long", 0.008)}, 0.05)
    last = {label: len(order) - order[::-1].index(label) for label in runners}
    started = order[4:]  # after the calibration
    middle = started[len(started) // 4 : -len(started) // 4]
    assert {"short", "long"} <= set(middle)
    assert min(last.values()) > len(order) // 2
    assert min(runners["long"].seconds) >= 0.008
    assert len(runners["short"].seconds) > len(runners["long"].seconds) >= 3


def test_a_very_slow_call_gets_one_sample_and_any_other_at_least_three() -> None:
    def run() -> None:
        time.sleep(0.02)

    assert len(interleave({"long": (run, 0.1)}, 0.015)["long"].seconds) == 3
    assert len(interleave({"slow": (run, 0.2)}, 0.015)["slow"].seconds) == 1


def test_timing_leaves_the_garbage_collector_and_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        measure(parse("threads-9x3"), IMPLEMENTATIONS["threads"], seconds=1e-4, threads=3)
        assert gc.isenabled()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- the whole suite


def test_a_run_writes_the_table_the_numbers_and_the_plot(tmp_path: Path) -> None:
    stream = io.StringIO()
    sizes = ["6x4", "2x5x8", "backward-8x5", "loss-7x8"]
    target = tmp_path / "kept" / "run.md"
    results = suite.run(sizes, seconds=1e-4, output=target, isa="baseline", stream=stream)
    assert [row.workload for row in results.rows] == sizes
    assert results.machine["instruction set of tsloss_fast"] == "baseline"
    assert results.machine["threads of torch"] == "1"
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
    monkeypatch.setenv("TSLOSS_ISA", "sse9")
    with pytest.raises(RuntimeError, match=r"ended with status 1: .*sse9"):
        suite.run(["6x4"], seconds=1e-4, stream=io.StringIO())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, "no sizes given"),
        ({"sizes": ["6y4"]}, "'6y4' names no workload"),
        ({"threads": 0}, "threads is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"isa": "sse9"}, "isa is 'sse9': this machine supports baseline"),
        ({"same_isa": True}, "isa, which is not given"),
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
        for other in others:
            if other.role == "baseline" and kind != "threads":
                assert plot.library(other.label) in plot.MARKS, other.label


def made_up(workload: str, ours: float, label: str, other: float) -> Row:
    cells = [
        Measurement("tsloss_fast", "ours", seconds=[ours], cpu_seconds=[ours]),
        Measurement(label, "yardstick", seconds=[other], cpu_seconds=[other]),
    ]
    return Row(workload, "forward", workload, 0.0, cells)


def test_goals_say_what_was_met_and_by_how_much_the_rest_was_missed() -> None:
    gemm = "sgemm X·Xᵀ"
    rows = [
        made_up("4096x768", 0.2, gemm, 1.0),
        made_up("10000x768", 0.3, gemm, 1.0),
        made_up("20x2048", 20e-6, gemm, 30e-6),
        made_up("33x44", 1.0, gemm, 1.0),
    ]
    verdicts = {(work, against): verdict for work, against, _, _, verdict in goals.assess(rows)}
    assert verdicts == {
        ("4096x768", gemm): "met",
        ("10000x768", gemm): "missed by 50%",
        ("20x2048", gemm): "missed by 25%",
    }


def test_every_goal_names_a_workload_and_an_implementation() -> None:
    for goal in goals.GOALS:
        workload = parse(goal.workload)
        labels = [i.label for i in IMPLEMENTATIONS[workload.kind]]
        assert goal.against in labels


def test_thresholds_are_measured_written_and_leave_nothing_overridden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[dict[str, int]] = []
    override = _core.set_overrides

    def noted(**setting: int) -> None:
        settings.append(setting)
        override(**setting)

    monkeypatch.setattr(_core, "set_overrides", noted)
    target = tmp_path / "thresholds.md"
    assert thresholds.main(["--quick", "--seconds", "0.01", "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert target.read_text(encoding="utf-8") == printed
    assert "| 40 × 16 |" in printed
    with pytest.raises(SystemExit):
        thresholds.main(["--seconds", "0"])
    assert {"path": 1} in settings
    assert settings[-1] == {}

    def fail(points: torch.Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(thresholds, "h0_persistence", fail)
    with pytest.raises(MemoryError):
        thresholds.main(["--quick"])
    assert settings[-1] == {}


def test_thresholds_show_the_constant_of_the_source_tree_or_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tmp_path / "tuning.h"
    monkeypatch.setattr(thresholds, "_TUNING", header)
    assert thresholds.constant("kSmallDimension") is None
    header.write_text("constexpr int64_t kSmallDimension = 77;\n", encoding="utf-8")
    assert thresholds.constant("kSmallDimension") == 77
    with pytest.raises(ValueError, match="no integer constant kOther"):
        thresholds.constant("kOther")


@pytest.mark.parametrize("script", [thresholds, worst])
def test_an_output_that_cannot_be_written_is_found_out_before_measuring(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit):
        script.main(["--output", str(tmp_path / "file" / "run.md")])
    assert capsys.readouterr().out == ""


def test_the_new_kinds_of_clouds_are_what_they_say() -> None:
    signs = parse("signs-20x9").cloud()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    tails = parse("tails-4000x4").cloud()
    assert tails.abs().max() > 20
    assert tails.median().abs() < 0.1
    with pytest.raises(ValueError, match="one cloud"):
        parse("matrix-2x20x9")


def test_torch_can_be_held_to_the_instruction_set_too() -> None:
    held = suite.run(["6x4"], seconds=1e-4, isa="baseline", same_isa=True, stream=io.StringIO())
    free = suite.run(["6x4"], seconds=1e-4, isa="baseline", stream=io.StringIO())
    assert held.machine["instruction set of torch"] == "DEFAULT"
    assert held.machine["instruction set of MKL"] == "COMPATIBLE"
    assert free.machine["instruction set of torch"] == torch.backends.cpu.get_cpu_capability()


def test_a_matrix_workload_agrees_with_its_baselines() -> None:
    row = measure(parse("matrix-30x5"), IMPLEMENTATIONS["matrix"], seconds=0.001)
    assert row.ours.status == "measured"
    assert {m.status for m in row.measurements} <= {"measured", "not installed"}
    assert not any(m.disagrees for m in row.measurements)


def test_worst_cases_are_measured_and_written(tmp_path: Path) -> None:
    target = tmp_path / "worst.md"
    arguments = ["--shapes", "60x20", "--seconds", "0.001"]
    assert worst.main([*arguments, "--output", str(target)]) == 0
    table = target.read_text(encoding="utf-8")
    for name in worst.CLOUDS:
        assert f"| {name} |" in table
    assert "60 points in 20 dimensions" in table
    for bad in (["--shapes", "1x5"], ["--shapes", "5"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            worst.main(bad)
