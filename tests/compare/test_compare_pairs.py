"""Which runs of an experiment are compared with which, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from made_records import PLAN, make_design, make_pairs, make_run

from tsloss_fast.compare.comparison import Comparison, Experiment, read_experiment
from tsloss_fast.compare.outcomes import (
    OUTCOMES,
)
from tsloss_fast.compare.statistics import (
    holm,
)

# How long one takes depends on who else uses the machine.
few = settings(deadline=None, max_examples=40)


def compared(experiment: Experiment, method: str, outcome: str, group: int = 0) -> Comparison:
    (found,) = (
        entry
        for entry in experiment.compare(experiment.groups[group])
        if (entry.method, entry.outcome.name) == (method, outcome)
    )
    return found


def test_only_runs_of_one_seed_are_paired_and_the_rest_is_said() -> None:
    runs = make_pairs([0.1, 0.1, 0.1, 0.2])
    lacking = [r for r in runs if (r["trial"]["method"], r["trial"]["seed"]) != ("ce", 1)]
    found = compared(read_experiment([make_design(), *lacking]), "tsloss", "final_accuracy")
    assert found.difference.pairs == 3
    assert found.difference.mean == pytest.approx(0.4 / 3)
    assert found.missing == (1,)


def test_records_in_another_order_give_the_same_numbers() -> None:
    runs = make_pairs([0.1, -0.02, 0.03, 0.0, 0.2])
    first = read_experiment([make_design(), *runs])
    again = read_experiment([make_design(), *runs[::-1]])
    assert [c.difference for c in first.compare(first.groups[0])] == [
        c.difference for c in again.compare(again.groups[0])
    ]


def test_groups_differ_in_what_their_runs_share_and_are_never_paired_across() -> None:
    runs = [
        *make_pairs([0.1] * 5),
        *make_pairs([-0.1] * 5, start="repeated"),
        *make_pairs([0.0] * 5, virtual_tokens=20),
        *make_pairs([0.3] * 5, adapter="prefix"),
    ]
    for index, run in enumerate(runs):
        run["key"] = str(index)
    experiment = read_experiment([make_design(), *runs])
    assert len(experiment.groups) == 4
    means = [
        compared(experiment, "tsloss", "final_accuracy", group).difference.mean
        for group in range(4)
    ]
    assert means == pytest.approx([0.1, -0.1, 0.0, 0.3])


def test_the_first_run_of_a_key_or_seed_counts_and_runs_of_the_search_do_not() -> None:
    runs = make_pairs([0.1] * 5)
    again = {**make_run("tsloss", 0, accuracy=1.0), "key": runs[1]["key"]}
    other = {**make_run("tsloss", 0, accuracy=0.0), "key": "other"}
    search = make_run("tsloss", 0, accuracy=0.9, stage="search")
    experiment = read_experiment([make_design(), *runs, again, other, search])
    assert compared(experiment, "tsloss", "final_accuracy").difference.mean == pytest.approx(0.1)
    assert experiment.groups[0].repeated == 1
    assert len(experiment.searching) == 1


def test_one_run_under_two_names_is_compared_under_both() -> None:
    runs = make_pairs([0.1] * 5)
    twins = [{**r, "trial": {**r["trial"], "method": "twin"}} for r in runs[1::2]]
    experiment = read_experiment([make_design(("ce", "tsloss", "twin")), *runs, *twins])
    first, second = (
        compared(experiment, name, "final_accuracy").difference for name in ("tsloss", "twin")
    )
    assert first == second
    assert experiment.groups[0].repeated == 0


def test_of_two_designs_the_last_counts() -> None:
    first, last = make_design(("ce", "l2")), make_design(("ce", "l2", "hofer"))
    assert read_experiment([first, last]).methods == ("ce", "l2", "hofer")


def test_better_is_fewer_steps_more_accuracy_and_less_cross_entropy() -> None:
    runs = [
        run
        for seed in range(5)
        for run in (
            make_run("ce", seed, accuracy=[0.5] * 5 + [0.8] * 2, ce=[0.6] * 5 + [0.5] * 2),
            make_run("tsloss", seed, accuracy=[0.5] * 2 + [0.9] * 5, ce=[0.6] * 6 + [0.49]),
        )
    ]
    experiment = read_experiment([make_design(), *runs])
    found = {c.outcome.name: c for c in experiment.compare(experiment.groups[0])}
    assert found["steps_to_accuracy"].difference.mean == -30
    assert {name: c.verdict for name, c in found.items()} == {
        "final_accuracy": "better",
        "accuracy_area": "better",
        "steps_to_accuracy": "better",
        "steps_to_ce": "worse",
        "final_ce": "better",
    }
    assert found["steps_to_accuracy"].seeds_better == (5, 0, 0)
    assert found["steps_to_ce"].seeds_better == (0, 5, 0)
    group = experiment.groups[0]
    (cv,) = experiment.compare(group, [OUTCOMES["coefficient_of_variation"]])
    assert cv.verdict == "lower"


def test_pairs_that_never_reached_the_threshold_are_counted() -> None:
    runs = make_pairs([0.1, 0.0, 0.3])  # Of flat curves at 0.6, 0.61, 0.62 the last gains to 0.92.
    found = compared(read_experiment([make_design(), *runs]), "tsloss", "steps_to_accuracy")
    assert found.censored == 3
    assert found.difference.mean == -20
    assert found.seeds_better == (1, 0, 2)
    lacking = compared(read_experiment([make_design(), *runs[1:]]), "tsloss", "steps_to_accuracy")
    assert (lacking.difference.pairs, lacking.censored) == (2, 2)
    flat = compared(read_experiment([make_design(), *runs]), "tsloss", "final_accuracy")
    assert flat.censored == 0


def test_p_is_adjusted_over_the_primary_outcomes_of_all_methods_of_a_group() -> None:
    runs = [*make_pairs([0.1] * 8), *make_pairs([0.2] * 7 + [-0.2], "l2")[1::2]]
    experiment = read_experiment([make_design(("ce", "tsloss", "l2")), *runs])
    group = experiment.groups[0]
    found = experiment.compare(group)
    primary = [c for c in found if c.outcome.name in experiment.primary]
    assert len(primary) == 8
    # The steps to CE, which nobody reached, are not tested.
    tested = [c for c in primary if c.outcome.name != "steps_to_ce"]
    assert [c.holm for c in tested] == holm([c.difference.p for c in tested])
    assert all(c.never and c.difference is None for c in primary if c not in tested)
    assert all(c.holm is None for c in found if c.outcome.name == "final_ce")
    # Asked for one outcome, the others still count.
    alone = experiment.compare(group, [OUTCOMES["final_accuracy"]])
    assert [c.outcome.name for c in alone] == ["final_accuracy"] * 2
    assert [c.holm for c in alone] == [c.holm for c in found if c.outcome.name == "final_accuracy"]


def test_the_design_says_baseline_confidence_and_primary_outcomes() -> None:
    design = make_design(("l2", "ce"), confidence=0.8, primary=["final_ce"], bootstrap=77)
    experiment = read_experiment([design, *make_pairs([0.1, 0.2], "l2")])
    assert experiment.baseline == "l2"
    assert experiment.methods == ("l2", "ce")
    assert (experiment.confidence, experiment.resamples) == (0.8, 77)
    (found,) = experiment.compare(experiment.groups[0])
    assert (found.method, found.outcome.name) == ("ce", "final_ce")
    assert found.holm is not None
    with pytest.raises(ValueError, match=r"primary outcomes must be of .* got speed"):
        read_experiment([make_design(primary=["speed"])])
    older = {"kind": "experiment", "name": "x", "design": {"outcomes": {"baseline": "tsloss"}}}
    assert read_experiment([older]).baseline == "tsloss"


def test_groups_come_in_the_order_of_the_design_and_those_not_begun_are_known() -> None:
    plans = [{**PLAN, "task": name} for name in ("reviews", "boolean", "navigate")]
    runs = [
        *make_pairs([0.1] * 2, plan=plans[1]),
        *make_pairs([0.1] * 2, plan=plans[0]),
    ]
    experiment = read_experiment([make_design(tasks=plans), *runs])
    assert [group.shared["task"] for group in experiment.groups] == ["reviews", "boolean"]
    assert [group.shared["task"] for group in experiment.not_begun] == ["navigate"]
    assert experiment.groups[0].plan["task"] == "reviews"


@few
@given(st.permutations(range(10)))
def test_no_order_of_lines_changes_an_experiment(order: list[int]) -> None:
    runs = make_pairs([0.1, -0.02, 0.03, 0.0, 0.2])
    found = read_experiment([*(runs[index] for index in order), make_design()])
    assert found.groups == read_experiment([make_design(), *runs]).groups
