"""The result that a report begins with claims no more than its numbers show."""

from __future__ import annotations

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
from tsloss_fast.analysis.runs import Run, group_runs, load_runs

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
    record: Any = SimpleNamespace(clouds=[0])
    run = Run(f"{loss} {seed}", folder, record, {}, {"test_items": items}, config)
    values = {"mean_lifetime": 3.0, "coefficient_of_variation": variation, "close_pairs": 0.0}
    values |= {"longest_over_mean": 1.1, "accuracy": accuracy, "ce": 0.5}
    right = None if items is None or np.isnan(accuracy) else round(accuracy * items)
    return Ending(run, step, None if np.isnan(accuracy) else step, values, right)


def said(*ends: Ending) -> list[str]:
    verdicts = [("Healthy at step 40", "good")] * len(ends)
    return answer(ends, group_runs([each.run for each in ends]), verdicts)


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
        f"is 0.004 against 0.022. The accuracy is {expected}"
    )
    assert limits == [ONE_SEED]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([end(variation=0.03), end("ce")], "made the prompt less even"),
        ([end(variation=0.0200001), end("ce")], "not shown to make the prompt more even or less"),
        # Without the number of items there is no interval.
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


@pytest.mark.parametrize(
    "other",
    [end("ce", step=30, variation=0.5), end("ce", variation=np.nan)],
    ids=["ended earlier", "not finite"],
)
def test_a_run_and_a_control_that_end_differently_are_not_compared(other: Ending) -> None:
    result, *limits = said(end(accuracy=0.5), other)
    assert result == "The table shows how these 2 runs ended; no two can be compared."
    assert any(text.startswith("tsloss 0 and its control are not compared") for text in limits)
    unfinished = "Ce 0 ends at step 30, although 40 were to be run." in limits
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
    result, limit = said(*ends)
    for text in expected:
        assert text in result
    assert limit.startswith("The intervals speak of other seeds of this task and model")


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
    groups = [look | {"runs": [k]} for k, look in enumerate(looks)]
    rows = run_table(ends, [("Healthy", "good")] * 2, looks, groups)["rows"]
    assert [row["cells"][4] for row in rows] == ["45 of 60", "0.5"]
    assert pair_table(ends, groups) is None
