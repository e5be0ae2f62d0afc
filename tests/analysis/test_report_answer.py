"""The result that a report begins with claims no more than its numbers show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from report_runs import make_run, make_seeds

from tsloss_fast.analysis.report.answer import (
    Ending,
    answer,
    newcombe,
    pair_table,
    run_table,
)
from tsloss_fast.analysis.report.command import context
from tsloss_fast.analysis.report.data import methods
from tsloss_fast.analysis.runs import Run, load_runs

ONE_SEED = "One seed tells nothing of other seeds."


def end(
    loss: str = "tsloss",
    seed: int = 0,
    variation: float = 0.02,
    accuracy: float = np.nan,
    items: int | None = 60,
    step: int = 40,
    steps: int = 40,
) -> Ending:
    """The end of a run of `tsloss tune`, which has no record."""
    folder = Path(f"seed-{seed:03d}", "control" if loss == "ce" else "")
    config: dict[str, Any] = {"loss": loss, "weight": 10.0, "seed": seed, "steps": steps}
    record: Any = SimpleNamespace(clouds=[0], metadata={}, steps=lambda: np.array([step]))
    run = Run(f"{loss} {seed}", folder, record, {}, {"test_items": items}, config)
    values = {"mean_lifetime": 3.0, "coefficient_of_variation": variation, "close_pairs": 0.0}
    values |= {"longest_over_mean": 1.1, "accuracy": accuracy, "ce": 0.5}
    right = None if items is None or np.isnan(accuracy) else round(accuracy * items)
    lack = "deaths that are not finite" if np.isnan(variation) else ""
    return Ending(run, step, {} if np.isnan(accuracy) else {"accuracy": step}, values, right, lack)


def said(*ends: Ending) -> list[str]:
    verdicts = [("Healthy at step 40", "good")] * len(ends)
    return answer(ends, methods([each.run for each in ends]), verdicts)


def test_the_interval_of_a_difference_of_shares_is_newcombes() -> None:
    # Newcombe 1998, Table II, method 10.
    for counts, expected in (
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ):
        assert newcombe(*counts) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("ours", "control", "expected"),
    [
        (47, 47, "47 of 60 items with it and 47 without it, a difference of 0 percentage points "
         "(95\u00a0% interval −15 to +15): the interval contains 0, so these 60 items show no "
         "difference."),
        (47, 48, "47 of 60 items with it and 48 without it, a difference of −1.7 percentage points "
         "(95\u00a0% interval −16 to +13): the interval contains 0, so these 60 items show no "
         "difference."),
        (20, 50, "20 of 60 items with it and 50 without it, a difference of −50 percentage points "
         "(95\u00a0% interval −63 to −33): the interval does not contain 0, so the choice of these "
         "60 items hardly explains it."),
    ],
)  # fmt: skip
def test_accuracies_of_one_seed_are_compared_by_their_items(
    ours: int, control: int, expected: str
) -> None:
    result, *limits = said(
        end(variation=0.004, accuracy=ours / 60), end("ce", variation=0.022, accuracy=control / 60)
    )
    assert result == (
        "TSLoss made the prompt more even than cross-entropy alone: its coefficient of variation "
        "(how much its bars differ in length; 0 if all are alike) "
        f"is 0.004 against 0.022. The accuracy is {expected}"
    )
    meaning = "A 95\u00a0% interval holds the true difference in 19 of 20 such comparisons."
    assert limits == [meaning, ONE_SEED]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([end(variation=0.03), end("ce")], "made the prompt less even"),
        ([end(variation=0.0200001), end("ce")], "not shown to make the prompt more even or less"),
        # The interval needs the number of items.
        ([end(accuracy=0.8, items=None), end("ce", accuracy=0.7, items=None)],
         "the number of test items is not known, so chance alone may explain any difference"),
        # A run without its control, and a control alone: no comparison.
        ([end(accuracy=0.75)], "Healthy at step 40. None of these runs is a control"),
        ([end("ce", accuracy=0.75)], "Healthy at step 40."),
        ([end(accuracy=0.75), end("ce", seed=1)], "these 2 runs ended; no two can be compared."),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_claimed(ends: list[Ending], expected: str) -> None:
    text = " ".join(said(*ends))
    assert expected in text
    assert ("cannot be told from what training does anyway" in text) == (
        not any(each.run.control for each in ends)
    )


def changed(ending: Ending, **config: object) -> Ending:
    """The same ending of a run with other settings; a setting of None is missing."""
    settings = {**ending.run.config, **config}
    settings = {name: value for name, value in settings.items() if value is not None}
    return replace(ending, run=replace(ending.run, config=settings))


@pytest.mark.parametrize(
    ("ours", "other", "why"),
    [
        (end(), end("ce", step=30, variation=0.5), "their records end at the steps 40 and 30"),
        (end(), end("ce", variation=np.nan),
         "the last record of the control has deaths that are not finite"),
        (end(accuracy=0.5), end("ce"), "accuracy was last measured in only one of them"),
        (end(accuracy=0.5), replace(end("ce", accuracy=0.5), evaluated={"accuracy": 30}),
         "accuracy was last measured at the steps 40 and 30"),
        (replace(end(), evaluated={"ce": 30}), replace(end("ce"), evaluated={"ce": 40}),
         "held-out cross-entropy was last measured at the steps 30 and 40"),
        (end(), changed(end("ce"), lr=5.0, seed=7, task_digest="x", model_digest="y"),
         "they differ in seed, lr, task_digest and model_digest"),
        (changed(end(), loss=None), end("ce"), "the config of the run does not say its loss"),
    ],
)  # fmt: skip
def test_a_run_and_a_control_that_differ_are_not_compared_and_the_limit_says_why(
    ours: Ending, other: Ending, why: str
) -> None:
    result, *limits = said(ours, other)
    assert result == "The table shows how these 2 runs ended; no two can be compared."
    assert f"The run tsloss 0 and its control are not compared: {why}." in limits
    unfinished = "The run ce 0 ends at step 30, although 40 were to be run." in limits
    assert unfinished == (other.step == 30)
    assert "even than" not in " ".join([result, *limits])


@pytest.mark.parametrize(
    ("variations", "accuracies", "expected"),
    [
        # Differences −0.01, −0.02, −0.03: mean −0.02 ± 4.3027 · 0.01/√3 = 0.02484; and of accuracy
        # +0.2, +0.2, +0.3: 23.3 ± 4.3027 · 3.333 = 14.3 points.
        ([0.04, 0.03, 0.02], [0.7, 0.7, 0.8],
         ["Over 3 seeds TSLoss is not shown to make the prompt more even or less even",
          "differs by −0.02 on average (95\u00a0% interval −0.045 to +0.0048).",
          "The accuracy differs by +23 percentage points on average (95\u00a0% interval +9 to "
          "+38): the interval does not contain 0, so the choice of these 3 seeds hardly"]),
        ([0.01, 0.011, 0.012], [0.5] * 3,
         ["Over 3 seeds TSLoss made the prompt more even than cross-entropy alone",
          "(95\u00a0% interval 0 to 0): the interval contains 0, so these 3 seeds show no"]),
        ([0.06] * 3, [0.6] * 3,
         ["TSLoss made the prompt less even", "differs by +0.01 on average (95\u00a0%"]),
    ],
)  # fmt: skip
def test_several_seeds_are_compared_by_their_mean_difference(
    variations: list[float], accuracies: list[float], expected: list[str]
) -> None:
    ends = []
    for seed, (v, a) in enumerate(zip(variations, accuracies, strict=True)):
        ends += [end(seed=seed, variation=v, accuracy=a)]
        ends += [end("ce", seed=seed, variation=0.05, accuracy=0.5)]
    result, _, limit = said(*ends)
    for text in expected:
        assert text in result
    assert limit.startswith("The intervals speak of other seeds of this task and model")


def test_of_several_results_each_begins_with_what_tells_it_from_the_others() -> None:
    ends = [
        changed(end(kind, seed), **settings)
        for settings in ({"task": "boolean"}, {"task": "sums"}, {"task": "sums", "weight": 1.0})
        for seed in (0, 1)
        for kind in ("tsloss", "ce")
    ]
    for k, ending in enumerate(ends[8:], 8):
        folder = Path("again") / ending.run.folder
        ends[k] = replace(ending, run=replace(ending.run, folder=folder))
    text = said(*ends)
    method = "cross-entropy + 10 × TSLoss"
    assert [sentence.split(": ")[0] for sentence in text[:3]] == [
        f"{method}, task boolean", f"{method}, task sums", "cross-entropy + 1 × TSLoss, task sums",
    ]  # fmt: skip
    assert any("other seeds of the same task and model" in sentence for sentence in text)
    assert not any("this task" in sentence for sentence in text)


def test_no_two_methods_have_one_name() -> None:
    # Each group has the settings, seeds and names of folders of the other two.
    runs = [end(seed=seed).run for seed in (0, 1, 0, 1, 0, 1)]
    names = [group["name"] for group in methods(runs)]
    assert names[0] == "cross-entropy + 10 × TSLoss, from seed-000"
    assert len(set(names)) == len(names) == 3
    # The names of two losses differ, and so do the settings that are not of the loss.
    both = [changed(end(loss), **more).run for loss, more in (("tsloss", {"lr": 1}), ("l2", {}))]
    names = [group["name"] for group in methods([*both, changed(end("l2", 1), lr=2).run])]
    assert names == ["tsloss 0, lr 1", "l2 0", "l2 1, lr 2"]


def test_runs_and_methods_with_other_starts_are_told_by_them(tmp_path: Path) -> None:
    starts = [{"init": "text", "init_text": "x"}, {"init": "vocabulary", "jitter": 0.1}]
    runs = [changed(end("ce"), **start).run for start in starts]
    told = ['from "x"', "from vocabulary rows with jitter 0.1"]
    assert [group["name"] for group in methods(runs)] == [f"ce 0, {start}" for start in told]
    # The name of a run is unchanged if its settings name no start.
    assert methods([end("ce").run, runs[0]])[0]["name"] == "ce 0"
    for number, start in enumerate(starts):
        file = make_run(tmp_path / str(number)) / "config.json"
        settings = json.loads(file.read_text())["config"]
        file.write_text(json.dumps({"config": {**settings, **start}}))
    loaded = load_runs([tmp_path / "0", tmp_path / "1"])
    names = [f"cross-entropy + 10 × TSLoss, {start}" for start in told]
    assert [run.name for run in loaded] == names
    assert [group["name"] for group in methods(loaded)] == names
    assert load_runs([tmp_path / "0"])[0].name == "cross-entropy + 10 × TSLoss"


def test_a_run_that_was_cut_off_is_in_no_mean_and_is_named() -> None:
    ends = [
        end(kind, seed, accuracy=0.5, step=40 if seed else 5, variation=0.02 + (not seed))
        for seed in (0, 1, 2)
        for kind in ("tsloss", "ce")
    ]
    groups = methods([each.run for each in ends])
    assert [group["whole"] for group in groups] == [[2, 4], [3, 5]]
    looks = [{"name": "x", "colour": "#000000", "dash": ""}] * 6
    row = run_table(ends, [("Healthy", "good")] * 6, looks, groups)["rows"][0]
    assert row["name"] == "cross-entropy + 10 × TSLoss (2 of 3 seeds)"
    assert row["cells"][1] == "0.02 ± 0"
    text = said(*ends)
    assert text[0].startswith("Over 2 seeds")
    assert (
        "The run tsloss 0 is left out of the means: other seeds have later records or logs." in text
    )
    pairs = pair_table(ends, groups)
    assert pairs is not None
    assert [pair[0] for pair in pairs["rows"]] == ["1", "2", "mean", "95\u00a0% interval"]


def test_the_page_of_several_seeds_has_a_row_for_each_method_and_pairs(tmp_path: Path) -> None:
    loaded = load_runs([make_seeds(tmp_path, seeds=3)])
    page = context(loaded, [None] * 6, [])
    table, pairs = page["table"], page["pairs"]
    assert [row["name"] for row in table["rows"]] == [
        "cross-entropy + 10 × TSLoss (3 seeds)", "control: cross-entropy alone (3 seeds)",
    ]  # fmt: skip
    deaths = [run.record.series("mean_lifetime")[-1] for run in loaded[::2]]
    expected = f"{np.mean(deaths):.3g} ± {np.std(deaths, ddof=1):.2g}"
    titles = [column["title"] for column in table["columns"]]
    assert table["rows"][0]["cells"][titles.index("Mean death") - 1] == expected
    assert table["rows"][0]["cells"][-1] == "healthy: 0 of 3 runs"
    assert [row["href"] for row in table["singles"]] == [f"#run-{k}" for k in range(6)]
    assert [row[0] for row in pairs["rows"]] == ["0", "1", "2", "mean", "95\u00a0% interval"]
    assert pairs["links"] == ["#run-0", "#run-2", "#run-4", "", ""]
    assert ["Seeds", "0, 1 and 2"] in page["facts"]


def test_a_page_of_one_run_has_one_table_and_only_known_facts(tmp_path: Path) -> None:
    page = context(load_runs([make_run(tmp_path / "run", model=None)]), [None], [])
    facts = dict(page["facts"])
    assert facts["Method"] == "TSLoss, weight 10"
    assert facts["Virtual tokens"] == "12 in 16 dimensions"
    assert not {"Model", "Test items", "Command", "Control"} & facts.keys()
    assert (page["pairs"], page["table"]["singles"], len(page["table"]["rows"])) == (None, [], 1)


def test_an_accuracy_is_shown_as_a_count_of_items() -> None:
    ends = [end(accuracy=0.75), end("ce", accuracy=0.5, items=None)]
    looks = [{"name": "x", "colour": "#000000", "dash": ""}] * 2
    groups = [look | {"runs": [k], "whole": [k]} for k, look in enumerate(looks)]
    rows = run_table(ends, [("Healthy", "good")] * 2, looks, groups)["rows"]
    assert [row["cells"][4] for row in rows] == ["45 of 60", "0.5"]
    assert pair_table(ends, groups) is None
    # What was measured before the last record has its step beside it.
    early = {"accuracy": 30, "ce": 20}
    ends = [replace(each, evaluated=early) for each in ends]
    table = run_table(ends, [("Healthy", "good")] * 2, looks, groups)
    assert table["rows"][0]["cells"][4:6] == ["45 of 60 at step 30", "0.5 at step 20"]
    together = [groups[0] | {"runs": [0, 1], "whole": [0, 1]}]
    mean = run_table(ends, [("Healthy", "good")] * 2, looks, together)["rows"][0]["cells"]
    assert mean[5] == "0.5 ± 0 at step 20"
    assert table["caption"] == (
        "At the last record; accuracy and cross-entropy at the last evaluation."
    )
