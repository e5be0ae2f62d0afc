"""Outcomes of runs: numbers of their records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from made_records import PLAN, make_run

from tsloss_fast.compare.outcomes import (
    OUTCOMES,
    accuracy_area,
    first_reached,
    is_censored,
    run_outcomes,
)

# How long one takes depends on who else uses the machine.
few = settings(deadline=None, max_examples=40)


def test_the_area_under_accuracy_by_hand() -> None:
    def curve(*points: tuple[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "accuracy": rate} for step, rate in points]

    # 10·(0.2+0.4)/2 + 20·(0.4+0.8)/2 = 3 + 12, over 30 steps.
    assert accuracy_area(curve((0, 0.2), (10, 0.4), (30, 0.8)), 30) == pytest.approx(0.5)
    # The last value counts to the end: 3 + 12 + 10·0.8, over 40.
    assert accuracy_area(curve((0, 0.2), (10, 0.4), (30, 0.8)), 40) == pytest.approx(23 / 40)
    assert accuracy_area(curve((0, 1.0), (5, 1.0)), 5) == 1.0
    assert accuracy_area(curve((5, 0.3), (10, 0.4)), 10) is None
    assert accuracy_area([], 10) is None


@few
@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.integers(1, 9))
def test_the_area_is_numpys_trapezoid_over_the_steps_and_a_rate(hits, every) -> None:
    rates = [hit / 50 for hit in hits]
    steps = np.arange(len(rates)) * every
    curve = [{"step": int(s), "accuracy": r} for s, r in zip(steps, rates, strict=True)]
    found = accuracy_area(curve, int(steps[-1]))
    trapezoid = sum((rates[i] + rates[i + 1]) / 2 * every for i in range(len(rates) - 1))
    assert found == pytest.approx(trapezoid / steps[-1])
    assert min(rates) - 1e-12 <= found <= max(rates) + 1e-12


def test_a_threshold_is_reached_at_it_or_past_it() -> None:
    curve = [{"step": s, "ce": c} for s, c in ((0, 2.0), (5, 0.5), (10, 0.7), (15, 0.2))]
    assert first_reached(curve, "ce", 0.5, -1) == 5
    assert first_reached(curve, "ce", 0.3, -1) == 15
    assert first_reached(curve, "ce", 0.1, -1) is None
    assert first_reached(curve, "ce", 2.5, -1) == 0
    assert first_reached(curve, "ce", 2.0, +1) == 0


def test_outcomes_of_a_run() -> None:
    run = make_run(
        accuracy=[0.5, 0.6, 0.7, 0.75, 0.7, 0.8, 0.8],
        ce=[1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.55],
        end={"accuracy": 0.79, "restricted_accuracy": 0.81, "ce": 0.56},
    )
    found = run_outcomes(run, PLAN)
    assert set(found) == set(OUTCOMES)
    assert found["final_accuracy"] == 0.79
    assert found["final_restricted_accuracy"] == 0.81
    assert found["final_ce"] == 0.56
    assert found["steps_to_accuracy"] == 30
    assert found["accuracy_area"] == pytest.approx((0.5 / 2 + 3.55 + 0.8 / 2) / 6)
    assert found["coefficient_of_variation"] == 0.05
    # 0.5 is never reached: all steps, and said.
    assert found["steps_to_ce"] == 60
    assert is_censored(run, "steps_to_ce", PLAN)
    assert not is_censored(run, "steps_to_accuracy", PLAN)
    assert not is_censored(run, "final_accuracy", PLAN)


def test_without_a_threshold_or_a_finite_value_there_is_no_outcome() -> None:
    run = make_run(end={"ce": math.nan})
    found = run_outcomes(run, {"accuracy_threshold": 0.6})
    assert found["final_ce"] is None
    assert found["steps_to_ce"] is None
    assert not is_censored(run, "steps_to_ce", {})
    assert found["steps_to_accuracy"] == 0
    broken = make_run(ce=[1.0, math.nan, math.nan, 0.4, 0.4, 0.4, 0.4])
    assert run_outcomes(broken, PLAN)["steps_to_ce"] == 30
