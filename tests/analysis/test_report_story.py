"""The sentences of a report state what the record holds, and the verdict follows its rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord, read_record
from tsloss_fast.analysis.record.writer import RecordWriter
from tsloss_fast.analysis.report.story import Story, tell
from tsloss_fast.analysis.report.task_story import control_of, tell_task
from tsloss_fast.analysis.report.wording import change, number
from tsloss_fast.analysis.runs import load_runs

Make = Callable[..., TopologyRecord]
PERCENT = "\u00a0%"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A record of one cloud from deaths by step; the tree is the path 0-1-2-… unless given."""

    def made(deaths: dict[int, Sequence[float] | None], **more: Sequence[Any]) -> TopologyRecord:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.arrows"
        writer = RecordWriter(path, {"clouds": ["prompt"], "metric": "euclidean"})
        for k, (step, bars) in enumerate(deaths.items()):
            count = 0 if bars is None else len(bars)
            row: dict[str, Any] = {"step": step, "cloud": 0, "dimension": 0, "n_points": count + 1}
            row |= {"deaths": bars, "edges": [[i, i + 1] for i in range(count)]}
            writer.write([row | {name: values[k] for name, values in more.items()}])
        writer.close()
        return read_record(path)

    return made


def has(story: Story, text: str) -> bool:
    return any(text in sentence for sentence in story.sentences)


def test_mean_death_is_told_with_its_steps_its_share_and_the_control(make: Make) -> None:
    run = make({0: [3.0, 3.1], 10: [3.5, 3.5], 20: [4.0, 4.2], 30: [4.1, 4.1]})
    control = make({0: [3.0, 3.1], 30: [5.9, 5.9]})
    story = tell(run, control=control)
    assert story.sentences[0] == (
        f"Between step 0 and step 30 the mean death rose from 3.05 to 4.1 (+34{PERCENT}); under "
        f"cross-entropy alone it rose from 3.05 to 5.9 (+93{PERCENT})."
    )
    # Half of 1.05 above 3.05 is 3.575, first passed at step 20.
    assert story.sentences[1] == "Half of that change was reached at step 20."


def test_a_peak_between_the_ends_is_told_and_a_flat_course_is_not_called_a_change(
    make: Make,
) -> None:
    peaked = tell(make({0: [3.0, 3.0], 5: [9.0, 9.0], 10: [3.01, 3.01]}))
    assert has(peaked, "the mean death stayed at 3.01")
    assert has(peaked, "It was highest at step 5: 9.")
    assert not has(peaked, "Half of that change")


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [
        ([0.3, 0.09, 0.004, 0.003], "From step 2 on the bars are even: coefficient of variation "
         "below 0.01 (0.003 at step 3, 0.3 at step 0)"),
        # One record at the tightest level is no course: the level that lasted is named.
        ([0.3, 0.04, 0.03, 0.001], "From step 1 on the bars are even: coefficient of variation "
         "below 0.05"),
        ([0.3, 0.003, 0.3, 0.003], "From step 3 on the bars are even: coefficient of variation "
         "below 0.1"),
        ([0.05, 0.05, 0.05, 0.06], "In every record the bars are even"),
        ([0.05, 0.05, 0.05, 0.2], "At step 3 the bars are uneven: coefficient of variation 0.2"),
    ],
)  # fmt: skip
def test_evenness_is_told_from_the_step_since_which_it_lasts(
    make: Make, spreads: list[float], expected: str
) -> None:
    story = tell(make({k: [1 - s, 1 + s] for k, s in enumerate(spreads)}))
    assert has(story, expected)
    assert story.checks[3].holds is (spreads[-1] < 0.1)
    assert story.checks[3].held == sum(s < 0.1 for s in spreads)


def test_redundant_pairs_are_named_with_their_distance_and_the_step_since_which(
    make: Make,
) -> None:
    wide, close = [1.0] * 5, [0.2, 1.2, 1.2, 1.2, 1.2]
    edges = [[[0, 1], [1, 2], [2, 4], [4, 5], [3, 5]], [[3, 5], [0, 1], [1, 2], [2, 4], [4, 5]]]
    record = make(
        {0: close, 10: wide, 20: close, 30: close}, edges=[edges[k] for k in (1, 0, 1, 1)]
    )
    story = tell(record, label=lambda i: f"token {i} (‘{'abcdef'[i]}’)")
    assert (
        "Token 3 (‘d’) and token 5 (‘f’) nearly coincide since step 20: their distance is 0.2 of "
        "the mean death."
    ) in story.sentences
    assert story.verdict == "Not healthy at step 30: 1 redundant pair"
    assert not story.healthy
    assert [check.holds for check in story.checks] == [True, False, True, False]
    assert (story.checks[1].held, story.checks[1].of) == (1, 4)


def test_only_a_few_pairs_are_named_and_those_that_parted_are_told(make: Make) -> None:
    many = tell(make({0: [0.1] * 5 + [5.0]}))
    assert sum("nearly coincide at step 0" in sentence for sentence in many.sentences) == 3
    assert has(many, "So do 2 more pairs of neighbours in the tree.")
    parted = tell(make({0: [0.1, 1.0, 1.0], 10: [1.0, 1.0, 1.0]}))
    assert has(parted, "At step 0 1 pair nearly coincided; none does since step 10.")
    assert parted.healthy


def test_a_gap_is_told_with_the_groups_on_its_two_sides(make: Make) -> None:
    # The path 0-1-…-6 with a long edge between 3 and 4: four tokens and three.
    bars, edges = [1.0] * 5 + [4.0], [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6], [3, 4]]
    story = tell(make({0: [1.0] * 6, 5: bars, 9: bars}, edges=[edges] * 3))
    assert has(
        story,
        "The prompt splits into 2 groups of 4 and 3 tokens since step 5: the longest bar is 2.67 "
        "times the mean.",
    )
    assert story.verdict == "Not healthy at step 9: a gap (longest bar 2.67 × mean)"
    lonely = tell(make({0: bars}, edges=[[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]]))
    assert has(lonely, "Token 6 stands apart from the others at step 0")
    closed = tell(make({0: bars, 4: [1.0] * 6}, edges=[edges] * 2))
    assert has(closed, "none is above 2 times since step 4")


def test_changed_merges_are_told_where_they_were_most(make: Make) -> None:
    some = [[0, 2], [1, 2]]
    record = make(
        dict.fromkeys((0, 10, 20, 30), (1.0, 1.0, 1.0)), edges_added=[None, some[:1], some, []]
    )
    assert has(
        tell(record),
        "2 of 3 merges changed between step 10 and step 20, more than at any other time; none has "
        "changed since step 20.",
    )
    still = make(dict.fromkeys((0, 10), (1.0, 1.0, 1.0)), edges_added=[None, []])
    assert has(tell(still), "The merge tree is the same in all 2 records")
    # What follows a record without bars has nothing to be compared with.
    broken = make({0: None, 10: [1.0] * 3}, edges_added=[None, some])
    assert not has(tell(broken), "merges changed")


def test_movement_and_rest_are_told(make: Make) -> None:
    record = make(
        dict.fromkeys(range(5), (2.0, 2.0)),
        displacement_first=[None, 1.0, 2.0, 2.5, 3.0],
        bottleneck_previous=[None, 0.5, 0.001, 0.001, 0.001],
    )
    story = tell(record, control=record)
    assert has(
        story,
        "Since step 0 a token has moved by 3 on average, 1.5 times the first mean death; under "
        "cross-entropy alone by 3.",
    )
    assert has(story, "The barcode has been at rest since step 2:")
    restless = make(dict.fromkeys(range(3), (2.0, 2.0)), bottleneck_previous=[None, 0.001, 0.001])
    assert not has(tell(restless), "at rest")


def test_numbers_that_are_not_finite_are_never_healthy(make: Make) -> None:
    broken = tell(make({0: [1.0, 1.0], 10: None}))
    assert broken.verdict == "Not healthy at step 10: deaths that are not finite"
    assert has(broken, "1 of 2 records hold deaths that are not finite, the first at step 10")
    assert [check.holds for check in broken.checks] == [False, None, None, None]
    assert tell(make({0: [1.0, np.inf]})).checks[0].holds is False
    healed = tell(make({0: None, 10: [1.0, 1.0]}))
    assert healed.healthy
    assert healed.checks[0].held == 1


def test_clouds_without_bars_and_clouds_that_coincide_are_told_as_they_are(make: Make) -> None:
    single = tell(make({0: [], 10: []}))
    assert single.verdict == "Nothing to judge at step 10: no bars (fewer than two tokens)"
    assert not single.healthy
    same = tell(make({0: [0.0, 0.0]}))
    assert same.verdict == "Not healthy at step 0: all 3 tokens coincide"
    assert has(same, "All tokens coincide: every bar has length 0.")
    assert not has(same, "nan")
    assert tell(make({0: [2.0]})).sentences[0] == (
        "At step 0, the only record, the mean death is 2."
    )


def test_a_healthy_prompt_is_called_healthy_by_the_three_rules(make: Make) -> None:
    story = tell(make({0: [1.0, 1.0, 1.1]}))
    assert story.verdict == "Healthy at step 0: no redundant pair, no gap; bars even"
    assert [check.rule for check in story.checks] == [
        "every death is a finite number",
        "every death ≥ 0.5 × mean",
        "longest bar ≤ 2 × mean",
        "coefficient of variation < 0.1",
    ]


def test_the_newest_row_of_a_step_counts(make: Make, tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "twice.arrows", {})
    for death in (1.0, 2.0):
        writer.write([{"step": 3, "cloud": 0, "dimension": 0, "n_points": 2, "deaths": [death]}])
    writer.close()
    (deaths,) = CloudColumns(read_record(tmp_path / "twice.arrows")).lists("deaths")
    assert deaths is not None
    assert deaths.tolist() == [2.0]


def test_numbers_and_changes_are_written_as_a_person_would() -> None:
    assert [number(x) for x in (3.0512, 0.00616, -2, 12345.6, 0)] == [
        "3.05", "0.00616", "−2", "12346", "0",
    ]  # fmt: skip
    assert number(float("nan")) == "nan"
    assert change(4.0, 2.0) == f"fell from 4 to 2 (−50{PERCENT})"
    assert change(0.0, 2.0) == "rose from 0 to 2"
    assert change(0.1, 2.0) == "rose from 0.1 to 2 (20 times)"


def test_the_task_is_told_beside_the_control_and_the_rates_without_tuning(tmp_path: Path) -> None:
    for folder, loss, last in ((tmp_path, "tsloss", 0.8), (tmp_path / "control", "ce", 0.7)):
        folder.mkdir(exist_ok=True)
        writer = RecordWriter(folder / "topology.arrows", {})
        writer.write([{"step": 0, "cloud": 0, "dimension": 0, "n_points": 1, "deaths": []}])
        writer.close()
        config = {"config": {"loss": loss, "weight": 10.0}}
        (folder / "config.json").write_text(json.dumps(config))
        lines = [
            {"kind": "reference", "majority_rate": 0.625, "zero_shot_restricted_accuracy": 0.5},
            {"kind": "eval", "step": 0, "accuracy": 0.1, "ce": 4.0},
            {"kind": "eval", "step": 10, "accuracy": 0.9, "ce": 2.0},
            {"kind": "eval", "step": 20, "accuracy": last, "ce": 1.0},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    runs = load_runs([tmp_path])
    control = control_of(runs[0], runs)
    assert control is runs[1]
    assert control_of(runs[1], runs) is None
    assert tell_task(runs[0], control) == [
        "The held-out accuracy rose from 0.1 to 0.8 between step 0 and step 20 (best: 0.9 at step "
        "10); under cross-entropy alone it ends at 0.7.",
        "Without tuning, always the most frequent answer reaches 0.625 and the untuned model, told "
        "the possible answers, reaches 0.5.",
        f"The held-out cross-entropy fell from 4 to 1 (−75{PERCENT}) between step 0 and step 20; "
        "under cross-entropy alone it ends at 1.",
    ]


def test_a_control_is_one_of_the_same_settings_but_for_the_loss(tmp_path: Path) -> None:
    for name, loss, seed in (("a", "tsloss", 1), ("b", "ce", 1), ("c", "ce", 2), ("d", "l2", 3)):
        writer = RecordWriter(tmp_path / name / "topology.arrows", {})
        writer.write([{"step": 0, "cloud": 0, "dimension": 0, "n_points": 1, "deaths": []}])
        writer.close()
        config = {"config": {"loss": loss, "weight": 1.0, "model": "m", "seed": seed}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    runs = load_runs([tmp_path / name for name in "dacb"])
    by_name = {run.folder.name: run for run in runs}
    assert control_of(by_name["a"], runs) is by_name["b"]
    # The only control there is may be another run's.
    assert control_of(by_name["d"], runs) is None
