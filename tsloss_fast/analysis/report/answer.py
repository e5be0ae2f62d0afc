"""The head of a report: what was run, what came of it with its uncertainty, and a table of runs.

Two runs of one seed are compared by their numbers of right answers, several seeds by the mean of
the differences between each run and its control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_1samp

from tsloss_fast.analysis.report.names import visible
from tsloss_fast.analysis.report.story import Course, capital, listed, moved, number
from tsloss_fast.analysis.runs import Run, control_of
from tsloss_fast.analysis.words import LOSSES, METRICS, QUANTITIES, label_of

__all__ = ["Ending", "answer", "facts", "mean_interval", "newcombe", "pair_table", "run_table"]

COLUMNS = (
    "mean_lifetime",
    "coefficient_of_variation",
    "close_pairs",
    "longest_over_mean",
    "accuracy",
    "ce",
)
VARIATION = (
    "coefficient of variation, which is the standard deviation of the bars divided by their mean"
)
# Runs without a comparison that are told in words; of more, the table tells.
SHOWN_ALONE = 3
INTERVAL = "95\u00a0% interval"
UNKNOWN = "–"


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        step, evaluated: the last step that was recorded, and the last at which accuracy was
            measured (None if it never was).
        values: by name of a column, NaN where there is none. Over several clouds it is the mean,
            for pairs the sum, for the longest bar the most.
        right: the number of held-out items that were answered rightly, None if it is not known.
    """

    run: Run
    step: int
    evaluated: int | None
    values: Mapping[str, float]
    right: int | None

    @classmethod
    def of(cls, run: Run, courses: Sequence[Course]) -> Ending:
        """Read it from the run and the courses of all its clouds."""
        mean = np.mean([course.mean[-1] for course in courses])
        pairs = sum(len(course.short[-1]) for course in courses)
        values = {
            "mean_lifetime": mean,
            "coefficient_of_variation": np.mean([course.variation[-1] for course in courses]),
            "close_pairs": pairs if np.isfinite(mean) else np.nan,
            "longest_over_mean": np.max([course.longest[-1] for course in courses]),
        }
        accuracy, ce = run.measured.get("accuracy"), run.measured.get("ce")
        values["accuracy"] = accuracy.values[-1] if accuracy else np.nan
        values["ce"] = ce.values[-1] if ce else np.nan
        count = values["accuracy"] * (run.test_items or np.nan)
        whole = np.isfinite(count) and abs(count - round(count)) < 1e-6
        return cls(
            run,
            step=max(int(course.steps[-1]) for course in courses),
            evaluated=int(accuracy.steps[-1]) if accuracy else None,
            values={name: float(value) for name, value in values.items()},
            right=round(count) if whole and 0 <= values["accuracy"] <= 1 else None,
        )

    def comparable(self, control: Ending) -> bool:
        """Whether both end at the same step, with bars of finite length."""
        same = (self.step, self.evaluated) == (control.step, control.evaluated)
        known = [end.values["coefficient_of_variation"] for end in (self, control)]
        return same and bool(np.isfinite(known).all())


Pair = tuple[Ending, Ending]


def facts(ends: Sequence[Ending]) -> list[list[str]]:
    """Return names and values of what was run; a fact that the runs do not say is left out."""
    runs = [end.run for end in ends]
    clouds = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    sizes = {name: _range(int(record.series(name, cloud)[-1]) for record, cloud in clouds)
             for name in ("n_points", "n_features")}  # fmt: skip
    many = len({cloud for _, cloud in clouds})
    tuned = [run.config for run in runs if "loss" in run.config and not run.control]
    seeds = {run.seed for run in runs if run.seed is not None}
    metrics = [str(run.record.metadata.get("metric", "euclidean")) for run in runs]
    found: dict[str, Sequence[Any]] = {
        "Model": [run.model for run in runs],
        "Task": [run.config.get("task", run.record.metadata.get("task")) for run in runs],
        "Difficulty": [run.config.get("difficulty") for run in runs],
        "Method": [f"{LOSSES.get(c['loss'], c['loss'])}, weight {c['weight']:g}" for c in tuned],
        "Control": ["cross-entropy alone" for run in runs if run.control],
        "Seeds" if len(seeds) > 1 else "Seed": [_range(seeds)],
        "Test items": [run.test_items for run in runs],
        "Steps": [_range(end.step for end in ends)],
        "Clouds": [many] * (many > 1),
        "Virtual tokens": [f"{sizes['n_points']} in {sizes['n_features']} dimensions"],
        "Distance": [METRICS.get(metric, metric) for metric in metrics],
        "Date": sorted({_day(run.began) for run in runs}),
    }
    known = {
        name: [*dict.fromkeys(visible(str(v), 80) for v in values if v not in (None, ""))]
        for name, values in found.items()
    }
    commands = [*dict.fromkeys(visible(run.command, 2000) for run in runs if run.command)]
    said = [[name, listed(values)] for name, values in known.items() if values]
    return said + [["Command", command] for command in commands]


def _day(seconds: float) -> str:
    """The day in UTC; empty for a time that is none."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return ""


def _range(values: Any) -> str:
    every = sorted(set(values))
    if len(every) > 2 and every[-1] - every[0] == len(every) - 1:
        return f"{every[0]} to {every[-1]}"
    return listed([str(value) for value in every])


def answer(ends: Sequence[Ending], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return the result in words, made from the numbers with their uncertainty, then its limits.

    Args:
        groups: the runs of each method, as `group_runs` returns them.
    """
    results, limits = [], []
    for group in groups:
        pairs = _pairs(ends, group)
        fair = [(end, control) for end, control in pairs if end.comparable(control)]
        loss = str(ends[group[0]].run.config.get("loss", "the loss"))
        name = visible(LOSSES.get(loss, loss), 80)
        if len(fair) > 1:
            results.append(_of_seeds(name, fair))
            limits.append(
                "The intervals speak of other seeds of this task and model, not of other tasks "
                "or models."
            )
        elif fair:
            results.append(_of_one_seed(name, *fair[0]))
            limits.append("One seed tells nothing of other seeds.")
        limits += [
            f"{visible(end.run.name, 80)} and its control are not compared: they do not end at the "
            f"same step (steps {end.step} and {control.step}), or not with bars of finite length."
            for end, control in pairs
            if not end.comparable(control)
        ]
    if not any(end.run.control for end in ends):
        limits.append(
            "None of these runs is a control with cross-entropy alone, so what the loss did cannot "
            "be told from what training does anyway."
        )
    for end in ends:
        steps = end.run.config.get("steps")
        if isinstance(steps, int) and end.step < steps:
            name = capital(visible(end.run.name, 80))
            limits.append(f"{name} ends at step {end.step}, although {steps} were to be run.")
    if not results and len(ends) > SHOWN_ALONE:
        results = [f"The table shows how these {len(ends)} runs ended; no two can be compared."]
    return [*(results or map(_alone, ends)), *dict.fromkeys(limits)]


def _pairs(ends: Sequence[Ending], group: Sequence[int]) -> list[Pair]:
    """The runs of a method that have a control, each with it."""
    of_run = {id(end.run): end for end in ends}
    controls = [control_of(ends[k].run, [end.run for end in ends]) for k in group]
    return [(ends[k], of_run[id(c)]) for k, c in zip(group, controls, strict=True) if c is not None]


def _of_one_seed(name: str, end: Ending, control: Ending) -> str:
    a, b = (e.values["coefficient_of_variation"] for e in (end, control))
    text = f"{name} made the prompt {'more' if a < b else 'less'} even than cross-entropy alone did"
    if not moved(a, b):
        text = f"{name} left the prompt as even as cross-entropy alone did"
    text += f" ({VARIATION}: {number(a)} against {number(b)})."
    p, q = end.values["accuracy"], control.values["accuracy"]
    if not np.isfinite([p, q]).all():
        return text
    text += " Accuracy" + ("" if end.evaluated == end.step else f" at step {end.evaluated}")
    items = end.run.test_items or 0
    if end.right is None or control.right is None or items != control.run.test_items:
        return (
            f"{text}: {number(p)} with it and {number(q)} without it; the number of test items is "
            "not known, so chance alone may explain any difference."
        )
    low, high = newcombe(end.right, items, control.right, items)
    text += f": {end.right} of {items} items with it and {control.right} without it"
    between = f"{INTERVAL} {_points(low)} to {_points(high)}"
    if end.right == control.right:
        return f"{text}, no difference that {items} items could show ({between} points)."
    inside = f"0 is inside, so {items} items show no difference"
    if not low <= 0 <= high:
        inside = "0 is not inside, so the choice of items hardly explains it"
    return f"{text}, a difference of {_points(p - q)} percentage points ({between}; {inside})."


def _of_seeds(name: str, pairs: Sequence[Pair]) -> str:
    variation = _differences(pairs, "coefficient_of_variation")
    accuracy = _differences(pairs, "accuracy")
    text, shown = _mean_change(variation, _signed)
    effect = f"made the prompt {'more' if variation.mean() < 0 else 'less'} even than"
    if not shown:
        effect = "is not shown to make the prompt more even or less even than"
    text = f"Over {len(pairs)} seeds {name} {effect} cross-entropy alone: its {VARIATION}, {text}."
    if not np.isfinite(accuracy).all():
        return text
    more, shown = _mean_change(accuracy, _points, " percentage points")
    end = "which they show" if shown else f"{len(pairs)} seeds show no difference"
    return f"{text} The accuracy {more}: {end}."


def _mean_change(
    values: np.ndarray, form: Callable[[float], str], unit: str = ""
) -> tuple[str, bool]:
    """The mean of differences between run and control in words, with its interval, and whether 0
    is outside of it."""
    mean, found = float(values.mean()), mean_interval(values)
    if found is None:
        same = "is the same with and without it" if not mean else f"differs by {form(mean)}{unit}"
        return f"{same} in every seed", mean != 0
    inside = found[0] <= 0 <= found[1]
    between = f"{INTERVAL} {' to '.join(map(form, found))}; 0 is {'' if inside else 'not '}inside"
    return f"differs by {form(mean)}{unit} on average ({between})", not inside


def _alone(end: Ending) -> str:
    """What is known of a run without a control beside it."""
    values, name = end.values, capital(visible(end.run.name, 80))
    if not np.isfinite(values["mean_lifetime"]):
        return f"{name} ends at step {end.step} without bars of finite length."
    text = f"{name} ends at step {end.step} with mean death {number(values['mean_lifetime'])}"
    text += f"; its {VARIATION}, is {number(values['coefficient_of_variation'])}."
    if end.right is not None and (items := end.run.test_items):
        low, high = (f"{100 * share:.0f}" for share in _wilson(end.right, items))
        return f"{text} Accuracy: {end.right} of {items} items ({INTERVAL} {low} to {high}\u00a0%)."
    known = np.isfinite(values["accuracy"])
    return f"{text} Accuracy: {number(values['accuracy'])}." if known else text


def _wilson(right: int, items: int) -> tuple[float, float]:
    low, high = binomtest(right, items).proportion_ci(method="wilson")
    return float(low), float(high)


def newcombe(right: int, items: int, other: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference right/items - other/of of two independent shares:
    method 10 of Newcombe, Statistics in Medicine 17 (1998) 873-890.

    Two runs answer the same items, so their shares are not independent; the interval is then
    usually wider than it need be.
    """
    p, q = right / items, other / of
    (low_p, high_p), (low_q, high_q) = _wilson(right, items), _wilson(other, of)
    below, above = np.hypot(p - low_p, high_q - q), np.hypot(high_p - p, q - low_q)
    return float(p - q - below), float(p - q + above)


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return Student's 95 % interval of the mean; None with fewer than two values, or if all are
    the same up to rounding."""
    if len(values) < 2 or not np.ptp(values) > 1e-12 * np.abs(values).max():
        return None
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def _differences(pairs: Sequence[Pair], column: str) -> np.ndarray:
    """Run minus control, by seed."""
    return np.array([end.values[column] - control.values[column] for end, control in pairs])


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _points(share: float) -> str:
    """A difference of shares in percentage points."""
    return _signed(round(100 * share, 1))


def run_table(
    ends: Sequence[Ending], verdicts: Sequence[tuple[str, str]], data: Mapping[str, Any]
) -> dict[str, Any]:
    """The runs side by side, a row for each method if one of them has several seeds.

    Args:
        verdicts: of each run, with its kind.
        data: as of `page_data`, for names, colours and groups.
    """
    known = [name for name in COLUMNS if any(np.isfinite(end.values[name]) for end in ends)]
    columns = [{"title": "Run", "says": ""}]
    columns += [{"title": capital(label_of(c)), "says": QUANTITIES[c]["says"]} for c in known]
    columns += [{"title": "Verdict", "says": "Whether the prompt is healthy, by three rules."}]
    singles = [
        _row(data["runs"][k], f"#run-{k}", kind, [*(_cell(end, name) for name in known), text])
        for k, (end, (text, kind)) in enumerate(zip(ends, verdicts, strict=True))
    ]
    rows = []
    for group in data["groups"]:
        runs = group["runs"]
        kinds = [verdicts[k][1] for k in runs]
        cells = [_mean_cell([ends[k].values[name] for k in runs]) for name in known]
        cells.append(f"healthy: {kinds.count('good')} of {len(runs)} runs")
        kind = "bad" if "bad" in kinds else "none" if "none" in kinds else "good"
        row = _row(group, None, kind, cells) | {"name": f"{group['name']} ({len(runs)} seeds)"}
        rows.append(row if len(runs) > 1 else singles[runs[0]])
    several = len(rows) < len(singles)
    clouds = " (mean over the clouds; sum of the pairs)" if len(data["clouds"]) > 1 else ""
    seeds = ": mean ± standard deviation over the seeds" if several else ""
    caption = f"At the last record{clouds}{seeds}."
    return {"caption": caption, "columns": columns, "rows": rows, "singles": singles * several}


def _row(entry: Mapping[str, Any], href: str | None, kind: str, cells: list[str]) -> dict[str, Any]:
    shown = {name: entry[name] for name in ("name", "colour", "dash")}
    return shown | {"href": href, "kind": kind, "cells": cells}


def _cell(end: Ending, name: str) -> str:
    if name == "accuracy" and end.right is not None:
        return f"{end.right} of {end.run.test_items}"
    return number(end.values[name]) if np.isfinite(end.values[name]) else UNKNOWN


def _mean_cell(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if len(known) < 2:
        return UNKNOWN
    return f"{number(float(np.mean(known)))} ± {number(float(np.std(known, ddof=1)))}"


def pair_table(ends: Sequence[Ending], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The difference between each run and its control, by seed, with mean and interval; None if no
    method has two seeds with a control."""
    forms = {"coefficient_of_variation": _signed, "accuracy": _points, "ce": _signed}
    found = [
        (group["name"], fair)
        for group in data["groups"]
        if len(fair := [p for p in _pairs(ends, group["runs"]) if p[0].comparable(p[1])]) > 1
    ]
    rows, links = [], []
    for name, pairs in found:
        cells = [[str(end.run.seed) for end, _ in pairs] + ["mean", INTERVAL]]
        for column, form in forms.items():
            values = _differences(pairs, column)
            between = mean_interval(values)
            last = " to ".join(map(form, between)) if between else UNKNOWN
            cells.append([*map(form, values), form(values.mean()), last])
        # The name of the only method tells nothing.
        rows += [[name] * (len(found) > 1) + [*row] for row in zip(*cells, strict=True)]
        places = [next(k for k, e in enumerate(ends) if e is end) for end, _ in pairs]
        links += [*(f"#run-{k}" for k in places), "", ""]
    titles = ["Coefficient of variation", "Accuracy, percentage points", capital(label_of("ce"))]
    caption = (
        "Difference between each run and its control of the same seed; the interval is Student's, "
        "of the mean over the seeds."
    )
    columns = ["Method"] * (len(found) > 1) + ["Seed", *titles]
    page = {"caption": caption, "columns": columns, "rows": rows, "links": links}
    return page if rows else None
