"""Topology against performance: the coefficients, their intervals, and what may not be said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import pyarrow as pa
from scipy import stats

from tsloss_fast.analysis.record import SCHEMA, TopologyRecord
from tsloss_fast.analysis.relation.relate import QUANTITIES, Correlation, Relation, relate
from tsloss_fast.analysis.relation.spearman import mean_interval, spearman, spearman_interval
from tsloss_fast.analysis.relation.words import CAUTION
from tsloss_fast.analysis.runs import Run, Series

X, Y = "mean_lifetime", "accuracy"
NAN = float("nan")


def make_run(
    x: Mapping[int, float] | Sequence[Mapping[int, float]],
    y: Mapping[int, float],
    *,
    column: str = X,
    dimension: int = 0,
    outcome: str = Y,
    name: str = "run",
    **config: object,
) -> Run:
    """A run with one quantity by step (a list of them for several clouds), and one outcome."""
    clouds = [x] if isinstance(x, Mapping) else x
    rows = [
        {"step": step, "cloud": cloud, "dimension": dimension, column: value}
        for cloud, values in enumerate(clouds)
        for step, value in values.items()
    ]
    rows += [{"step": step, "cloud": 0, "dimension": 0} for step in clouds[0] if dimension]
    record = TopologyRecord(pa.Table.from_pylist(rows, schema=SCHEMA), {})
    series = Series(np.array(sorted(y), np.int64), np.array([y[s] for s in sorted(y)], np.float64))
    config = {"task": "reviews", "model": "smollm2"} | config
    return Run(name, Path("nowhere"), record, {outcome: series}, {}, config)


def random_runs(count: int, steps: int = 8, seed: int = 0, slope: float = 1.0) -> list[Run]:
    generator = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        x = generator.normal(size=steps)
        y = slope * x + generator.normal(size=steps)
        runs.append(make_run(dict(enumerate(x)), dict(enumerate(y)), seed=index))
    return runs


def entry(relation: Relation, view: str, quantity: str = X, outcome: str = Y) -> Correlation:
    (found,) = (
        c
        for c in relation.correlations
        if (c.view, c.quantity, c.outcome) == (view, quantity, outcome)
    )
    return found


def related(runs: Sequence[Run], view: str, **options: object) -> Correlation:
    return entry(relate(runs, [X], [Y], **options), view)


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


def test_runs_of_one_seed_count_once_and_a_claim_needs_five_seeds():
    """Three runs and their controls are three observations, however well they agree."""

    def pairs(seeds: Sequence[int | None]) -> Relation:
        runs = []
        for index, seed in enumerate(seeds):
            run = random_runs(1, slope=100.0, seed=index)[0]
            runs.append(dataclasses.replace(run, config=run.config | {"seed": seed}))
        return relate(runs, [X], [Y])

    few = pairs([0, 0, 1, 1, 2, 2])
    assert not few.claim
    assert few.groups[0].seeds == 3
    assert [entry(few, view).seeds for view in ("steps", "runs")] == [3, 3]
    assert {entry(few, "steps").low, entry(few, "runs").coefficient} == {None}
    assert few.sentences() == [
        "6 runs of 3 different seeds: too few to say anything about other runs; at least 5 "
        "different seeds are needed.",
        CAUTION,
    ]
    assert "1 seed:" in pairs([0] * 6).sentences()[0]
    enough = pairs([0, 0, 1, 1, 2, 2, 3, 4])
    assert enough.claim
    assert any("8 runs of 5 different seeds, 64 steps in all" in s for s in enough.sentences())
    # Runs that do not say their seed are each their own.
    assert pairs([None] * 5).claim
    assert not pairs([None, None, 0, 0, 1]).claim


def test_seeds_are_counted_among_the_runs_that_have_both():
    *runs, last = random_runs(5, slope=100.0)
    missing = dataclasses.replace(last, measured={})
    twin = dataclasses.replace(runs[0], name="twin")
    found = entry(relate([*runs, twin, missing], [X], [Y]), "steps")
    assert (found.runs, found.seeds, found.low) == (5, 4, None)


def test_no_runs_are_no_relation():
    relation = relate([])
    assert relation.rows() == []
    assert not relation.claim
    assert CAUTION in relation.sentences()


def test_only_intervals_that_exclude_zero_are_put_into_words_and_all_pairs_are_counted():
    strong = relate(random_runs(8, slope=3.0), None, [Y])
    assert entry(strong, "steps").claim
    words = strong.sentences()
    assert any(text.startswith(f"Over the steps, {X} and {Y}: mean Spearman +0.") for text in words)
    assert any(text.startswith("2 pairs of a quantity and an outcome were") for text in words)
    assert words[-1] == CAUTION
    none = relate(random_runs(8, slope=0.0, seed=8), None, [Y])
    assert not any(c.claim for c in none.correlations)
    assert none.claim
    assert not any(text.startswith("Over the") for text in none.sentences())
    assert any("none of the intervals excludes zero" in text for text in none.sentences())


def test_an_interval_that_touches_zero_is_no_claim():
    found = related(random_runs(8, slope=3.0), "steps")
    assert dataclasses.replace(found, low=-0.9, high=-0.1).claim
    assert not dataclasses.replace(found, low=0.0, high=0.9).claim
    assert not dataclasses.replace(found, low=-0.9, high=0.0).claim
    assert not dataclasses.replace(found, low=None, high=None).claim


def test_a_constant_series_has_no_coefficient_and_is_counted():
    flat = {step: 1.0 for step in range(8)}
    rising = {step: float(step) for step in range(8)}
    runs = [*random_runs(5), make_run(flat, rising), make_run(rising, flat)]
    relation = relate(runs, [X], [Y])
    found = entry(relation, "steps")
    assert (found.runs, found.constant, found.missing, found.steps) == (5, 2, 0, 40)
    assert found.by_run[5:] == (None, None)
    assert any("constant in some of the runs" in text for text in relation.sentences())

    alike = [make_run(flat, rising) for _ in range(6)]
    found = related(alike, "runs")
    assert (found.coefficient, found.low, found.runs, found.constant) == (None, None, 0, 6)


def test_a_series_that_one_run_alone_changes_has_no_interval_over_the_runs():
    """Half of the resamples lack that run, and have no coefficient."""
    runs = [make_run({0: float(i)}, {0: float(i == 0)}) for i in range(6)]
    found = related(runs, "runs")
    assert found.coefficient is not None
    assert found.low is None


def test_runs_without_the_outcome_or_with_too_few_common_steps_are_counted_as_missing():
    two_steps = make_run({0: 0.0, 1: 1.0}, {0: 0.0, 1: 1.0})
    other = make_run({0: 0.0, 1: 1.0, 2: 2.0}, {0: 0.0, 1: 1.0, 2: 2.0}, outcome="ce")
    relation = relate([*random_runs(5), two_steps, other], [X], [Y])
    found = entry(relation, "steps")
    assert (found.runs, found.missing, found.by_run[5:]) == (5, 2, (None, None))
    found = entry(relation, "runs")
    assert (found.runs, found.missing) == (6, 1)
    nothing = relate(random_runs(5), [X], ["restricted_accuracy"])
    assert [c.coefficient for c in nothing.correlations] == [None, None]
    assert any("None of the 2 pairs" in text for text in nothing.sentences())


@pytest.mark.parametrize(
    "other", [{"task": "boolean"}, {"model": "another"}, {"task": "boolean", "difficulty": 4}]
)
def test_runs_of_another_task_or_model_are_not_taken_together(other):
    """Together they would correlate at -0.6 and more; in each group it is +1."""
    here = [make_run({0: float(i)}, {0: float(i)}, task="boolean", difficulty=3) for i in range(6)]
    there = [
        make_run({0: 10.0 + i}, {0: i - 10.0}, **({"task": "boolean", "difficulty": 3} | other))
        for i in range(6)
    ]
    if other == {"task": "boolean"}:
        there = [make_run({0: 10.0 + i}, {0: i - 10.0}) for i in range(6)]
    relation = relate(here + there, [X], [Y])
    assert [len(group.runs) for group in relation.groups] == [6, 6]
    values = [(c.group, c.coefficient) for c in relation.correlations if c.view == "runs"]
    assert values == [(0, 1.0), (1, 1.0)]
    assert "2 tasks or models" in relation.sentences()[0]


def test_runs_that_do_not_say_their_task_are_remarked():
    runs = [make_run({0: float(i)}, {0: float(i)}, task=None, model=None) for i in range(5)]
    sentences = relate(runs, [X], [Y]).sentences()
    assert any("do not say what their task and model is" in text for text in sentences)


def test_what_differs_between_runs_of_a_group_is_remarked():
    runs = [
        make_run({0: 0.0, 10 + i: 1.0}, {0: float(i)}, loss=loss, seed=i // 2, out=str(i))
        for i, loss in enumerate(("ce", "tsloss") * 3)
    ]
    (group,) = relate(runs, [X], [Y]).groups
    assert [text.split(":")[0] for text in group.remarks] == [
        "The runs differ in loss",
        "6 runs have 3 seeds",
        "The runs end between step 10 and step 15",
    ]


def test_the_seed_alone_decides_the_intervals():
    runs = random_runs(7, slope=0.3)
    assert relate(runs) == relate(runs)
    assert related(runs, "steps") == entry(relate(runs), "steps")
    assert related(runs, "steps").low != related(runs, "steps", seed=1).low


def test_the_table_is_json_without_nan_and_in_a_fixed_order():
    runs = [*random_runs(5), make_run({0: NAN, 1: 1.0}, {0: NAN})]
    relation = relate(runs)
    rows = relation.rows()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    json.dumps(dataclasses.asdict(relation), allow_nan=False)
    assert [row["view"] for row in rows] == ["steps"] * 18 + ["runs"] * 18
    assert [row["quantity"] for row in rows[:18:2]] == list(QUANTITIES)
    assert {row["task"] for row in rows} == {"reviews"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        relation.seed = 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantities": ["mean_deth"]}, "no column of numbers 'mean_deth'"),
        ({"quantities": ["deaths"]}, "no column of numbers 'deaths'"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"resamples": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        relate([], **options)
