"""The rows of the GPU's table, what is written of them, and the status they give."""

from __future__ import annotations

import pytest
from tsloss_fast.benchmarks.gpu.rows import REHEARSAL, Kernels, Report, Row, line, select


def cells(row: Row) -> list[str]:
    return [cell.strip() for cell in line(row).strip("|").split("|")]


def test_a_ratio_is_held_to_its_goal() -> None:
    row = Row("work", 3e-6, "other", 2e-6, goal=2.0)
    assert row.value == pytest.approx(1.5)
    assert row.met
    assert cells(row) == ["work", "3.00 µs", "other", "2.00 µs", "1.5", "≤ 2 ×", "yes"]
    row.goal = 1.2
    assert row.met is False
    assert cells(row)[-1] == "no, 1.25 × the goal"


def test_seconds_and_counts_are_held_to_theirs() -> None:
    assert cells(Row("work", 3e-5, goal=2.5e-5))[1:] == [
        "30.0 µs", "", "", "", "≤ 25.0 µs", "no, 1.20 × the goal",
    ]  # fmt: skip
    assert cells(Row("work", 2e-5, goal=2.5e-5))[-1] == "yes"
    assert cells(Row("work", 0, goal=0, unit="waits"))[1:] == [
        "0 waits", "", "", "", "≤ 0 waits", "yes",
    ]  # fmt: skip
    assert cells(Row("work", 3, goal=0, unit="waits"))[-1] == "no"
    without = Row("work", 2.5)
    assert without.met is None
    assert cells(without) == ["work", "2.50 s", "", "", "", "", ""]


def test_what_was_not_measured_says_why_and_meets_no_goal() -> None:
    missing = Row("work", 1e-6, "GUDHI", None, 0.002, reason="GUDHI is not installed")
    assert missing.missing
    assert missing.met is None
    assert cells(missing) == [
        "work", "1.00 µs", "GUDHI", "", "", "≤ 0.002 ×", "NOT RUN: GUDHI is not installed",
    ]  # fmt: skip
    failed = Row("work", reason="a | pipe", failed=True)
    assert not failed.missing
    assert cells(failed)[-1] == "FAILED: a / pipe"


def test_the_status_tells_failures_from_what_could_not_run() -> None:
    missed, missing, failed = Row("a", 2, goal=1), Row("b"), Row("c", failed=True)
    assert Report(False, rows=[Row("a", 1.0), missed]).status == 0
    assert Report(False, rows=[missed, missing]).status == 3
    assert Report(False, rows=[missing, failed]).status == 1


def test_kernels_are_listed_with_their_times() -> None:
    name = "void tsloss::cuda::distance_tiles<float, (tsloss::cuda::Term)0>(float const*)"
    found = Kernels("some work", [(name, 2, 30.0), ("x" * 300, 1, 1.5), ("a|b", 1, 0.5)])
    text = Report(False, kernels=[found]).kernels_markdown()
    assert "## some work: 4 launches, 32.0 µs" in text
    assert "| `distance_tiles<float, (Term)0>(float const*)` | 2 | 30.0 | 15.0 |" in text
    assert f"| `{'x' * 99}…` |" in text
    assert "| `a/b` |" in text
    assert "rehearsal" not in text
    assert REHEARSAL in Report(True, kernels=[found]).kernels_markdown()


PARTS = ["(1, 20, 2048)", "(1024, 20, 2048)", "host synchronisations", "kernels of (1, 20, 2048)"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ([], [0, 1, 2, 3]),
        (["1x20x2048"], [0, 3]),
        (["(1, 20, 2048) forward + backward, eager"], [0]),
        (["kernels", "synchronisations"], [2, 3]),
        (["kernels of 1x20x2048", "1024x20x2048"], [1, 3]),
    ],
)
def test_rows_are_chosen_by_their_words_or_by_a_line(wanted: list[str], chosen: list[int]) -> None:
    assert select(wanted, PARTS) == [PARTS[k] for k in chosen]


def test_a_row_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'2x20x2048' is none of \(1, 20, 2048\), "):
        select(["1x20x2048", "2x20x2048"], PARTS)
