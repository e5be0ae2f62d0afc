"""Topology against performance: the coefficients, their intervals, and what is matched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from related_runs import NAN, X, Y, entry, make_run, random_runs, related
from scipy import stats

from tsloss_fast.analysis.relation import CAUTION
from tsloss_fast.analysis.relation import relate
from tsloss_fast.analysis.relation.spearman import mean_interval, spearman, spearman_interval


@given(
    st.integers(2, 30).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 6), min_size=n, max_size=n)] * 2)
    )
)
def test_the_coefficient_with_ties_is_that_of_scipy(pair):
    x, y = pair
    found = float(spearman(x, y))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert found == float(spearman(x[::-1], y[::-1]))


def test_many_series_at_once_have_the_coefficients_of_each():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 7, 3, 11))
    together = spearman(x, y)
    assert together.shape == (7, 3)
    for index in np.ndindex(7, 3):
        assert together[index] == float(spearman(x[index], y[index]))


def test_intervals_are_the_percentile_bootstrap_of_scipy():
    generator = np.random.default_rng(1)
    x = generator.normal(size=12)
    y = x + generator.normal(size=12)
    options = {"confidence_level": 0.9, "n_resamples": 300, "method": "percentile"}
    expected = stats.bootstrap(
        (x,), np.mean, axis=-1, rng=np.random.default_rng(5), **options
    ).confidence_interval
    assert mean_interval(x, 0.9, 300, 5) == pytest.approx(tuple(expected), abs=1e-12)

    def coefficient(a, b):
        return stats.spearmanr(a, b).statistic

    expected = stats.bootstrap(
        (x, y),
        coefficient,
        paired=True,
        vectorized=False,
        rng=np.random.default_rng(5),
        **options,
    ).confidence_interval
    assert spearman_interval(x, y, 0.9, 300, 5) == pytest.approx(tuple(expected), abs=1e-12)


def test_intervals_cover_what_they_should_about_as_often_as_they_should():
    """200 simulations of 12 runs at a nominal 0.95; the standard error of the rate is 0.02."""
    generator = np.random.default_rng(2)
    mean = coefficient = 0
    rho = 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's coefficient of bivariate normal pairs
    for seed in range(200):
        x, noise = generator.normal(size=(2, 12))
        low, high = mean_interval(x, 0.95, 400, seed)
        mean += low <= 0 <= high
        y = rho * x + np.sqrt(1 - rho**2) * noise
        low, high = spearman_interval(x, y, 0.95, 400, seed)
        coefficient += low <= truth <= high
    assert 0.84 <= mean / 200 <= 0.97
    assert 0.90 <= coefficient / 200 <= 1.0


@pytest.mark.parametrize(
    ("n", "covered", "excluded"),
    [(5, 0.83, 0.14), (8, 0.88, 0.03), (10, 0.89, 0.06), (20, 0.92, 0.04)],
)
def test_intervals_of_few_runs_are_as_narrow_as_their_docstrings_say(
    n: int, covered: float, excluded: float
) -> None:
    """500 simulations: the standard error of a rate is below 0.02."""
    generator = np.random.default_rng(n)
    mean = zero = known = 0
    for seed in range(500):
        x, y = generator.normal(size=(2, n))
        low, high = mean_interval(x, 0.95, 400, seed)
        mean += low <= 0 <= high
        if (interval := spearman_interval(x, y, 0.95, 400, seed)) is not None:
            known += 1
            zero += not interval[0] <= 0 <= interval[1]
    assert mean / 500 == pytest.approx(covered, abs=0.06)
    assert zero / 500 == pytest.approx(excluded, abs=0.05)
    assert known > 450


def test_over_the_steps_it_is_the_mean_over_runs_of_each_runs_coefficient():
    runs = random_runs(6)
    found = related(runs, "steps", seed=3, resamples=500)
    each = [stats.spearmanr(run.record.series(X), run.measured[Y].values).statistic for run in runs]
    assert found.by_run == pytest.approx(each, abs=1e-12)
    assert found.coefficient == pytest.approx(np.mean(each), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(mean_interval(each, 0.95, 500, 3), abs=1e-12)
    assert (found.runs, found.steps, found.constant, found.missing) == (6, 48, 0, 0)


def test_over_the_runs_it_is_last_values_against_last_values():
    runs = random_runs(9, seed=4)
    x = [run.record.series(X)[-1] for run in runs]
    y = [run.measured[Y].values[-1] for run in runs]
    found = related(runs, "runs", seed=3, resamples=500)
    assert found.coefficient == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert (found.low, found.high) == spearman_interval(x, y, 0.95, 500, 3)
    assert (found.runs, found.steps) == (9, 9)


def test_steps_are_matched_by_their_number_and_not_by_their_place():
    """Recorded every 2 steps and evaluated every 3: they meet at 0, 6, 12 and 18."""
    x = {step: float(step) for step in range(0, 20, 2)}
    y = {step: float(step) if step % 6 == 0 else -100.0 - step for step in range(0, 20, 3)}
    assert related([make_run(x, y)], "steps").coefficient == 1.0
    assert related([make_run(x, y)], "steps").steps == 4


def test_rows_of_nan_are_no_steps_of_a_run():
    x = {0: NAN, 1: 1.0, 2: 2.0, 3: NAN, 4: 3.0, 5: 9.0}
    y = {0: 50.0, 1: 1.0, 2: 2.0, 3: -7.0, 4: 3.0, 5: NAN}
    found = related([make_run(x, y)], "steps")
    assert (found.coefficient, found.steps) == (1.0, 3)
    # The last values that there are: 9.0 of step 5, and 3.0 of step 4.
    runs = [make_run(x, y) for _ in range(4)] + [make_run(x | {5: 10.0}, y | {4: 4.0})]
    assert related(runs, "runs").coefficient == 1.0


def test_clouds_are_averaged_at_the_steps_that_all_of_them_have():
    first = {0: 0.0, 1: 1.0, 2: 5.0, 3: 2.0}
    second = {0: 9.0, 1: 4.0, 2: NAN, 3: 1.0}
    never = dict.fromkeys(first, NAN)
    y = {0: 4.5, 1: 2.5, 2: 100.0, 3: 1.5}
    found = related([make_run([first, second, never], y)], "steps")
    assert (found.coefficient, found.steps) == (1.0, 3)


def test_loops_are_asked_for_with_a_prefix():
    x = {0: 1.0, 1: 2.0, 2: 3.0}
    run = make_run(x, x, column="total_persistence", dimension=1)
    relation = relate([run], ["h1_total_persistence", "total_persistence"], [Y])
    assert entry(relation, "steps", "h1_total_persistence").coefficient == 1.0
    assert entry(relation, "steps", "total_persistence").coefficient is None


@pytest.mark.parametrize("count", [1, 3, 4])
def test_of_few_runs_nothing_is_claimed_but_each_is_described(count):
    relation = relate(random_runs(count, slope=100.0), [X], [Y])
    assert not relation.claim
    over_steps, over_runs = entry(relation, "steps"), entry(relation, "runs")
    assert len(over_steps.by_run) == count
    assert None not in over_steps.by_run
    assert over_runs.coefficient is None
    assert {over_steps.low, over_steps.high, over_runs.low, over_runs.high} == {None}
    words = "1 run" if count == 1 else f"{count} runs"
    assert relation.sentences() == [
        f"{words}: too few to say anything about other runs; at least 5 different seeds are "
        "needed.",
        CAUTION,
    ]
