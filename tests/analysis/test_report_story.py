"""The sentences of a report state what the record holds, and the verdict follows its rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.record.writer import RecordWriter
from tsloss_fast.analysis.report.story import Course, change, number, tell, tell_task
from tsloss_fast.analysis.runs import load_run

Make = Callable[..., Course]
PERCENT = "\u00a0%"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A cloud's course from deaths by step; the tree is the path 0-1-2-… unless given."""

    def made(deaths: dict[int, Sequence[float] | None], **more: Sequence[Any]) -> Course:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.arrows"
        writer = RecordWriter(path, {"clouds": ["prompt"], "metric": "euclidean"})
        for k, (step, bars) in enumerate(deaths.items()):
            count = 0 if bars is None else len(bars)
            row: dict[str, Any] = {"step": step, "cloud": 0, "dimension": 0, "n_points": count + 1}
            row |= {"deaths": bars, "edges": [[i, i + 1] for i in range(count)]}
            if bars is not None and count and np.isfinite(bars).all():
                mean = np.mean(bars)
                row |= {"mean_lifetime": mean, "max_lifetime": max(bars)}
                row |= {"coefficient_of_variation": np.std(bars) / mean if mean else 0.0}
            writer.write([row | {name: values[k] for name, values in more.items()}])
        writer.close()
        return Course(read_record(path))

    return made


def has(story: dict[str, Any], text: str) -> bool:
    return any(text in sentence for sentence in story["sentences"])


def test_the_mean_death_is_told_with_its_steps_its_share_and_where_it_turned(make: Make) -> None:
    story = tell(make({0: [3.0, 3.1], 10: [3.5, 3.5], 20: [4.0, 4.2], 30: [4.1, 4.1]}))
    assert story["sentences"][:2] == [
        f"Between step 0 and step 30 the mean death rose from 3.05 to 4.1 (+34{PERCENT}).",
        # Half of 1.05 above 3.05 is 3.575, first passed at step 20.
        "Half of that change was reached at step 20.",
    ]
    peaked = tell(make({0: [3.0, 3.0], 5: [9.0, 9.0], 10: [3.01, 3.01]}))
    assert has(peaked, "the mean death stayed at 3.01")
    assert has(peaked, "It was highest at step 5: 9.")
    assert not has(peaked, "Half of that change")
    assert tell(make({0: [2.0]}))["sentences"][0] == "The mean death is 2 at step 0."


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [
        ([0.3, 0.09, 0.004, 0.003], "Since step 2 the bars are even: coefficient of variation "
         "below 0.01 (0.003 at step 3, 0.3 at step 0)"),
        # One record at the tightest level is no course: the level that lasted is named.
        ([0.3, 0.04, 0.03, 0.001], "Since step 1 the bars are even: coefficient of variation "
         "below 0.05"),
        ([0.3, 0.003, 0.3, 0.003], "At step 3 the bars are even: coefficient of variation "
         "below 0.1"),
        ([0.05, 0.05, 0.05, 0.06], "In every record the bars are even"),
        ([0.05, 0.05, 0.05, 0.2], "The bars are uneven: coefficient of variation 0.2 at step 3"),
    ],
)  # fmt: skip
def test_evenness_is_told_from_the_step_since_which_it_lasts(
    make: Make, spreads: list[float], expected: str
) -> None:
    story = tell(make({k: [1 - s, 1 + s] for k, s in enumerate(spreads)}))
    assert has(story, expected)
    assert story["rules"][3]["holds"] is (spreads[-1] < 0.1)
    assert story["rules"][3]["records"] == f"{sum(s < 0.1 for s in spreads)} of 4"


def test_pairs_that_nearly_coincide_are_named_with_their_distance_and_since_when(
    make: Make,
) -> None:
    wide, close = [1.0] * 5, [0.2, 1.2, 1.2, 1.2, 1.2]
    edges = [[[0, 1], [1, 2], [2, 4], [4, 5], [3, 5]], [[3, 5], [0, 1], [1, 2], [2, 4], [4, 5]]]
    course = make(
        {0: close, 10: wide, 20: close, 30: close}, edges=[edges[k] for k in (1, 0, 1, 1)]
    )
    story = tell(course, lambda i: f"token {i} (‘{'abcdef'[i]}’)")
    assert (
        "Token 3 (‘d’) and token 5 (‘f’) nearly coincide since step 20: their distance is 0.2 of "
        "the mean death."
    ) in story["sentences"]
    assert story["verdict"] == "Not healthy at step 30: 1 nearly coinciding pair"
    assert story["kind"] == "bad"
    assert [rule["holds"] for rule in story["rules"]] == [True, False, True, False]
    assert story["rules"][1]["records"] == "1 of 4"
    many = tell(make({0: [0.1] * 5 + [5.0]}))
    assert sum("nearly coincide at step 0" in sentence for sentence in many["sentences"]) == 3
    assert has(many, "So do 2 more pairs of neighbours in the tree.")
    parted = tell(make({0: [0.1, 1.0, 1.0], 10: [1.0, 1.0, 1.0]}))
    assert has(parted, "At step 0 1 pair nearly coincided; none does since step 10.")
    assert parted["kind"] == "good"


def test_a_gap_is_told_with_the_groups_on_its_two_sides(make: Make) -> None:
    # The path 0-1-…-6 with a long edge between 3 and 4: four tokens and three.
    bars, edges = [1.0] * 5 + [4.0], [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6], [3, 4]]
    story = tell(make({0: [1.0] * 6, 5: bars, 9: bars}, edges=[edges] * 3))
    assert has(
        story,
        "The prompt splits into 2 groups of 4 and 3 tokens since step 5: the longest bar is 2.67 "
        "times the mean.",
    )
    assert story["verdict"] == "Not healthy at step 9: a gap (longest bar 2.67 × mean)"
    lonely = tell(make({0: bars}, edges=[[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]]))
    assert has(lonely, "Token 6 stands apart from the others at step 0")
    closed = tell(make({0: bars, 4: [1.0] * 6}, edges=[edges] * 2))
    assert has(closed, "none is above 2 times since step 4")


def test_changed_merges_are_told_where_they_were_most(make: Make) -> None:
    some = [[0, 2], [1, 2]]
    moving = make(
        dict.fromkeys((0, 10, 20, 30), (1.0, 1.0, 1.0)), edges_added=[None, some[:1], some, []]
    )
    assert has(
        tell(moving),
        "2 of 3 merges changed between step 10 and step 20; none has changed since step 20.",
    )
    still = make(dict.fromkeys((0, 10), (1.0, 1.0, 1.0)), edges_added=[None, []])
    assert has(tell(still), "The merges are the same in all 2 records")
    # A record that follows one without bars has nothing to be compared with.
    broken = make({0: None, 10: [1.0] * 3}, edges_added=[None, some])
    assert not has(tell(broken), "merges changed")


def test_movement_and_rest_are_told(make: Make) -> None:
    course = make(
        dict.fromkeys(range(5), (2.0, 2.0)),
        displacement_first=[None, 1.0, 2.0, 2.5, 3.0],
        bottleneck_previous=[None, 0.5, 0.001, 0.001, 0.001],
    )
    moved = "Since step 0 a token has moved by 3 on average, 1.5 times the first mean death."
    assert has(tell(course), moved)
    assert has(tell(course), "The barcode has been at rest since step 2:")
    restless = make(dict.fromkeys(range(3), (2.0, 2.0)), bottleneck_previous=[None, 0.001, 0.001])
    assert not has(tell(restless), "at rest")


def test_only_finite_bars_are_judged_and_points_that_coincide_are_told(make: Make) -> None:
    broken = tell(make({0: [1.0, 1.0], 10: None}))
    assert broken["verdict"] == "Not healthy at step 10: deaths that are not finite"
    assert has(broken, "1 of 2 records hold deaths that are not finite, the first at step 10")
    assert [rule["holds"] for rule in broken["rules"]] == [False, None, None, None]
    assert tell(make({0: [1.0, np.inf]}))["rules"][0]["holds"] is False
    healed = tell(make({0: None, 10: [1.0, 1.0]}))
    assert (healed["kind"], healed["rules"][0]["records"]) == ("good", "1 of 2")
    single = tell(make({0: [], 10: []}))
    assert single["verdict"] == "Nothing to judge at step 10: no bars (fewer than two tokens)"
    assert single["kind"] == "none"
    same = tell(make({0: [0.0, 0.0]}))
    assert same["verdict"] == "Not healthy at step 0: all 3 tokens coincide"
    assert has(same, "All tokens coincide: every bar has length 0.")
    assert not has(same, "nan")


def test_a_healthy_prompt_is_called_healthy_by_the_three_rules(make: Make) -> None:
    story = tell(make({0: [1.0, 1.0, 1.1]}))
    assert story["verdict"] == "Healthy at step 0: no pair nearly coincides, no gap; bars even"
    assert [rule["rule"] for rule in story["rules"]] == [
        "every death is a finite number",
        "every death ≥ 0.5 × mean",
        "longest bar ≤ 2 × mean",
        "coefficient of variation < 0.1",
    ]


def test_numbers_and_changes_are_written_as_a_person_would() -> None:
    assert [number(x) for x in (3.0512, 0.00616, -2, 12345.6, 0)] == [
        "3.05", "0.00616", "−2", "12346", "0",
    ]  # fmt: skip
    assert number(float("nan")) == "nan"
    assert change(4.0, 2.0) == f"fell from 4 to 2 (−50{PERCENT})"
    assert change(0.0, 2.0) == "rose from 0 to 2"
    assert change(0.1, 2.0) == "rose from 0.1 to 2 (20 times)"


def test_the_task_is_told_beside_the_rates_without_tuning(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "topology.arrows", {})
    writer.write([{"step": 0, "cloud": 0, "dimension": 0, "n_points": 1, "deaths": []}])
    writer.close()
    lines = [
        {"kind": "reference", "majority_rate": 0.625, "zero_shot_restricted_accuracy": 0.5},
        {"kind": "eval", "step": 0, "accuracy": 0.1, "ce": 4.0},
        {"kind": "eval", "step": 10, "accuracy": 0.9, "ce": 2.0},
        {"kind": "eval", "step": 20, "accuracy": 0.8, "ce": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert tell_task(load_run(tmp_path)) == [
        "The accuracy on held-out items rose from 0.1 to 0.8 between step 0 and step 20 (best: 0.9 "
        "at step 10).",
        f"The cross-entropy of held-out items fell from 4 to 1 (−75{PERCENT}) between step 0 and "
        "step 20.",
        "Without tuning the accuracy is 0.625 (always the most frequent answer) and 0.5 (the "
        "untuned model, told the possible answers).",
    ]
