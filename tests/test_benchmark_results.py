"""Results are compared before they are timed, and what is wrong or missing is said."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_results import cell_of
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks import report, suite
from tsloss_fast.benchmarks.implementation import Array, Call, Implementation, stack_deaths
from tsloss_fast.benchmarks.measure import measure
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.records import Results, Row
from tsloss_fast.benchmarks.workloads import parse

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
        pytest.skip("needs fastcluster")
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
