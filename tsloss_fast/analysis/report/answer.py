"""The head of a report: what was run, what came of it with its uncertainty, and a table of runs.

Two runs of one seed are compared by their numbers of right answers, several seeds by the mean of
the differences between each run and its control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.relation import mean_interval
from tsloss_fast.analysis.report.names import visible
from tsloss_fast.analysis.report.story import VARIATION, Course, capital, listed, moved, number
from tsloss_fast.analysis.runs import OF_THE_LOSS, Run, control_of, settings_that_vary
from tsloss_fast.analysis.words import LOSSES, METRICS, QUANTITIES, WORDS, label_of

__all__ = ["Ending", "answer", "facts", "newcombe", "pair_table", "run_table"]

# The limits of a result by one seed, and of one by several.
LIMITS = (
    "One seed tells nothing of other seeds.",
    "The intervals speak of other seeds of {} task and model, not of other tasks or models.",
)
INTERVAL, UNKNOWN = "95\u00a0% interval", "–"
MEANING = f"A {INTERVAL} holds the true difference in 19 of 20 such comparisons."
COLUMNS = "mean_lifetime", VARIATION, "close_pairs", "longest_over_mean", "accuracy", "ce"


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        step, evaluated: the last step that was recorded, and those at which accuracy and
            cross-entropy were last measured, by name.
        values: by name of a column, NaN where there is none. Over several clouds it is the mean,
            for pairs the sum, for the longest bar the most.
        right: the number of held-out items that were answered rightly, None if it is not known.
        lack: why the coefficient of variation is not known; empty where it is.
    """

    run: Run
    step: int
    evaluated: Mapping[str, int]
    values: Mapping[str, float]
    right: int | None
    lack: str = ""

    @classmethod
    def of(cls, run: Run, courses: Sequence[Course]) -> Ending:
        """Read it from the run and the courses of all its clouds."""
        mean = np.mean([course.mean[-1] for course in courses])
        pairs = sum(len(course.short[-1]) for course in courses)
        values = {
            "mean_lifetime": mean,
            VARIATION: np.mean([course.variation[-1] for course in courses]),
            "close_pairs": pairs if np.isfinite(mean) else np.nan,
            "longest_over_mean": np.max([course.longest[-1] for course in courses]),
        }
        for name in ("accuracy", "ce"):
            values[name] = run.measured[name].values[-1] if name in run.measured else np.nan
        count = values["accuracy"] * (run.test_items or np.nan)
        whole = np.isfinite(count) and abs(count - round(count)) < 1e-6
        return cls(
            run,
            max(int(course.steps[-1]) for course in courses),
            {n: int(run.measured[n].steps[-1]) for n in ("accuracy", "ce") if n in run.measured},
            {name: float(value) for name, value in values.items()},
            round(count) if whole and 0 <= values["accuracy"] <= 1 else None,
            next(filter(None, (course.lack() for course in courses)), ""),
        )


Pair = tuple[Ending, Ending]


def facts(ends: Sequence[Ending]) -> list[list[str]]:
    """Return names and values of what was run; a fact that the runs do not say is left out."""
    runs = [end.run for end in ends]
    clouds = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    many = len({cloud for _, cloud in clouds})
    sizes = [[r.series(n, c)[-1] for n in ("n_points", "n_features")] for r, c in clouds]
    tuned = [run.config for run in runs if "loss" in run.config and not run.control]
    metrics = [str(run.record.metadata.get("metric", "euclidean")) for run in runs]
    found: dict[str, Sequence[Any]] = {
        "Model": [run.model for run in runs],
        "Task": [run.config.get("task", run.record.metadata.get("task")) for run in runs],
        "Difficulty": [run.config.get("difficulty") for run in runs],
        "Method": [f"{LOSSES.get(c['loss'], c['loss'])}, weight {c['weight']:g}" for c in tuned],
        "Control": ["cross-entropy alone" for run in runs if run.control],
        "Seed": [run.seed for run in runs],
        "Test items": [run.test_items for run in runs],
        "Steps": [end.step for end in ends],
        "Clouds": [many] * (many > 1),
        "Virtual tokens": [f"{n:.0f} in {counted(int(width), 'dimension')}" for n, width in sizes],
        "Distance": [METRICS.get(metric, metric) for metric in metrics],
        "Date": [_day(run.began) for run in runs],
    }
    said = []
    for name, values in found.items():
        known = dict.fromkeys(visible(str(v), 80) for v in values if v not in (None, ""))
        said += [[name + "s" * (name == "Seed" and len(known) > 1), listed([*known])]] * bool(known)
    commands = dict.fromkeys(visible(run.command, 2000) for run in runs if run.command)
    return said + [["Command", command] for command in commands]


def _day(seconds: float) -> str:
    """The day in UTC; empty for a time that is none."""
    return str(np.datetime64(int(seconds), "s"))[:10] if 0 < seconds < 1e11 else ""


def answer(
    ends: Sequence[Ending],
    groups: Sequence[Mapping[str, Any]],
    verdicts: Sequence[tuple[str, str]],
) -> list[str]:
    """Return the result in words, made from the numbers with their uncertainty, then its limits.

    Args:
        groups: as `methods` returns them.
        verdicts: of each run, with its kind; the result where nothing can be compared.
    """
    pairs = [(group["name"], *_pairs(ends, group)) for group in groups]
    compared = [(name, fair) for name, fair, _ in pairs if fair]
    results = [f"{name}: " * (len(compared) > 1) + _compared(fair) for name, fair in compared]
    one = len({fair[0][0].run.subject for _, fair in compared}) == 1
    limits = [MEANING] * any(INTERVAL in text for text in results)
    limits += [LIMITS[len(fair) > 1].format("this" if one else "the same") for _, fair in compared]
    limits += [sentence for _, _, why in pairs for sentence in why]
    if not any(end.run.control for end in ends):
        limits.append(
            "None of these runs is a control with cross-entropy alone, so what the loss did cannot "
            "be told from what training does anyway."
        )
    for end in ends:
        steps = end.run.config.get("steps")
        if isinstance(steps, int) and end.step < steps:
            name = f"The run {visible(end.run.name, 80)}"
            limits.append(f"{name} ends at step {end.step}, although {steps} were to be run.")
    if not results and len(ends) > 1:
        results = [f"The table shows how these {len(ends)} runs ended; no two can be compared."]
    return [*(results or [f"{verdicts[0][0]}."]), *dict.fromkeys(limits)]


def _pairs(ends: Sequence[Ending], group: Mapping[str, Any]) -> tuple[list[Pair], list[str]]:
    """The runs of a method with their controls, and why others are not compared."""
    of_run, fair, why = {id(end.run): end for end in ends}, [], []
    for k in group["runs"]:
        end, name = ends[k], f"The run {visible(ends[k].run.name, 80)}"
        control = of_run.get(id(control_of(end.run, [each.run for each in ends])))
        if k not in group["whole"]:
            why.append(f"{name} is left out of the means: other seeds have later records or logs.")
        elif control is not None and (reason := _obstacle(end, control)):
            why.append(f"{name} and its control are not compared: {reason}.")
        elif control is not None:
            fair.append((end, control))
    return fair, why


def _obstacle(end: Ending, control: Ending) -> str:
    """Why a run and its control cannot be compared; empty if they can be."""
    if "loss" not in end.run.config:
        return "the config of the run does not say its loss"
    if settings := settings_that_vary([end.run, control.run], OF_THE_LOSS):
        return f"they differ in {visible(listed(settings), 200)}"
    if end.step != control.step:
        return f"their records end at the steps {end.step} and {control.step}"
    for each, whose in ((end, "the run"), (control, "the control")):
        if each.lack:
            return f"the last record of {whose} has {each.lack}"
    for name in ("accuracy", "ce"):
        at, other = (each.evaluated.get(name) for each in (end, control))
        if at != other:
            when = f"at the steps {at} and {other}" * (None not in (at, other))
            return f"{QUANTITIES[name]['label']} was last measured {when or 'in only one of them'}"
    return ""


def _difference(pairs: Sequence[Pair], column: str) -> np.ndarray:
    """Run minus control, by seed."""
    return np.array([end.values[column] - control.values[column] for end, control in pairs])


def _compared(pairs: Sequence[Pair]) -> str:
    """A sentence on evenness and one on accuracy, which compare a loss with its control over one
    seed or several."""
    seeds, (end, control) = len(pairs), pairs[0]
    loss = str(end.run.config.get("loss", "the loss"))
    name = f"Over {seeds} seeds " * (seeds > 1) + visible(LOSSES.get(loss, loss), 80)
    mean = _difference(pairs, VARIATION).mean()
    a, b = (each.values[VARIATION] for each in (end, control))
    found, shown = f"is {number(a)} against {number(b)}", moved(a, b)
    if seeds > 1:
        low, high = mean_interval(_difference(pairs, VARIATION))
        found = f"differs by {_signed(mean)} on average ({_interval(low, high, _signed)})"
        shown = not low <= 0 <= high
    effect = f"made the prompt {'more' if mean < 0 else 'less'} even"
    effect = effect if shown else "is not shown to make the prompt more even or less even"
    text = (
        f"{name} {effect} than cross-entropy alone: its coefficient of variation (how much its "
        f"bars differ in length; 0 if all are alike) {found}."
    )
    differences = _difference(pairs, "accuracy")
    if not np.isfinite(differences).all():
        return text
    when = _when([end], "accuracy")
    items, what = end.run.test_items or 0, f"{seeds} seeds"
    more = f"differs by {_points(differences.mean())} percentage points on average"
    if seeds > 1:
        low, high = mean_interval(differences)
    elif end.right is None or control.right is None or items != control.run.test_items:
        p, q = (number(each.values["accuracy"]) for each in (end, control))
        return (
            f"{text} The accuracy{when} is {p} with it and {q} without it; the number of test "
            "items is not known, so chance alone may explain any difference."
        )
    else:
        low, high = newcombe(end.right, items, control.right, items)
        what = f"{items} items"
        more = f"is {end.right} of {items} items with it and {control.right} without it"
        more += f", a difference of {_points(differences[0])} percentage points"
    so = f"contains 0, so these {what} show no difference"
    if not low <= 0 <= high:
        so = f"does not contain 0, so the choice of these {what} hardly explains it"
    between = _interval(low, high, _points)
    return f"{text} The accuracy{when} {more} ({between}): the interval {so}."


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


def _signed(value: float, digits: int = 3) -> str:
    if not np.isfinite(value):
        return UNKNOWN
    return f"{'+' if value > 0 else ''}{number(value, digits)}"


def _points(share: float, digits: int = 2) -> str:
    """A difference of shares in percentage points, without the noise of rounding."""
    return _signed(round(100 * share, 6), digits)


def _interval(low: float, high: float, form: Callable[[float, int], str]) -> str:
    return f"{INTERVAL} {form(low, 2)} to {form(high, 2)}"


def run_table(
    ends: Sequence[Ending],
    verdicts: Sequence[tuple[str, str]],
    looks: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The runs side by side, a row for each method if one of them has several seeds.

    Args:
        verdicts: of each run, with its kind.
        looks: of each run its name, colour and dash.
        groups: the methods, as `methods` returns them.
    """
    known = [name for name in COLUMNS if any(np.isfinite(end.values[name]) for end in ends)]
    columns = [{"title": "Run", "says": ""}]
    columns += [{"title": capital(label_of(c)), "says": QUANTITIES[c]["says"]} for c in known]
    columns += [{"title": "Verdict", "says": WORDS["verdict"]}]

    def row(look: Mapping[str, Any], runs: Sequence[int]) -> dict[str, Any]:
        kinds = [verdicts[k][1] for k in runs]
        href, name, text = f"#run-{runs[0]}", look["name"], verdicts[runs[0]][0]
        if (seeds := len(look.get("runs", runs))) > 1:
            of = f"{len(runs)} of " * (len(runs) < seeds)
            href, name = "", f"{name} ({of}{seeds} seeds)"
            text = f"healthy: {kinds.count('good')} of {counted(len(runs), 'run')}"
        shown = {"name": name, "colour": look["colour"], "dash": look["dash"], "href": href}
        shown["kind"] = next(kind for kind in ("bad", "none", "good") if kind in kinds)
        return shown | {"cells": [*(_cell([ends[k] for k in runs], c) for c in known), text]}

    rows = [row(group, group["whole"]) for group in groups]
    singles = [row(look, [k]) for k, look in enumerate(looks)] * (len(rows) < len(ends))
    many = len({cloud for end in ends for cloud in end.run.record.clouds}) > 1
    clouds = " (mean over the clouds; sum of the pairs)" * many
    seeds = ": mean ± standard deviation over the seeds" * bool(singles)
    also = "; accuracy and cross-entropy at the last evaluation" * any(e.evaluated for e in ends)
    caption = f"At the last record{clouds}{also}{seeds}."
    return {"caption": caption, "columns": columns, "rows": rows, "singles": singles}


def _cell(ends: Sequence[Ending], name: str) -> str:
    """A value of a run, or the mean of those of several with its standard deviation, and the step
    if it is not the last of the record."""
    if len(ends) == 1 and name == "accuracy" and ends[0].right is not None:
        return f"{ends[0].right} of {ends[0].run.test_items}{_when(ends, name)}"
    known = [end.values[name] for end in ends if np.isfinite(end.values[name])]
    if len(known) < min(len(ends), 2):
        return UNKNOWN
    mean = number(float(np.mean(known)))
    mean += f" ± {number(float(np.std(known, ddof=1)), 2)}" if len(ends) > 1 else ""
    return mean + _when(ends, name)


def _when(ends: Sequence[Ending], name: str) -> str:
    """Such as " at step 10", where the last evaluation is not at the step of the last record."""
    steps = {end.evaluated.get(name, end.step) for end in ends}
    if steps == {end.step for end in ends}:
        return ""
    return f" at step {listed([str(step) for step in sorted(steps)])}"


def pair_table(
    ends: Sequence[Ending], groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The difference between each run and its control, by seed, with mean and interval; None if no
    method has two seeds with a control."""
    fair = [(group["name"], _pairs(ends, group)[0]) for group in groups]
    found = [(name, pairs) for name, pairs in fair if len(pairs) > 1]
    rows, links = [], []
    for name, pairs in found:
        cells = [[str(end.run.seed) for end, _ in pairs] + ["mean", INTERVAL]]
        for column, form in ((VARIATION, _signed), ("accuracy", _points), ("ce", _signed)):
            values = _difference(pairs, column)
            between = " to ".join(form(end, 2) for end in mean_interval(values))
            cells.append([*map(form, values), form(values.mean()), between])
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
