"""Designs: what a file may say, and which trials it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_designs import TASK, made, trials
from tsloss_fast.benchmarks.study.design import load_design, trial_key

PRESETS = ("ablation", "default", "degenerate", "long", "quick", "schedules")
JITTER = {"name": "x", "init": "text", "init_text": "x", "jitter": 0.01}
ARM = {"name": "m", "loss": "tsloss"}


SEEDS = {"convergence": 24, "degenerate": 24, "few_shot": 24}


def test_every_preset_is_a_design_and_survives_being_written_out(tmp_path: Path) -> None:
    for name in PRESETS:
        design = load_design(name)
        assert design.name == name
        assert design.methods[0].name == "ce"
        # A study that decides has the seeds that its power needs.
        assert name == "quick" or len(design.seeds) == SEEDS.get(name, 5)
        assert made(tmp_path, **design.to_mapping()) == design


def test_arms_of_a_seed_share_everything_but_what_is_compared(tmp_path: Path) -> None:
    own = {"name": "own", "loss": "ce", "start": JITTER}
    cohort = trials(tmp_path, ["ce", {"name": "tsloss", "weight": 3}, own], lr=[0.1, 0.2])
    assert [(t["method"], t["lr"], t["weight"]) for t in cohort] == [
        *(("ce", 0.1, 0), ("ce", 0.2, 0), ("tsloss", 0.1, 3)),
        *(("tsloss", 0.2, 3), ("own", 0.1, 0), ("own", 0.2, 0)),
    ]
    differ = {name for t in cohort for name in t if t[name] != cohort[0][name]}
    assert differ == {"method", "settings", "lr", "weight", "start", "init", "init_text", "jitter"}
    four = made(tmp_path, lr=[0.1, 0.2], methods=["ce", "l2"], cohort=3)
    assert [len(cohort) for cohort in four.cohorts()] == [2, 2]


def test_a_trial_is_known_by_what_it_does_and_not_by_its_names(tmp_path: Path) -> None:
    (trial,) = trials(tmp_path, ["tsloss"])
    others: dict[str, Any] = {"settings": {"loss": "ce"}, "init_text": "y"}
    for name, value in trial.items():
        other = others.get(name, value + 1 if isinstance(value, (int, float)) else "other")
        same = trial_key(trial | {name: other}) == trial_key(trial)
        assert same == (name in {"method", "start"}), name
    # A default that is written out, an integer for a number.
    task = {"difficulty": 3}
    (again,) = trials(tmp_path, [ARM | {"weight": 10}], task=task, weight_decay=0)
    assert trial_key(again) == trial_key(trial)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks: expected a list with an entry"),
        ({"models": ["x", None]}, "models, number 2: expected visible text, got None"),
        ({"models": ["a\x1b"]}, "expected visible text"),
        ({"tasks": [{"steps": 3}]}, "missing 1 required positional argument: 'task'"),
        ({"tasks": [TASK | {"length": 3}]}, "number 1: key: got 'length', expected one of task,"),
        ({"tasks": [TASK | {"steps": 0}]}, "steps: expected an integer of at least 1, got 0"),
        ({"tasks": [TASK | {"curve_size": 17}]}, "curve_size 17 > test_size 16"),
        ({"tasks": [TASK, TASK | {"batch_size": 4}]}, "tasks: number 1 and number 2 are the same"),
        ({"methods": ["adam"]}, "got 'adam', expected one of ce, l2"),
        ({"methods": [ARM, ARM | {"name": "n"}]}, "methods: number 1 and number 2 are the same"),
        ({"methods": [ARM, ARM | {"weight": 3}]}, "names of methods: number 1 and number 2"),
        ({"methods": [ARM | {"loss": "l3"}]}, "loss: got 'l3'"),
        ({"methods": [ARM | {"weight": "1e1"}]}, "takes 1e-2 for text.*, got '1e1'"),
        ({"methods": [ARM | {"weight": 0}]}, "got the weight 0"),
        ({"methods": [ARM | {"arguments": {"alpha": 3}}]}, "method 'm': alpha: got 3"),
        ({"methods": [{"name": "l2", "arguments": {"p": 3}}]}, "the loss l2 has no arguments"),
        ({"seeds": [0, 0]}, "seeds: number 1 and number 2 are the same"),
        ({"seeds": [True]}, "an integer of at least 0, got True"),
        ({"starts": [{"name": "x", "init": "text"}]}, "init_text belongs to init: text alone"),
        ({"name": "../x"}, "name: got '../x'"),
        ({"lr": [0]}, "lr must be above 0"),
        ({"primary": ["acc"]}, "primary, number 1: got 'acc'"),
        ({"margins": {"final_accuracy": "a"}}, "margins: expected a number"),
    ],
)
def test_a_bad_design_is_refused_in_words(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"small\.yaml: .*{message}"):
        made(tmp_path, **changes)


def test_a_file_that_is_not_a_design_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for content, message in {
        b"name: [": "not YAML",
        b"- a": "expected a mapping, got",
        b"name: a\nmethods: [ce]\ntasks:\n"
        b"- {task: boolean, stop_train_ce: 1, train_ce_threshold: 0.5}": "stop_train_ce 1.0 >",
        b"name: caf\xe9": "0xe9",
        b"lr: [0.1]\nname: a\nlr: [0.3]": "not YAML .line 1: a key is given twice",
        b"models: " + b"[" * 2000: "recursion",
        b"name: mine\ntasks: [boolean]": "argument: 'methods'",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
            load_design(str(path))
    with pytest.raises(FileNotFoundError, match="neither a file nor one of ablation, conver"):
        load_design("defualt")
