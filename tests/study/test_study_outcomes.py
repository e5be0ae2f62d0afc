"""Outcomes of runs by hand, the groups of runs, and the mean over learning rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_records import START, TASK, make_design, make_pairs, make_run
from tsloss_fast.benchmarks.study.outcomes import (
    CENSORED,
    group_names,
    read_study,
    run_outcomes,
)


def test_the_outcomes_of_a_run_are_those_computed_by_hand() -> None:
    run = make_run(
        accuracy=(0.5, 0.8, 0.6), ce=(2.0, 0.5, 0.7), losses=(1, 0.8, 0.4, 0.3, 1, 1, 1, 0.5)
    )
    found = run_outcomes(run, TASK)
    assert found["train_ce"] == pytest.approx(6.0 / 8)
    assert found["final_accuracy"] == 0.6
    assert found["accuracy_area"] == pytest.approx((4 * 0.65 + 4 * 0.7) / 8)
    assert found["steps_to_accuracy"] == 4
    assert found["steps_to_ce"] == 4
    assert found["steps_to_train_ce"] == math.log2(3)
    assert found["final_ce"] == 0.7
    assert found["coefficient_of_variation"] == 0.05
    assert not any(found[late] for late in CENSORED.values())


def test_a_threshold_that_is_never_reached_counts_all_steps_and_is_censored() -> None:
    found = run_outcomes(make_run(), TASK)
    assert (found["steps_to_accuracy"], found["steps_to_ce"]) == (8, 8)
    assert found["steps_to_train_ce"] == 3
    assert all(found[late] for late in CENSORED.values())
    found = run_outcomes(make_run(), {})
    assert all(math.isnan(found[name]) and not found[late] for name, late in CENSORED.items())


def test_a_run_that_diverged_has_no_mean_loss_and_keeps_its_last_accuracy() -> None:
    run = make_run(accuracy=(0.2, 0.4), ce=(2.0, None), losses=(1.0, None, 2.0), diverged=3)
    run["end"] = {"accuracy": None, "ce": None}
    found = run_outcomes(run, TASK)
    assert all(math.isnan(found[name]) for name in ("train_ce", "final_accuracy", "final_ce"))
    assert found["accuracy_area"] == pytest.approx((4 * 0.3 + 4 * 0.4) / 8)
    assert found["steps_to_ce"] == 8
    assert found[CENSORED["steps_to_ce"]]


def test_a_seed_without_a_rate_of_the_grid_does_not_count() -> None:
    runs = [make_run("ce", seed, lr=lr) for seed, lr in ((0, 0.01), (0, 0.02), (1, 0.01))]
    assert read_study([make_design(lr=[0.01, 0.02]), *runs]).seeds.seed.tolist() == [0]
    assert read_study([make_design(lr=[0.01, 0.03]), *runs]).seeds.empty


def test_one_rate_without_an_outcome_leaves_the_seed_without_it() -> None:
    runs = [make_run("ce", 0, lr=0.01), make_run("ce", 0, lr=0.02, losses=(1.0,), diverged=1)]
    seeds = read_study([make_design(lr=[0.01, 0.02]), *runs]).seeds
    assert np.isnan([seeds.train_ce[0], seeds.final_accuracy[0]]).all()
    assert seeds.accuracy_area[0] > 0
    assert seeds.diverged[0] == 1


def test_a_run_that_ends_early_or_diverges_lacks_what_its_training_does_not_tell() -> None:
    early = read_study([make_design(), make_run(stop_train_ce=0.4)]).runs.iloc[0]
    assert np.isnan(early.train_ce)
    assert early.final_accuracy == 0.7
    diverged = read_study([make_design(), make_run(diverged=9)]).runs.iloc[0]
    assert np.isnan([diverged.final_accuracy, diverged.final_ce]).all()


def test_runs_of_other_designs_are_not_among_the_runs() -> None:
    study = read_study([make_design(), make_run(), make_run("ce", 1, steps=4)])
    assert study.runs.seed.tolist() == [0]


def test_an_arm_with_its_own_start_is_in_the_group_of_the_others() -> None:
    jitter = {**START, "name": "x, jittered", "jitter": 0.01}
    records = [
        make_design(["ce", "tsloss", {"name": "ce-jitter", "start": jitter}]),
        make_run("ce-jitter", 0, start=jitter),
        *make_pairs([0.1]),
    ]
    study = read_study(records)
    assert study.begun == [0]
    assert study.arms_of(0) == ["ce", "tsloss", "ce-jitter"]


def test_groups_are_those_of_the_design_with_runs_or_without() -> None:
    other = {**START, "name": "y", "init_text": "y"}
    study = read_study([make_design(starts=[other, START]), make_run()])
    assert (len(study.groups), study.begun) == (2, [1])
    assert group_names(study.groups) == ["boolean, from y", "boolean, from x"]
    # A name may be that of a file, and cannot move the cursor.
    harder = {**TASK, "task": "a\x1b[2J", "difficulty": 5, "steps": 4}
    study = read_study([make_design(tasks=[TASK, harder]), make_run()])
    assert group_names(study.groups)[1] == "a\\x1b[2J, difficulty 5, 4 steps"
