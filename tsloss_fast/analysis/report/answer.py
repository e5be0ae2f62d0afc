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
from tsloss_fast.analysis.words import LOSSES, METRICS, QUANTITIES, THRESHOLDS, label_of

__all__ = ["Ending", "answer", "facts", "mean_interval", "newcombe", "pair_table", "run_table"]

# Columns of the table of runs: the title, and what it means.
_SAYS = {name: quantity["says"] for name, quantity in QUANTITIES.items()} | {
    "short": f"Number of merges at less than {THRESHOLDS['short']:g} times the mean death.",
    "longest": f"Above {THRESHOLDS['gap']:g} the prompt falls apart into groups.",
}
COLUMNS = {
    "mean_lifetime": "Mean death",
    "coefficient_of_variation": "Coefficient of variation",
    "short": "Pairs that nearly coincide",
    "longest": "Longest bar over mean",
    "accuracy": "Accuracy",
    "ce": capital(label_of("ce")),
}
VARIATION = (
    "coefficient of variation, which is the standard deviation of the bars divided by their mean"
)
PAIRED = ("coefficient_of_variation", "accuracy", "ce")
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
        values = {
            "mean_lifetime": float(np.mean([course.mean[-1] for course in courses])),
            "coefficient_of_variation": float(np.mean([c.variation[-1] for c in courses])),
            "longest": float(np.max([course.longest[-1] for course in courses])),
            "short": float(sum(len(course.short[-1]) for course in courses)),
        }
        if not np.isfinite(values["mean_lifetime"]):
            values["short"] = np.nan
        measured = {name: run.measured.get(name) for name in ("accuracy", "ce")}
        for name, series in measured.items():
            values[name] = float(series.values[-1]) if series and len(series.steps) else np.nan
        series, items = measured["accuracy"], run.test_items
        evaluated = int(series.steps[-1]) if series and len(series.steps) else None
        right = None
        if items is not None and 0 <= (count := values["accuracy"] * items) <= items:
            right = round(count) if abs(count - round(count)) < 1e-6 else None
        return cls(run, max(int(c.steps[-1]) for c in courses), evaluated, values, right)

    def comparable(self, control: Ending) -> bool:
        """Whether both end at the same step, with bars of finite length."""
        same = (self.step, self.evaluated) == (control.step, control.evaluated)
        known = [end.values["coefficient_of_variation"] for end in (self, control)]
        return same and bool(np.isfinite(known).all())


def facts(ends: Sequence[Ending]) -> list[list[str]]:
    """What was run, as names and values; a fact that the runs do not say is left out."""
    runs = [end.run for end in ends]
    clouds = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    points, features = (
        _range([int(record.series(name, cloud)[-1]) for record, cloud in clouds])
        for name in ("n_points", "n_features")
    )
    metrics = [str(run.record.metadata.get("metric", "euclidean")) for run in runs]
    methods = [
        f"{LOSSES.get(run.config['loss'], run.config['loss'])}, weight {run.config['weight']:g}"
        for run in runs
        if "loss" in run.config and not run.control
    ]
    found: list[tuple[str, Sequence[Any]]] = [
        ("Model", [run.model for run in runs]),
        ("Task", [run.config.get("task", run.record.metadata.get("task")) for run in runs]),
        ("Difficulty", [run.config.get("difficulty") for run in runs]),
        ("Method", methods),
        ("Control", ["cross-entropy alone" for run in runs if run.control]),
        ("Seeds", [_range([run.seed for run in runs if run.seed is not None])]),
        ("Test items", [run.test_items for run in runs]),
        ("Steps", [_range([end.step for end in ends])]),
        ("Clouds", [many] if (many := len({cloud for _, cloud in clouds})) > 1 else []),
        ("Virtual tokens", [f"{points} in {features} dimensions"]),
        ("Distance", [METRICS.get(metric, metric) for metric in metrics]),
        ("Date", sorted({_day(run.began) for run in runs})),
    ]
    shown = [
        [name, listed(known)]
        for name, values in found
        if (
            known := list(dict.fromkeys(visible(str(v), 80) for v in values if v not in (None, "")))
        )
    ]
    commands = dict.fromkeys(run.command for run in runs if run.command)
    return shown + [["Command", visible(command, 2000)] for command in commands]


def _day(seconds: float) -> str:
    """The day in UTC; empty for a time that is none."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return ""


def _range(values: Sequence[int]) -> str:
    every = sorted(set(values))
    if len(every) > 2 and every[-1] - every[0] == len(every) - 1:
        return f"{every[0]} to {every[-1]}"
    return listed([str(value) for value in every])


# The result


def answer(ends: Sequence[Ending], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return the result in words, made from the numbers with their uncertainty, then its limits."""
    results, limits = [], []
    for group in groups:
        pairs = _pairs(ends, group)
        fair = [pair for pair in pairs if pair[0].comparable(pair[1])]
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
            if None not in (fair[0][0].right, fair[0][1].right):
                limits.append(
                    "The interval takes the answers of the two runs as independent of each other, "
                    "although both answer the same items, so it is usually wider than it need be."
                )
        for end, control in pairs:
            if not end.comparable(control):
                limits.append(
                    f"{visible(end.run.name, 80)} and its control are not compared: they do not "
                    f"end at the same step (steps {end.step} and {control.step}), or not with bars "
                    "of finite length."
                )
    if not results:
        results = [_alone(end) for end in ends][:3]
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
    return [*results, *dict.fromkeys(limits)]


def _pairs(ends: Sequence[Ending], group: Sequence[int]) -> list[tuple[Ending, Ending]]:
    """The runs of a method that have a control, each with it."""
    runs = [end.run for end in ends]
    found = [(ends[k], control_of(runs[k], runs)) for k in group]
    return [(e, next(c for c in ends if c.run is own)) for e, own in found if own is not None]


def _of_one_seed(name: str, end: Ending, control: Ending) -> str:
    a, b = (e.values["coefficient_of_variation"] for e in (end, control))
    text = f"{name} made the prompt {'more' if a < b else 'less'} even than cross-entropy alone did"
    if not moved(a, b):
        text = f"{name} left the prompt as even as cross-entropy alone did"
    text += f" ({VARIATION}: {number(a)} against {number(b)})."
    p, q = end.values["accuracy"], control.values["accuracy"]
    if not np.isfinite([p, q]).all():
        return text
    at = "" if end.evaluated == end.step else f" at step {end.evaluated}"
    items = end.run.test_items
    if end.right is None or control.right is None or items != control.run.test_items:
        return text + (
            f" Accuracy{at}: {number(p)} with it and {number(q)} without it; the number of test "
            "items is not known, so chance alone may explain any difference."
        )
    low, high = newcombe(end.right, items, control.right, items)
    between = (
        f"95\u00a0% interval of the difference {_points(low)} to {_points(high)} percentage points"
    )
    text += f" Accuracy{at}: {end.right} of {items} items with it and {control.right} without it"
    if end.right == control.right:
        return f"{text}, no difference that {items} items could show ({between})."
    inside = f"0 is inside, so {items} items show no difference"
    if not low <= 0 <= high:
        inside = "0 is not inside, so chance in the choice of items hardly explains it"
    return f"{text}, a difference of {_points(p - q)} percentage points ({between}; {inside})."


def _of_seeds(name: str, pairs: Sequence[tuple[Ending, Ending]]) -> str:
    n = len(pairs)
    changes = {column: differences(pairs, column) for column in PAIRED}
    mean, text, shown = _mean_change(changes["coefficient_of_variation"], _signed)
    effect = f"made the prompt {'more' if mean < 0 else 'less'} even than cross-entropy alone did"
    if not shown:
        effect = "is not shown to make the prompt more even or less even than cross-entropy alone"
    said = f"Over {n} seeds {name} {effect}: its {VARIATION}, {text}."
    if not np.isfinite(changes["accuracy"]).all():
        return said
    _, text, shown = _mean_change(changes["accuracy"], _points, " percentage points")
    end = f"a difference that {n} seeds show" if shown else f"{n} seeds show no difference"
    return f"{said} The accuracy {text}: {end}."


def _mean_change(
    values: np.ndarray, form: Callable[[float], str], unit: str = ""
) -> tuple[float, str, bool]:
    """The mean of differences, in words with its interval, and whether 0 is outside."""
    mean, found = float(values.mean()), mean_interval(values)
    if found is None:
        if mean == 0:
            return mean, "is the same with and without it in every seed", False
        return mean, f"differs by {form(mean)}{unit} in every seed", True
    inside = found[0] <= 0 <= found[1]
    between = " to ".join(form(value) for value in found)
    text = (
        f"differs by {form(mean)}{unit} on average (95\u00a0% interval {between}; 0 is "
        f"{'' if inside else 'not '}inside)"
    )
    return mean, text, not inside


def _alone(end: Ending) -> str:
    """What is known of a run without a control beside it."""
    values = end.values
    name = capital(visible(end.run.name, 80))
    if not np.isfinite(values["mean_lifetime"]):
        return f"{name} ends at step {end.step} without bars of finite length."
    text = f"{name} ends at step {end.step} with mean death {number(values['mean_lifetime'])}"
    text += f" and {number(values['coefficient_of_variation'])} as the {VARIATION}."
    if end.right is not None and (items := end.run.test_items):
        share = [100 * value for value in wilson(end.right, items)]
        text += (
            f" Accuracy: {end.right} of {items} items (95\u00a0% interval {share[0]:.0f} to "
            f"{share[1]:.0f}\u00a0%)."
        )
    elif np.isfinite(values["accuracy"]):
        text += f" Accuracy: {number(values['accuracy'])}."
    return text


def wilson(right: int, items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    low, high = binomtest(right, items).proportion_ci(method="wilson")
    return float(low), float(high)


def newcombe(right: int, items: int, other: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference right/items - other/of of two independent shares:
    method 10 of Newcombe, Statistics in Medicine 17 (1998) 873-890."""
    p, q = right / items, other / of
    (low_p, high_p), (low_q, high_q) = wilson(right, items), wilson(other, of)
    below, above = np.hypot(p - low_p, high_q - q), np.hypot(high_p - p, q - low_q)
    return float(p - q - below), float(p - q + above)


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return Student's 95 % interval of the mean; None with fewer than two values, or if all are
    the same up to rounding."""
    if len(values) < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def differences(pairs: Sequence[tuple[Ending, Ending]], column: str) -> np.ndarray:
    """Run minus control, by seed."""
    return np.array([end.values[column] - control.values[column] for end, control in pairs])


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")


# The tables


def run_table(
    ends: Sequence[Ending],
    verdicts: Sequence[tuple[str, str]],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The runs side by side, a row for each method if one of them has several seeds.

    Args:
        verdicts: of each run, with its kind.
        data: of `page_data`, for names, colours and groups.
    """
    known = [name for name in COLUMNS if any(np.isfinite(end.values[name]) for end in ends)]
    columns = [{"title": COLUMNS[name], "says": _SAYS[name]} for name in known]
    columns.append({"title": "Verdict", "says": "Whether the prompt is healthy, by three rules."})
    singles = [
        _row(entry, f"#run-{k}", [*(_cell(ends[k], name) for name in known), text], kind)
        for k, (entry, (text, kind)) in enumerate(zip(data["runs"], verdicts, strict=True))
    ]
    rows = []
    for group in data["groups"]:
        members = group["runs"]
        if len(members) == 1:
            rows.append(singles[members[0]])
            continue
        kinds = [verdicts[k][1] for k in members]
        kind = kinds[0] if len(set(kinds)) == 1 else "bad" if "bad" in kinds else "none"
        cells = [_mean_cell([ends[k].values[name] for k in members]) for name in known]
        cells.append(f"healthy: {kinds.count('good')} of {len(members)} runs")
        rows.append(_row(group, None, cells, kind) | {"name": _with_seeds(group)})
    several = len(rows) < len(singles)
    clouds = " (mean over the clouds; sum of the pairs)" if len(data["clouds"]) > 1 else ""
    return {
        "caption": f"At the last record{clouds}"
        + (": mean ± standard deviation over the seeds." if several else "."),
        "columns": [{"title": "Run", "says": ""}, *columns],
        "rows": rows,
        "singles": singles if several else [],
    }


def _row(entry: Mapping[str, Any], href: str | None, cells: list[str], kind: str) -> dict[str, Any]:
    shown = {name: entry[name] for name in ("name", "colour", "dash")}
    return shown | {"href": href, "cells": cells, "kind": kind}


def _with_seeds(group: Mapping[str, Any]) -> str:
    return f"{group['name']} ({len(group['runs'])} seeds)"


def _cell(end: Ending, name: str) -> str:
    if name == "accuracy" and end.right is not None:
        return f"{end.right} of {end.run.test_items}"
    return number(end.values[name]) if np.isfinite(end.values[name]) else UNKNOWN


def _mean_cell(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if len(known) < 2:
        return UNKNOWN
    return f"{number(np.mean(known))} ± {number(np.std(known, ddof=1))}"


def pair_table(ends: Sequence[Ending], data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The difference between each run and its control, by seed, with mean and interval; None if no
    method has two seeds with a control."""
    rows, links = [], []
    runs = [end.run for end in ends]
    several = sum(len(group["runs"]) > 1 for group in data["groups"] if not group["control"]) > 1
    for group in data["groups"]:
        pairs = [pair for pair in _pairs(ends, group["runs"]) if pair[0].comparable(pair[1])]
        if len(pairs) < 2:
            continue
        first = [group["name"]] * several
        columns = [differences(pairs, name) for name in PAIRED]
        forms = (_signed, _points, _signed)
        for k, (end, _) in enumerate(pairs):
            cells = [form(c[k]) for form, c in zip(forms, columns, strict=True)]
            rows.append([*first, str(end.run.seed), *cells])
            links.append(f"#run-{runs.index(end.run)}")
        found = [mean_interval(column) for column in columns]
        rows += [
            [*first, "mean", *(form(c.mean()) for form, c in zip(forms, columns, strict=True))],
            [*first, "95\u00a0% interval"]
            + [
                UNKNOWN if f is None else " to ".join(map(form, f))
                for form, f in zip(forms, found, strict=True)
            ],
        ]
        links += ["", ""]
    titles = ["Coefficient of variation", "Accuracy, percentage points", COLUMNS["ce"]]
    if not rows:
        return None
    return {
        "caption": "Difference between each run and its control of the same seed. The interval is "
        "of the mean over seeds, by Student's distribution.",
        "columns": ["Method"] * several + ["Seed", *titles],
        "rows": rows,
        "links": links,
    }
