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


def test_mean_death_and_evenness_are_told_from_the_first_record_to_the_last(make: Make) -> None:
    assert tell(make({0: [3.0, 3.1], 5: [9.0, 9.0], 10: None, 30: [4.1, 4.1]}))["sentences"][
        1:3
    ] == [
        f"Between step 0 and step 30 the mean death rose from 3.05 to 4.1 (+34{PERCENT}).",
        "Between step 0 and step 30 the coefficient of variation of the bars fell from 0.0164 to 0 "
        f"(−100{PERCENT}).",
    ]
    assert tell(make({0: [2.0]}))["sentences"] == [
        "The mean death is 2 at step 0.",
        "The coefficient of variation of the bars is 0 at step 0.",
    ]
    uneven = tell(make({k: [1 - s, 1 + s] for k, s in enumerate((0.05, 0.05, 0.2))}))
    assert uneven["verdict"].endswith("bars uneven")
    assert (uneven["rules"][3]["holds"], uneven["rules"][3]["records"]) == (False, "2 of 3")


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
    assert has(many, "The same is true of 2 more pairs of neighbours in the tree.")
    parted = tell(make({0: [0.1, 1.0, 1.0], 10: [1.0, 1.0, 1.0]}))
    assert parted["kind"] == "good"
    assert not has(parted, "coincide")


def test_a_gap_is_told_with_the_groups_on_its_two_sides(make: Make) -> None:
    # The path 0-1-…-6 with a long edge between 3 and 4: four tokens and three.
    bars, edges = [1.0] * 5 + [4.0], [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6], [3, 4]]
    even = [1.0] * 6
    story = tell(make({0: even, 2: bars, 3: even, 5: bars, 9: bars}, edges=[edges] * 5))
    assert has(
        story,
        "The prompt splits into 2 groups of 4 and 3 tokens since step 5: the longest bar, "
        "from token 3 to token 4, is 2.67 times the mean.",
    )
    assert story["verdict"] == "Not healthy at step 9: a gap (longest bar 2.67 × mean)"
    lonely = tell(make({0: bars}, edges=[[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]]))
    assert has(
        lonely, "2 groups of 6 and 1 tokens at step 0: the longest bar, from token 5 to token 6"
    )
    always = tell(make({0: bars, 4: bars}, edges=[edges] * 2))
    assert has(always, "groups of 4 and 3 tokens in every record")
    assert tell(make({0: bars, 4: [1.0] * 6}, edges=[edges] * 2))["kind"] == "good"


def test_the_last_change_of_the_merge_tree_is_told(make: Make) -> None:
    path, star = [[0, 1], [1, 2], [2, 3]], [[0, 1], [0, 2], [0, 3]]
    bars = dict.fromkeys((0, 10, 20, 30, 40), (1.0, 1.0, 1.0))
    moving = tell(make(bars, edges=[path, star, star, path, path[::-1]]))
    assert has(moving, "The merge tree last changed between step 20 and step 30.")
    still = tell(make({0: [1.0] * 3, 5: None, 10: [1.0] * 3}, edges=[path, None, path]))
    assert has(still, "The merge tree is the same in all 2 records that have bars.")
    # A record that follows one without bars has nothing to be compared with.
    broken = tell(make({0: None, 10: [1.0] * 3}, edges=[None, path]))
    assert not has(broken, "merge tree")


def test_only_finite_bars_are_judged_and_points_that_coincide_are_told(make: Make) -> None:
    broken = tell(make({0: [1.0, 1.0], 10: None}))
    assert broken["verdict"] == "Not healthy at step 10: deaths that are not finite"
    assert has(broken, "Deaths are not finite in 1 of 2 records, the first at step 10")
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
    # Bars of length 0 have no relative spread, and tell nothing of evenness.
    assert not has(same, "nan")
    assert not has(same, "coefficient of variation")
    assert (same["rules"][3]["holds"], same["rules"][3]["found"]) == (None, "bars of length 0 only")


def test_a_healthy_prompt_is_called_healthy_by_the_three_rules(make: Make) -> None:
    story = tell(make({0: [1.0, 1.0, 1.1]}))
    assert story["verdict"] == "Healthy at step 0: no pair nearly coincides, no gap; bars even"
    assert [rule["holds"] for rule in story["rules"]] == [True] * 4
    uneven = tell(make({0: [1.0, 1.0, 1.9]}))
    assert (uneven["kind"], [rule["holds"] for rule in uneven["rules"]]) == (
        "good", [True, True, True, False],
    )  # fmt: skip
    apart = [rule["name"].endswith("(no part of the verdict)") for rule in uneven["rules"]]
    assert apart == [False, False, False, True]


def test_numbers_and_changes_are_written_as_a_person_would() -> None:
    assert [number(x) for x in (3.0512, 0.00616, -2, 12345.6, 0)] == [
        "3.05", "0.00616", "−2", "12346", "0",
    ]  # fmt: skip
    assert [number(x, 2) for x in (0.0802, -14.74, 123.4)] == ["0.08", "−15", "123"]
    assert change(4.0, 2.0) == f"fell from 4 to 2 (−50{PERCENT})"
    assert change(0.0, 2.0) == "rose from 0 to 2"
    assert change(3.0, 3.02) == "stayed at 3.02"


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
        "The accuracy on held-out items rose from 0.1 to 0.8 between step 0 and step 20.",
        f"The cross-entropy of held-out items fell from 4 to 1 (−75{PERCENT}) between step 0 and "
        "step 20.",
        "Without tuning the accuracy is 0.625 (always the most frequent answer) and 0.5 (the "
        "untuned model, told the possible answers).",
    ]
