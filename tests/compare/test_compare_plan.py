"""Plans: what a search tries, what is chosen from it, and in which order jobs come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("yaml", reason=NEEDS)

from made_designs import made

from tsloss_fast.compare.methods import METHODS
from tsloss_fast.compare.parts import Search
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.trial import trial_key


def run_of(trial: dict[str, Any], ce: float, diverged: int | None = None) -> dict[str, Any]:
    return {
        "kind": "run",
        "key": trial_key(trial),
        "trial": trial,
        "curve": [{"step": 0, "ce": 9.0}, {"step": trial["steps"], "ce": ce}],
        "diverged": diverged,
    }


def test_every_method_has_as_many_trials_and_every_rate_meets_every_weight() -> None:
    search = Search(trials=6, weights=2, lr=(0.01, 0.1), weight=(0.5, 2))
    rates = [rate for rate, _ in search.points(METHODS["ce"])]
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([10**0.2] * 5, rel=0.01)
    for method in METHODS.values():
        points = search.points(method)
        assert len(points) == len(set(points)) == 6
        assert {rate for rate, _ in points} <= {0.01, 0.0316, 0.1} | set(rates)
        if method.adds_nothing:
            assert points == [(rate, 0.0) for rate in rates]
        else:
            weights = {weight for _, weight in points}
            assert sorted(weights) == pytest.approx([0.5 * method.scale, 2 * method.scale])
            assert {(r, w) for r in (0.01, 0.0316, 0.1) for w in weights} == set(points)
    assert Search(trials=1, weights=1, lr=(0.01, 0.04)).points(METHODS["ce"]) == [(0.02, 0.0)]


def test_a_latin_hypercube_has_every_rate_and_every_weight_once() -> None:
    search = Search(trials=6, weights=None, lr=(0.01, 0.1), weight=(0.1, 10))
    for method in METHODS.values():
        points = search.points(method)
        assert [rate for rate, _ in points] == [rate for rate, _ in search.points(METHODS["ce"])]
        weights = sorted(weight for _, weight in points)
        if not method.adds_nothing:
            expected = [method.scale * 0.1 * 100 ** (k / 5) for k in range(6)]
            assert weights == pytest.approx(expected, rel=0.01)
            assert weights != [weight for _, weight in points]


def test_the_lowest_mean_validation_cross_entropy_is_chosen() -> None:
    design = made()
    (group,) = design.groups()
    trials = design.search_trials(group)
    assert len(trials) == 2 * 2 * 3
    assert {trial["stage"] for trial in trials} == {"search"}
    assert {trial["eval_every"] for trial in trials} == {group.plan.steps}
    runs = {}
    for number, trial in enumerate(trials):
        ce = {"ce": [0.5, 0.4, 0.6], "tsloss": [0.7, 0.8, 0.6]}[trial["method"]][number % 3]
        # The seeds disagree: only their mean counts.
        ce += 0.3 if trial["seed"] == 8 and number % 3 == 1 else 0.0
        runs[trial_key(trial)] = run_of(trial, ce)
    chosen = design.choose(group, runs)
    assert chosen is not None
    points = design.search.points(design.methods[1]) if design.search else []
    assert (chosen["ce"]["lr"], chosen["ce"]["weight"]) == (0.01, 0.0)
    assert (chosen["tsloss"]["lr"], chosen["tsloss"]["weight"]) == points[2]
    criteria = [trial["criterion"] for trial in chosen["ce"]["trials"]]
    assert criteria == pytest.approx([0.5, 0.55, 0.6])
    missing = dict(list(runs.items())[:-1])
    assert design.choose(group, missing) is None


def test_the_choice_rests_on_the_second_half_of_a_training() -> None:
    design = made(search={"trials": 1, "weights": 1, "evaluations": 3, "seeds": [7]})
    (group,) = design.groups()
    trials = design.search_trials(group)
    assert {trial["eval_every"] for trial in trials} == {group.plan.steps // 4}
    curve = [{"step": 15 * k, "ce": float(k)} for k in range(5)]
    runs = {trial_key(t): run_of(t, 0.0) | {"curve": curve} for t in trials}
    chosen = design.choose(group, runs)
    assert chosen is not None
    assert chosen["ce"]["trials"] == [{"lr": 0.0316, "weight": 0.0, "criterion": 3.0}]


def test_a_run_that_diverged_is_never_chosen() -> None:
    search = {"trials": 2, "weights": 1, "evaluations": 1, "seeds": [7]}
    design = made(search=search)
    (group,) = design.groups()
    trials = design.search_trials(group)
    runs = {trial_key(t): run_of(t, 0.5, 3 if t["lr"] == 0.01 else None) for t in trials}
    for run in runs.values():
        if run["diverged"]:
            run["curve"][-1]["ce"] = 0.1
    chosen = design.choose(group, runs)
    assert chosen is not None
    assert chosen["ce"]["lr"] == 0.1
    assert chosen["ce"]["trials"][0]["criterion"] is None
    for run in runs.values():
        run["diverged"] = 1
    chosen = design.choose(group, runs)
    assert chosen is not None
    assert chosen["tsloss"]["lr"] == 0.01


def test_without_a_search_each_method_has_its_scale() -> None:
    design = made(search=None, lr=0.02)
    (group,) = design.groups()
    chosen = design.choose(group, {})
    assert chosen is not None
    assert (chosen["tsloss"]["lr"], chosen["tsloss"]["weight"]) == (0.02, 10.0)
    assert design.search_trials(group) == []
    done, total = Plan(design, {}).progress()
    assert (done, total) == (0, 4)


def test_a_plan_searches_before_it_compares_and_forgets_nothing() -> None:
    design = made(cohort=4)
    runs: dict[str, Any] = {}
    seen = []
    while jobs := list(Plan(design, runs).ready()):
        # Some job, not the first: a kill may leave any of them undone.
        job = jobs[len(seen) % len(jobs)]
        stages = {trial["stage"] for trial in job.trials}
        seen.append(stages.pop())
        assert not stages
        assert len(job.trials) <= 4
        assert len({trial["seed"] for trial in job.trials}) == 1
        for trial in job.trials:
            assert trial_key(trial) not in runs
            runs[trial_key(trial)] = run_of(trial, trial["lr"])
    assert seen == sorted(seen, reverse=True)
    assert Plan(design, runs).progress() == (16, 16)
    lines = Plan(design, runs).lines()
    assert [line["kind"] for line in lines] == ["experiment"] + 2 * ["choice"] + 16 * ["run"]


def test_jobs_are_the_same_when_a_plan_is_made_again() -> None:
    design = made(cohort=4)
    jobs = list(Plan(design, {}).ready())
    runs: dict[str, Any] = {trial_key(trial): run_of(trial, 1.0) for trial in jobs[0].trials}
    again = list(Plan(design, runs).ready())
    assert [job.identity for job in again] == [job.identity for job in jobs[1:]]
