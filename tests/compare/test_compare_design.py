"""Designs: what a file may say, which trials it means, and how a learning rate is chosen."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("yaml", reason=NEEDS)

from tsloss_fast.compare.design import Design, load_design, preset_names, trial_key
from tsloss_fast.compare.methods import METHODS, find_method
from tsloss_fast.compare.parts import Search
from tsloss_fast.compare.plan import Plan

SMALL: dict[str, Any] = {
    "name": "small",
    "tasks": ["boolean"],
    "methods": ["ce", "tsloss"],
    "seeds": [0, 1],
    "search": {"trials": 3, "weights": 1, "evaluations": 1, "seeds": [7, 8]},
}


def made(**changes: Any) -> Design:
    return Design.from_mapping(SMALL | changes)


def run_of(trial: dict[str, Any], ce: float, diverged: int | None = None) -> dict[str, Any]:
    return {
        "kind": "run",
        "key": trial_key(trial),
        "trial": trial,
        "curve": [{"step": 0, "ce": 9.0}, {"step": trial["steps"], "ce": ce}],
        "diverged": diverged,
    }


def test_every_preset_is_a_design_and_survives_being_written_out() -> None:
    assert {"default", "ablation", "degenerate"} <= set(preset_names())
    for name in preset_names():
        design = load_design(name)
        assert design.name == name
        assert design.methods[0].name == "ce"
        assert len(design.seeds) >= 5
        assert Design.from_mapping(design.to_mapping()) == design


def test_the_default_and_the_ablation_hold_the_methods_they_promise() -> None:
    default = [method.name for method in load_design("default").methods]
    assert default == ["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"]
    assert len(load_design("default").tasks) == 2
    ablation = {method.name for method in load_design("ablation").methods}
    assert {"ce", "surrogate-h0", "surrogate-h1", "surrogate"} <= ablation
    assert {"connectivity", "redundancy", "tsloss", "tsloss-compact", "tsloss-loops"} <= ablation


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


def test_methods_of_a_seed_share_everything_but_what_is_compared() -> None:
    design = made()
    (group,) = design.groups()
    first, second = design.final_trials(group, {"ce": (0.01, 0.0), "tsloss": (0.02, 5.0)}, 0)
    differ = {name for name in first if first[name] != second[name]}
    assert differ == {"method", "settings", "lr", "weight"}


def test_a_trial_is_known_by_what_it_does_and_not_by_its_name() -> None:
    design = made(methods=["ce", "tsloss", {"name": "mine", "loss": "exact", "scale": 3.0}])
    (group,) = design.groups()
    chosen = {"ce": (0.01, 0.0), "tsloss": (0.02, 5.0), "mine": (0.02, 5.0)}
    final = design.final_trials(group, chosen, 0)
    ce, theirs, mine = map(trial_key, final)
    assert theirs == mine != ce
    searched = design.search_trials(group)[0]
    others: dict[str, Any] = {"stage": "other", "task": "navigate", "difficulty": 4, "seed": 9}
    others |= {"init_text": "y", "model": "m", "adapter": "prefix", "init": "text"}
    others |= {"lr_schedule": "linear"}
    # What is not looked at in this stage, and names.
    idle = {"final": {"validation_size"}, "search": {"test_size", "curve_size"}}
    for trial in (final[0], searched):
        for name, value in trial.items():
            if name == "settings":
                continue
            other = others.get(name, value + 1 if isinstance(value, (int, float)) else "tsloss")
            same = trial_key(trial | {name: other}) == trial_key(trial)
            assert same == (name in {"method", "start", *idle[trial["stage"]]}), name
    assert trial_key(final[1] | {"settings": final[1]["settings"] | {"redundancy": 2.0}}) != theirs
    # The same in another form: a default written out, an integer for a number, what ce ignores.
    assert trial_key(final[0] | {"difficulty": 3, "jitter": 0, "weight_decay": 0}) == ce
    assert trial_key(final[0] | {"settings": final[0]["settings"] | {"schedule": "decay"}}) == ce
    assert trial_key({k: v for k, v in final[0].items() if k != "lr_schedule"}) == ce


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks: expected at least one"),
        ({"tasks": "boolean"}, "tasks must be a list"),
        (
            {"tasks": ["boolean", "boolean"]},
            "tasks: expected at least one, each once|tasks: number",
        ),
        ({"tasks": [{"task": "boolean", "length": 3}]}, "a task has no length"),
        ({"tasks": [{"task": "boolean", "steps": 0}]}, "task 'boolean': steps must be an integer"),
        (
            {"tasks": [{"task": "boolean", "curve_size": 999}]},
            "curve_size must be in 1 … test_size",
        ),
        ({"tasks": [{"task": "boolean", "accuracy_threshold": 1.5}]}, "accuracy_threshold in"),
        ({"methods": ["ce", "ce"]}, "each once"),
        ({"methods": ["adam"]}, "method must be one of ce, l2"),
        ({"methods": [{"name": "mine"}]}, "so it needs a loss"),
        ({"methods": [{"loss": "exact"}]}, "a method needs a name"),
        ({"methods": [{"name": "m", "loss": "exact", "when": 1}]}, "a method has no when"),
        ({"methods": [{"name": "m", "loss": "exact", "schedule": "soon"}]}, "schedule must be one"),
        ({"methods": [{"name": "m", "loss": "exact", "where": "logits"}]}, "where must be one of"),
        ({"methods": [{"name": "m", "loss": "exact", "connectivity": -1.0}]}, "connectivity"),
        ({"seeds": []}, "seeds: expected different integers"),
        ({"seeds": [0, 0]}, "seeds: expected different integers"),
        ({"seeds": [7, 1]}, "must differ, or what was chosen is tested on its own items"),
        ({"search": {"trials": 0}}, "search: trials must be an integer"),
        ({"search": {"lr": [0.1, 0.01]}}, "search: lr must be"),
        ({"search": {"weight": [0.1]}}, "search: weight must be"),
        ({"starts": [{"name": "x", "init": "text"}]}, "init_text belongs to init: text"),
        ({"starts": [{"name": "x", "init": "zeros"}]}, "init must be one of"),
        ({"adapters": ["lora"]}, "adapters must be of prompt, prefix"),
        ({"adapters": ["prefix"], "methods": ["ce", "tsloss-hidden"]}, "does not have"),
        ({"virtual_tokens": [0]}, "virtual_tokens must be an integer of at least 1"),
        ({"speed": 3}, "the design has no speed"),
        ({"name": "../x"}, "name must be letters"),
        ({"name": None}, "name must be letters"),
        ({"lr": "1e-2"}, "the design: lr must be a number, got '1e-2' .YAML takes"),
        ({"search": {"lr": ["1e-3", 0.1]}}, "search: lr must be a number"),
        ({"search": {"trials": 5, "weights": 2}}, "must be a multiple of weights"),
        (
            {"methods": [{"name": "m", "loss": "exact", "scale": "1e1"}]},
            "a method: scale must be a number",
        ),
        ({"methods": [5]}, "a method must be a mapping, got 5"),
        ({"primary": ["acc"]}, "primary must be some of"),
        ({"primary": []}, "primary must be some of"),
        ({"lr_schedule": "cosine"}, "lr_schedule must be one of constant, linear"),
        (
            {"tasks": ["boolean", {"task": "boolean", "batch_size": 4}]},
            "tasks: number 1 and number 2 have the same task, difficulty, train_size and steps",
        ),
        (
            {"methods": ["ce", "tsloss", {"name": "mine", "loss": "exact"}]},
            "methods: number 2 and number 3 have the same content",
        ),
        ({"starts": ["vocabulary", {"name": "again"}]}, "starts: number 1 and number 2"),
        ({"confidence": 1.0}, "confidence must be between"),
    ],
)
def test_a_bad_design_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_file_is_read_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntasks: [boolean]\nmethods: [ce, l2]\n", encoding="utf-8")
    assert load_design(str(path)).name == "mine"
    assert load_design(str(path), {"seeds": [5]}).seeds == (5,)
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: not YAML"):
        load_design(str(path))
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: expected a mapping, got list"):
        load_design(str(path))
    path.write_text("name: mine\ntasks: [boolean]\nmethods: [what]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: method must be one of"):
        load_design(str(path))
    with pytest.raises(FileNotFoundError, match=r"neither a file nor one of ablation, default"):
        load_design("defualt")


def test_schedules_begin_and_end_where_they_say() -> None:
    shares = {
        name: [find_method(f"tsloss-{name}").share(step, 40) for step in (1, 5, 10, 20, 30, 40)]
        for name in ("warmup", "decay", "anneal", "early")
    }
    assert shares["warmup"] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
    assert shares["decay"] == pytest.approx([39 / 40, 35 / 40, 30 / 40, 0.5, 0.25, 0])
    half = [0.5 * (1 + math.cos(math.pi * step / 40)) for step in (1, 5, 10, 20, 30, 40)]
    assert shares["anneal"] == pytest.approx(half)
    assert shares["early"] == [1, 1, 1, 0, 0, 0]
    assert find_method("tsloss").share(1, 40) == find_method("tsloss").share(40, 40) == 1.0
