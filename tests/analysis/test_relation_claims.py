"""Topology against performance: what may be said of a coefficient, and what may not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from related_runs import NAN, X, Y, entry, make_run, random_runs, related

from tsloss_fast.analysis.relation import CAUTION, Relation
from tsloss_fast.analysis.relation import QUANTITIES, relate


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
