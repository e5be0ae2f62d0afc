"""What a comparison says of its choices, of missing runs and of methods that are the same."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from made_records import (
    PLAN,
    Record,
    make_choice,
    make_design,
    make_experiment,
    make_pairs,
    make_run,
)
from made_tables import NOTHING, row, tables

from tsloss_fast.compare.comparison import read_experiment
from tsloss_fast.compare.summary import edge_warnings, story_tables, summarize


def test_what_was_searched_is_shown_and_the_chosen_is_bold() -> None:
    grid = {(0.01, 10.0): 0.6, (0.03, 1.0): 0.51234, (0.1, 10.0): None, (0.1, 1.0): 0.9}
    only = {(0.01, 0.0): 0.8, (0.03, 0.0): 0.7}
    choices = [make_choice("tsloss", grid, 0.03, 1.0), make_choice("ce", only, 0.03, 0.0)]
    searched = tables(summarize([make_design(), *choices, *make_pairs([0.1] * 5)]))[2]
    assert searched == [
        {"method": "ce", "lr 0.01": "0.8", "lr 0.03": "**0.7**", "lr 0.1": "–"},
        {
            "method": "tsloss",
            "lr 0.01": "0.6 (10)",
            "lr 0.03": "**0.5123 (1)**",
            "lr 0.1": "0.9 (1), diverged (10)",
        },
    ]


def test_a_choice_at_the_edge_of_what_was_tried_is_warned_of() -> None:
    def warnings(lr: float, weight: float, *rates: float) -> list[str]:
        grid = {(rate, w): 0.5 for rate in rates for w in (1.0, 10.0, 100.0)}
        choice = make_choice("tsloss", grid, lr, weight)
        experiment = read_experiment([make_design(), choice, *make_pairs([0.1] * 5)])
        return edge_warnings(experiment, experiment.groups[0])

    assert warnings(0.03, 10.0, 0.01, 0.03, 0.1) == []
    assert warnings(0.03, 10.0, 0.03) == []
    assert warnings(0.1, 10.0, 0.01, 0.03, 0.1) == [
        "Warning: the learning rate chosen for tsloss, 0.1, is the largest that was tried: a "
        "better one may lie beyond."
    ]
    both = warnings(0.01, 1.0, 0.01, 0.03, 0.1)
    assert ["smallest" in warning for warning in both] == [True, True]
    assert "weight chosen for tsloss, 1," in both[1]


def test_choices_belong_to_their_group_and_a_run_at_other_settings_is_noticed() -> None:
    grid = {(0.01, 1.0): 0.6, (0.03, 10.0): 0.5}
    elsewhere = {**make_choice("tsloss", grid, 0.01, 1.0), "task": "reviews"}
    page = summarize([make_design(), elsewhere, *make_pairs([0.1] * 5)])
    assert "Searched" not in page
    other = make_choice("tsloss", grid, 0.01, 1.0)
    page = summarize([make_design(), other, *make_pairs([0.1] * 5)])
    assert "tsloss was not run with the learning rate and weight that were chosen." in page
    right = make_choice("tsloss", grid, 0.03, 10.0)
    assert "was not run with" not in summarize([make_design(), right, *make_pairs([0.1] * 5)])


def test_an_experiment_underway_says_what_is_missing() -> None:
    plans = [PLAN, {**PLAN, "task": "reviews"}]
    search = make_run("tsloss", 1000, stage="search")
    runs = [
        r for r in make_pairs([0.1] * 3) if (r["trial"]["method"], r["trial"]["seed"]) != ("ce", 1)
    ]
    page = summarize([make_design(("ce", "tsloss", "hofer"), plans), search, *runs])
    assert "5 runs in 1 group, and 1 run of the search." in page
    assert "- Not finished: ce, seeds 1, 3, 4.\n" in page
    assert "- Not finished: tsloss, seeds 3, 4.\n" in page
    assert "- Not finished: hofer, seeds 0, 1, 2, 3, 4.\n" in page
    assert row(tables(page)[1], outcome="final accuracy")["pairs"] == "2"
    assert "## No run finished yet\n\n- reviews, smollm2" in page


def test_nothing_finished_and_no_baseline_are_said() -> None:
    assert "0 runs in 0 groups" in summarize([])
    assert story_tables([make_design()]) == "No run of the comparison is finished yet.\n"
    page = summarize([make_design()])
    assert "## No run finished yet\n\n- boolean, smollm2" in page
    page = summarize([make_design(), make_choice("tsloss", {}, 0.03, 10.0), make_run("tsloss", 0)])
    assert "Searched" not in page
    assert "No pair of runs with cross-entropy alone is finished" in page
    assert NOTHING not in page
    assert row(tables(page)[1], outcome="final accuracy")["pairs"] == "0"
    page = summarize([make_design(("l2", "ce")), *make_pairs([0.0] * 5, "l2")])
    assert "no difference to l2 has been shown in this group." in page


def test_values_that_are_not_finite_are_left_out_and_named() -> None:
    runs = make_pairs([0.1] * 5)
    runs[1]["end"]["ce"] = math.nan
    page = summarize([make_design(), *runs])
    assert "tsloss: runs without a finite end CE are left out there." in page
    assert row(tables(page)[1], outcome="end CE")["pairs"] == "4"
    assert "nan" not in page


def test_runs_that_a_table_cannot_tell_apart_are_noticed() -> None:
    other = {**make_run("tsloss", 0, weight=3.0), "key": "other"}
    page = summarize([make_design(), *make_pairs([0.1] * 5), other])
    assert "because their method and seed are there already: 1 run." in page


@pytest.mark.parametrize(
    ("items", "shown"), [(60, "0.67"), (100, "0.67"), (200, "0.667"), (1000, "0.667")]
)
def test_rates_have_no_more_digits_than_one_item_of_the_test(items: int, shown: str) -> None:
    runs = make_pairs([0.0] * 2, test_size=items)
    for run in runs:
        run["end"]["accuracy"] = 2 / 3
    assert row(tables(summarize(runs))[0], method="ce")["final accuracy"] == shown


def test_records_that_went_through_a_file_give_the_same_page() -> None:
    records: list[Record] = make_experiment(["ce", "tsloss"], ["boolean"], gains={"tsloss": 0.05})
    again = [json.loads(json.dumps(record)) for record in records]
    assert summarize(again) == summarize(iter(records)) == summarize(records)


def test_trials_and_choices_of_a_real_design_belong_to_its_groups() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    pytest.importorskip("yaml")
    from tsloss_fast.compare.design import Design, trial_key
    from tsloss_fast.compare.plan import Plan

    design = Design.from_mapping(
        {
            "name": "real",
            "tasks": [{"task": "boolean", "steps": 20}, {"task": "boolean", "difficulty": 4}],
            "methods": ["ce", {"name": "mine", "loss": "exact", "compactness": 1.0}, "tsloss"],
            "starts": ["vocabulary", {"name": "x", "init": "text", "init_text": "x x"}],
            "seeds": [3, 4],
            "search": {"trials": 2},
        }
    )
    runs: dict[str, Record] = {}
    plan = Plan(design, runs)
    while jobs := list(plan.ready()):
        for trial in (trial for job in jobs for trial in job.trials):
            run = make_run(**{**trial, "plan": {}})
            runs[trial_key(trial)] = {**run, "key": trial_key(trial)}
    experiment = read_experiment(plan.lines())
    assert len(experiment.groups) == 4
    assert not experiment.not_begun
    assert all(list(group.runs) == ["ce", "mine", "tsloss"] for group in experiment.groups)
    assert all(group.seeds == [3, 4] for group in experiment.groups)
    assert [group.plan["difficulty"] for group in experiment.groups] == [None, None, 4, 4]
    page = summarize(plan.lines())
    assert page.count("Searched on validation items") == 4
    assert "Not finished" not in page
    assert "was not run with" not in page
    assert "Left out" not in page


def test_methods_that_were_the_same_thing_are_named() -> None:
    records = [make_design(methods=("ce", "connectivity", "tsloss"))]
    for seed in range(5):
        records.append(make_run("ce", seed, accuracy=0.7))
        records.append(make_run("connectivity", seed, accuracy=0.6 + 0.01 * seed))
        records.append(make_run("tsloss", seed, accuracy=0.6 + 0.01 * seed))
    said = "connectivity and tsloss came to the same numbers in every run"
    assert said in summarize(records)
    records[-1] = make_run("tsloss", 4, accuracy=0.9)
    assert said not in summarize(records)


def test_a_redundancy_that_was_never_there_is_told() -> None:
    records = [make_design()]
    for seed in range(5):
        for method in ("ce", "tsloss"):
            run = make_run(method, seed, accuracy=0.7 + 0.01 * seed)
            run["curve"] = [{**point, "redundancy": 0.0} for point in run["curve"]]
            records.append(run)
    said = "No prompt of any run had a redundancy above 0"
    assert said in summarize(records)
    records[-1]["curve"][-1]["redundancy"] = 0.01
    assert said not in summarize(records)
