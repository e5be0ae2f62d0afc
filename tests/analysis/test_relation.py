"""Relation of topology to performance: coefficients, intervals and the sentences about them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
stats = pytest.importorskip("scipy.stats")

import pyarrow as pa  # noqa: E402

from tsloss_fast.analysis.record.reader import TopologyRecord  # noqa: E402
from tsloss_fast.analysis.record.schema import SCHEMA  # noqa: E402
from tsloss_fast.analysis.relation import (  # noqa: E402
    CAUTION,
    QUANTITIES,
    Correlation,
    Relation,
    mean_interval,
    relate,
)
from tsloss_fast.analysis.runs import Run, Series  # noqa: E402

X, Y, NAN = "mean_lifetime", "accuracy", float("nan")


def make_run(
    x: Mapping[int, float] | Sequence[Mapping[int, float]],
    y: Mapping[int, float],
    **config: object,
) -> Run:
    """A run with one quantity by step (a list of them for several clouds), and its accuracy."""
    clouds = [x] if isinstance(x, Mapping) else x
    rows = [
        {"step": step, "cloud": cloud, "dimension": 0, X: value}
        for cloud, values in enumerate(clouds)
        for step, value in values.items()
    ]
    record = TopologyRecord(pa.Table.from_pylist(rows, schema=SCHEMA), {})
    series = Series(np.array(sorted(y), np.int64), np.array([y[s] for s in sorted(y)], np.float64))
    config = {"task": "reviews", "model": "smollm2"} | config
    return Run("run", Path("nowhere"), record, {Y: series}, {}, config)


def random_runs(count: int, slope: float = 1.0, seed: int = 0) -> list[Run]:
    generator = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        x = generator.normal(size=8)
        y = slope * x + generator.normal(size=8)
        runs.append(make_run(dict(enumerate(x)), dict(enumerate(y)), seed=index))
    return runs


def entry(relation: Relation, view: str, quantity: str = X) -> Correlation:
    [found] = [
        c for c in relation.correlations if (c.view, c.quantity, c.outcome) == (view, quantity, Y)
    ]
    return found


def related(runs: Sequence[Run], view: str) -> Correlation:
    return entry(relate(runs, [X], [Y]), view)


def last(run: Run) -> tuple[float, float]:
    return run.record.series(X)[-1], run.measured[Y].values[-1]


def test_over_the_steps_it_is_the_mean_of_the_coefficients_with_students_interval() -> None:
    runs = random_runs(9, seed=4)
    each = [stats.spearmanr(r.record.series(X), r.measured[Y].values).statistic for r in runs]
    middle, half = np.mean(each), stats.t.ppf(0.975, 8) * np.std(each, ddof=1) / 3
    found = related(runs, "steps")
    expected = (middle, middle - half, middle + half)
    assert (found.coefficient, found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert (found.runs, found.seeds) == (9, 9)


def test_over_the_runs_it_is_that_of_the_last_values_with_fishers_interval() -> None:
    runs = random_runs(9, seed=4)
    value = stats.spearmanr(*zip(*map(last, runs), strict=True)).statistic
    ends = np.tanh(np.arctanh(value) + stats.norm.ppf([0.025, 0.975]) / np.sqrt(9 - 3))
    found = related(runs, "runs")
    assert (found.coefficient, found.low, found.high) == pytest.approx((value, *ends), abs=1e-12)


def test_ties_have_their_mean_rank() -> None:
    x, y = np.random.default_rng(0).integers(0, 4, (2, 30))
    run = make_run(dict(enumerate(map(float, x))), dict(enumerate(map(float, y))))
    expected = stats.spearmanr(x, y).statistic
    assert related([run], "steps").coefficient == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        pytest.param(
            # Recorded every 2 steps and evaluated every 3: they meet at 0, 6, 12 and 18.
            {step: float(step) for step in range(0, 20, 2)},
            {step: float(step) if step % 6 == 0 else -100.0 - step for step in range(0, 20, 3)},
            1.0,
            id="steps are matched by their number",
        ),
        pytest.param(
            {0: NAN, 1: 1.0, 2: 2.0, 3: NAN, 4: 3.0, 5: 9.0},
            {0: 50.0, 1: 1.0, 2: 2.0, 3: -7.0, 4: 3.0, 5: NAN},
            1.0,
            id="NaN is left out",
        ),
        pytest.param(
            [{0: 0.0, 1: 1.0, 2: 5.0, 3: 2.0}, {0: 9.0, 1: 4.0, 2: NAN, 3: 1.0}, {0: NAN, 1: NAN}],
            {0: 4.5, 1: 2.5, 2: 100.0, 3: 1.5},
            1.0,
            id="clouds are averaged at the steps that all of them have",
        ),
        pytest.param({0: 0.0, 1: 1.0}, {0: 0.0, 1: 1.0}, None, id="two steps are too few"),
        pytest.param(dict.fromkeys(range(5), 1.0), dict(enumerate("abcde")), None, id="constant"),
    ],
)
def test_which_steps_of_a_run_count(x: object, y: dict, expected: float | None) -> None:
    y = {step: float(ord(v)) if isinstance(v, str) else v for step, v in y.items()}
    found = related([make_run(x, y)], "steps")
    assert (found.coefficient, found.runs) == (expected, 0 if expected is None else 1)


def with_seeds(seeds: Sequence[int | None]) -> list[Run]:
    runs = [random_runs(1, slope=100.0, seed=index)[0] for index in range(len(seeds))]
    return [
        dataclasses.replace(run, config=run.config | {"seed": seed})
        for run, seed in zip(runs, seeds, strict=True)
    ]


@pytest.mark.parametrize(
    ("seeds", "count", "words"),
    [
        ([0], 1, "1 run of 1 seed"),
        ([0] * 6, 1, "6 runs of 1 seed"),
        ([0, 0, 1, 1, 2, 2], 3, "6 runs of 3 seeds"),
        ([None, None, 0, 0, 1], 4, "5 runs of 4 seeds"),
    ],
)
def test_of_fewer_than_five_seeds_nothing_is_claimed(
    seeds: list[int | None], count: int, words: str
) -> None:
    relation = relate(with_seeds(seeds), [X], [Y])
    steps, over_runs = (entry(relation, view) for view in ("steps", "runs"))
    assert (steps.runs, steps.seeds, steps.low) == (len(seeds), count, None)
    assert steps.coefficient is not None
    assert (over_runs.coefficient, over_runs.low, over_runs.claim) == (None, None, False)
    assert relation.sentences() == [
        f"Task reviews, model smollm2, {words}: too few to say anything about other runs; at least "
        "5 different seeds are needed.",
        CAUTION,
    ]


@pytest.mark.parametrize("view", ["steps", "runs"])
def test_runs_of_one_seed_count_once_as_their_mean(view: str) -> None:
    runs = random_runs(6)
    doubled = [run for run in runs for _ in range(2)]
    once, twice = related(runs, view), related(doubled, view)
    assert dataclasses.replace(twice, runs=6) == once
    assert twice.runs == 12
    # A run without a seed is a seed of its own.
    alone = [dataclasses.replace(run, config=run.config | {"seed": None}) for run in runs]
    assert related(alone, view) == once


def test_claims_are_put_into_words_and_what_chance_alone_would_give_is_said() -> None:
    strong = relate(random_runs(8, slope=3.0), outcomes=[Y])
    assert entry(strong, "steps").claim
    first, *claims, last = strong.sentences()
    assert first == (
        "Task reviews, model smollm2, 8 runs of 8 seeds: over the steps, 1 of 1 intervals exclude "
        "zero (8 seeds), but training alone moves both; over the runs, 1 of 1 intervals exclude "
        "zero (8 seeds), but by chance alone one in twenty would, and more with so few seeds."
    )
    assert claims[0].startswith("Over the steps, mean death and accuracy: Spearman +0.")
    assert last == CAUTION
    for low, high, claim in ((-0.9, -0.1, True), (0.0, 0.9, False), (-0.9, 0.0, False)):
        assert dataclasses.replace(entry(strong, "steps"), low=low, high=high).claim is claim
    none = relate(random_runs(8, slope=0.0, seed=8), outcomes=[Y])
    assert not any(found.claim for found in none.correlations)
    assert len(none.sentences()) == 2


def test_a_view_without_an_interval_and_runs_without_a_measurement_say_so() -> None:
    once = relate([make_run({0: float(i)}, {0: float(i)}, seed=i) for i in range(6)], [X], [Y])
    assert once.sentences()[0] == (
        "Task reviews, model smollm2, 6 runs of 6 seeds: over the steps, fewer than 5 seeds have "
        "values that vary, so there is no interval; over the runs, 1 of 1 intervals exclude zero "
        "(6 seeds), but by chance alone one in twenty would, and more with so few seeds."
    )
    never = relate([make_run({0: float(i)}, {}, seed=i) for i in range(6)], [X], [Y])
    assert never.sentences() == [
        "Task reviews, model smollm2, 6 runs of 6 seeds: nothing was measured, so there is nothing "
        "to relate.",
        CAUTION,
    ]


def test_one_run_that_differs_makes_no_claim() -> None:
    found = related([make_run({0: float(i)}, {0: float(i == 0)}) for i in range(6)], "runs")
    assert found.coefficient == pytest.approx(-np.sqrt(3 / 7), abs=1e-12)
    assert not found.claim
    constant = related([make_run({0: float(i)}, {0: 1.0}) for i in range(6)], "runs")
    assert (constant.coefficient, constant.low) == (None, None)


@pytest.mark.parametrize(
    "other", [{"task": "boolean"}, {"model": "another"}, {"difficulty": 4}], ids=str
)
def test_runs_of_another_task_or_model_are_not_taken_together(other: dict[str, object]) -> None:
    """Together they would correlate at -0.6 and more; in each group it is +1."""
    here = [make_run({0: float(i)}, {0: float(i)}) for i in range(6)]
    there = [make_run({0: 10.0 + i}, {0: i - 10.0}, **other) for i in range(6)]
    relation = relate(here + there, [X], [Y])
    found = {c.group: c.coefficient for c in relation.correlations if c.view == "runs"}
    assert list(found.values()) == pytest.approx([1.0, 1.0], abs=1e-12)
    assert [said.split(",")[0] for said in relation.sentences() if said.startswith("Task")] == [
        group.split(",")[0] for group in found
    ]


def test_correlations_can_be_json_without_nan_and_have_a_fixed_order() -> None:
    relation = relate([*random_runs(5), make_run({0: NAN, 1: 1.0}, {0: NAN})])
    rows = [dataclasses.asdict(found) for found in relation.correlations]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["view"] for row in rows] == ["steps"] * 18 + ["runs"] * 18
    assert [row["quantity"] for row in rows[:18:2]] == list(QUANTITIES)
    assert relate([]).sentences() == [CAUTION]


def test_a_column_that_holds_no_numbers_is_refused() -> None:
    for name in ("mean_deth", "deaths", "time"):
        with pytest.raises(ValueError, match=f"no column of numbers '{name}'"):
            relate([], [name])


def test_the_interval_of_a_mean_is_students() -> None:
    # Mean 2.5, standard error 0.645497, and 3.182446 as the 97.5 % point of t with 3 degrees.
    expected = 2.5 - 3.182446 * 0.645497, 2.5 + 3.182446 * 0.645497
    assert mean_interval(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(expected, abs=1e-5)
    assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5)
