"""Results are compared before they are timed, and what is wrong or missing is said."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_results import GEMM, cell_of, made_row, results_of
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks import plot, report, suite
from tsloss_fast.benchmarks.differentiable import places
from tsloss_fast.benchmarks.implementation import Array, Call, Implementation, stack_deaths
from tsloss_fast.benchmarks.measure import measure
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.records import Measurement
from tsloss_fast.benchmarks.workloads import parse

from tsloss_fast import doctor

# Two measurements of one way; the second one is faster.
ONE_WAY_TWICE = {"GUDHI fastest, create_from_array": 8e-4, "GUDHI fastest, RipsPersistence": 6e-4}


def scaled(factor: float, role: str = "baseline", label: str = "another library") -> Implementation:
    """tsloss_fast with its deaths multiplied by ``factor``."""

    def prepare(points: torch.Tensor, threads: int) -> Call:
        call = IMPLEMENTATIONS["forward"][0].prepare(points, threads)
        read: Callable[[object], dict[str, Array]] = call.read
        return Call(call.run, lambda r: {"deaths": factor * read(r)["deaths"]})

    return Implementation(label, "scaled", prepare, role=role)


def test_the_float64_check_agrees_with_scipy_and_keeps_bars_of_length_zero() -> None:
    workload, twice = parse("30x7"), parse("60x7")
    cloud = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    tree = minimum_spanning_tree(squareform(pdist(cloud.double().numpy())))
    found = measuring.exact(workload, cloud)["deaths"]
    np.testing.assert_allclose(found, np.sort(tree.data), rtol=1e-13)
    coincident = measuring.exact(twice, torch.cat([cloud, cloud]))["deaths"]
    assert (coincident[:30] == 0).all()
    np.testing.assert_allclose(coincident[30:], found, rtol=1e-13)


def test_the_float64_check_of_a_step_is_its_value_and_its_gradient() -> None:
    workload = parse("deaths-30x7")
    cloud = workload.cloud()
    found = measuring.exact(workload, cloud)
    tree = minimum_spanning_tree(squareform(pdist(cloud.double().numpy())))
    np.testing.assert_allclose(found["value"], tree.data.sum(), rtol=1e-13)
    step = 1e-6 * torch.from_numpy(found["gradient"])
    moved = measuring.exact(workload, cloud.double() + step)["value"] - found["value"]
    assert moved == pytest.approx(1e-6 * np.sum(found["gradient"] ** 2), rel=1e-3)


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


ALL_KINDS = ["12x6", "3x12x6", "90x3-float64", "threads-40x5", "backward-12x6", "matrix-30x5"]


@pytest.mark.parametrize("name", [*ALL_KINDS, "deaths-12x6", "loss-12x6", "pair-12x6"])
def test_all_installed_implementations_agree(name: str) -> None:
    workload = parse(name)
    row = measure(workload, IMPLEMENTATIONS[workload.kind], seconds=1e-4)
    assert row.ours.label == "tsloss_fast"
    assert row.ours.status == "measured"
    assert row.ours.error is not None or workload.kind == "backward"
    for cell in row.measurements:
        if cell.status == "measured":
            assert not cell.disagrees, cell
            assert cell.role != "baseline" or cell.difference is not None, cell
            assert cell.seconds
        else:
            assert cell.status == "not installed", cell
            assert cell.reason.startswith("pip install "), cell


def test_deaths_are_found_again_among_the_distances_they_were_taken_from() -> None:
    distances = np.array([3.0, 1.0, 2.0, 5.0], dtype=np.float32)
    assert places(distances, np.array([2.0, 3.0])).tolist() == [2, 0]


def test_gram_distances_are_shown_to_fail_on_tight_clusters() -> None:
    row = measure(parse("clusters-64x256"), IMPLEMENTATIONS["clusters"], seconds=1e-4)
    assert not row.ours.disagrees
    gram = cell_of(row, "torch.cdist + fastcluster")
    if gram.status == "not installed":
        pytest.skip("needs fastcluster")
    assert gram.disagrees
    assert "bad result: torch.cdist + fastcluster on clusters 64×256" in report.text(
        results_of(row)
    )
    assert gram not in row.of_role("baseline")


def test_a_wrong_result_of_a_baseline_is_no_other_way_however_fast_it_was() -> None:
    row = measure(parse("12x6"), [IMPLEMENTATIONS["forward"][0], scaled(1.01)], seconds=1e-4)
    results = results_of(row)
    wrong = cell_of(row, "another library")
    assert wrong.difference == pytest.approx(0.01 / 1.01, rel=1e-3)
    wrong.seconds = [1e-12]
    assert "no other way that was measured is faster" in report.sentence(results)
    for page in (report.text, report.markdown):
        assert "bad result: another library on 12×6: more than 1e-04 from tsloss_fast" in page(
            results
        )
    assert "| 1e-2! |" in report.markdown(results)
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
        Implementation("absent", "", ours.prepare, ("no_such_module", "gph_is_missing_too")),
        Implementation("broken", "", broken),
        scaled(np.nan, label="nan"),
    ]
    row = measure(parse("12x6"), [ours, *others], seconds=1e-4)
    row.measurements.append(Measurement("slow", "baseline", status="not run", reason="too long"))
    text = report.text(results_of(row))
    assert "not installed: absent (pip install no_such_module gph_is_missing_too)" in text
    assert "failed: broken on 12×6: RuntimeError: out of luck" in text
    assert "not run: slow on 12×6: too long" in text
    many = [made_row(f"{n}x6", 1.0, slow=row.measurements[-1]) for n in range(12, 18)]
    remark = "not run: slow on 12×6, 13×6, 14×6 and 3 more: too long"
    assert remark in report.text(results_of(*many))
    assert "bad result: nan on 12×6: gave NaN or infinity" in text


def lines_of(text: str, title: str) -> list[list[str]]:
    """The cells of a table in the terminal, its header first."""
    lines = text.split(f"\n{title}\n")[1].split("\n\n")[0].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_a_step_has_each_way_in_a_column_and_the_faster_of_two_that_share_one() -> None:
    step = made_row(
        "loss-20x2048",
        2e-4,
        **{
            "GUDHI RipsComplex": 2e-3,
            **ONE_WAY_TWICE,
            "torch-topological": Measurement("torch-topological", "baseline", status="failed"),
        },
    )
    text = report.text(results_of(step))
    assert lines_of(text, "Training step, forward and backward") == [
        ["tsloss_fast", "GUDHI RipsComplex", "GUDHI fastest", "torch-topological"],
        ["TSLoss 20×2048", "200 µs", "10.0×", "3.00×", "-"],
    ]


def test_the_plot_has_one_mark_for_each_way_with_a_right_result() -> None:
    row = made_row(
        "loss-20x2048",
        2e-4,
        **{
            **ONE_WAY_TWICE,
            "wrong": Measurement("wrong", "baseline", seconds=[1e-4], difference=1.0),
            GEMM: 1e-4,
        },
    )
    marks = plot._marks([row, row])
    assert marks == {
        "GUDHI fastest": [pytest.approx((3.0, n)) for n in (0, 1)],
        GEMM: [pytest.approx((0.5, n)) for n in (0, 1)],
    }


def test_a_forward_pass_has_the_best_other_way_and_ours_as_a_share_of_it() -> None:
    rows = [
        made_row("20x2048", 3e-5, **{"ripser.py": 9e-5, "a slower one": 1e-4, GEMM: 4e-5}),
        made_row("100x4096", 5e-4, **{GEMM: 1e-3}),
        made_row("64x20x2048@2", 1e-3, **{"quitefastmst": 5e-4}),
    ]
    text = report.text(results_of(*rows))
    assert lines_of(text, "One cloud, forward") == [
        ["tsloss_fast", "best other way", "ours ÷ it", "ours ÷ sgemm X·Xᵀ"],
        ["20×2048", "30.0 µs", "ripser.py", "0.33", "0.75"],
        ["100×4096", "500 µs", "-", "-", "0.50"],
    ]
    assert lines_of(text, "Batches of clouds, forward") == [
        ["tsloss_fast", "best other way", "ours ÷ it"],
        ["64×(20×2048), 2 threads", "1.00 ms", "quitefastmst", "2.00"],
    ]
    page = report.markdown(results_of(*rows))
    assert "| 20×2048 | 30.0 µs | ripser.py | 0.33 | 0.75 |" in page
    assert "| 20×2048 | a slower one | 100 µs |" in page


def test_each_part_of_a_step_is_compared_with_its_own_yardstick() -> None:
    rows = [
        made_row("1024x768", 1e-3, **{GEMM: 2e-3}),
        made_row("backward-1024x768", 1e-3, **{"X.clone()": 5e-4}),
    ]
    header, *body = lines_of(report.text(results_of(*rows)), "Large clouds, and parts of a step")
    assert header[-1] == "ours ÷ yardstick"
    assert [line[-1] for line in body] == ["0.50 of sgemm X·Xᵀ", "2.00 of X.clone()"]


def test_the_sentence_is_the_range_against_gudhi_where_no_other_way_is_faster() -> None:
    rows = [
        made_row("loss-20x2048", 1.0, **{"GUDHI RipsComplex": 9.0, "GUDHI fastest, a": 3.0}),
        made_row("20x2048", 1.0, **{"GUDHI RipsComplex": 30.0, "ripser.py": 1.5, GEMM: 0.5}),
    ]
    assert report.sentence(results_of(*rows)) == (
        "On this machine tsloss_fast is 3.00 to 30.0 times as fast as GUDHI's fastest way; no "
        "other way that was measured is faster at any size."
    )


def test_the_sentence_names_every_way_that_is_faster_anywhere_with_size_and_ratio() -> None:
    rows = [
        made_row("10x576", 2.0, **{"GUDHI create_from_array": 4.0, "torch.pdist": 1.0}),
        made_row("deaths-10x576", 3.0, **{"torch + a, one": 2.0, "torch + a, two": 1.0}),
        made_row("10000x2@1", 3.0, **{"quitefastmst": 1.0, "GUDHI RipsComplex": 2.0}),
        made_row("10000x2@2", 2.5, **{"quitefastmst": 1.0}),
        made_row("10000x3@1", 1.004, **{"quitefastmst": 1.0}),
    ]
    assert report.sentence(results_of(*rows), elsewhere=True) == (
        "There tsloss_fast is 0.67 to 2.00 times as fast as GUDHI's fastest way; slower than "
        "torch.pdist at 10×576 (2.00×); slower than torch + a at sum of deaths 10×576 (3.00×); "
        "slower than quitefastmst at 10000×2, 1 thread (3.00×), 10000×2, 2 threads (2.50×); "
        "slower than GUDHI RipsComplex at 10000×2, 1 thread (1.50×)."
    )


def test_the_sentence_says_if_gudhi_was_not_measured() -> None:
    sentence = report.sentence(results_of(made_row("10x576", 2.0, **{"ripser.py": 4.0})))
    assert sentence.startswith("On this machine GUDHI was not measured; no other way")


def test_a_table_says_where_when_and_on_what_it_was_measured() -> None:
    row = made_row("20x2048", 1.0)
    first, *_ = report.text(results_of(row)).splitlines()
    assert first == (
        "tsloss_fast 1 (avx512_vnni), torch 2, a processor, 2 cores, 1 thread, load 0.0 to 0.0, "
        "2026-11-30"
    )
    assert "1 thread unless a row says otherwise" in report.text(
        results_of(row, made_row("20x2048@2", 1.0))
    )
    for page in (report.text, report.markdown):
        assert "measured on another machine" in page(results_of(row), elsewhere=True)
        assert "another machine" not in page(results_of(row))
        assert "held to" not in page(results_of(row))
        assert "held to avx2: tsloss_fast, NumPy, and torch, which says AVX512; MKL: its" in page(
            results_of(row, isa="avx2")
        )


def test_a_part_of_a_batch_that_was_timed_is_said_to_be_one() -> None:
    part = Measurement("ripser.py", "baseline", seconds=[1.0], cpu_seconds=[1.0], clouds=256)
    results = results_of(made_row("1000x16x8", 0.5, **{"ripser.py": part}))
    assert "timed on the first 256, and scaled" in report.text(results)
    assert "| 1, 256 clouds |" in report.markdown(results)


def test_the_other_libraries_are_held_to_the_instruction_set_too() -> None:
    held = suite.run(["6x4"], seconds=1e-4, isa="baseline", stream=io.StringIO())
    free = suite.run(["6x4"], seconds=1e-4, stream=io.StringIO())
    assert held.machine["instruction set of torch"] == "DEFAULT"
    assert held.machine["instruction set of MKL"] == "COMPATIBLE"
    assert free.machine["instruction set of torch"] == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize(
    ("processor", "asked", "found"),
    [
        ("AMD EPYC", None, "its choice"),
        ("AMD EPYC", "COMPATIBLE", "COMPATIBLE"),
        ("Intel(R) Xeon(R)", "AVX2", "AVX2"),
        ("AMD EPYC", "AVX2", "its choice (it heeds MKL_CBWR=AVX2 on Intel's processors alone)"),
    ],
)
def test_what_mkl_does_not_heed_is_not_said_to_hold_it(
    processor: str, asked: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_processor", lambda: processor)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    if asked:
        monkeypatch.setenv("MKL_CBWR", asked)
    assert doctor.machine()["instruction set of MKL"] == found
