"""What happened to a prompt, in plain sentences, and whether it is healthy, by four rules.

Every sentence is a statement about numbers of the record, with the steps at which they stand.
"Since step s" means: in every record from s to the last one. Nothing is said of what lies between
two records, nor of causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.words import RATES, THRESHOLDS

__all__ = ["Course", "Story", "change", "find_groups", "listed", "moved", "number", "tell",
           "tell_task"]  # fmt: skip

# Shares of the mean death of the same record, but for EVEN, a coefficient of variation.
SHORT, GAP, EVEN, REST = (THRESHOLDS[name] for name in ("short", "gap", "even", "rest"))
# Levels of the coefficient of variation worth naming; the tightest that lasts is named.
LEVELS = (0.01, 0.02, 0.05, EVEN)
# Smaller relative changes are called none.
STEADY = 0.01
SHOWN_PAIRS = 3

Label = Callable[[int], str]


class Course:
    """A cloud over its records: what the rules and the sentences are made from.

    Attributes:
        steps: of the records, (S,).
        deaths, edges: by record; empty where the cloud was not finite.
        finite: (S,) whether all deaths are finite numbers.
        mean, variation, longest: (S,) mean death, coefficient of variation, and longest bar over
            the mean; NaN where there are no bars, or not finite ones.
        short: by record the pairs that nearly coincide, with their distance over the mean.
    """

    def __init__(self, record: TopologyRecord, cloud: int = 0) -> None:
        self.columns = columns = CloudColumns(record, cloud)
        self.steps = columns.steps
        deaths, edges = columns.lists("deaths"), columns.lists("edges")
        self.finite = np.array([x is not None and bool(np.isfinite(x).all()) for x in deaths])
        self.deaths = [np.zeros(0) if x is None else x for x in deaths]
        self.edges = [np.zeros((0, 2)) if x is None else x for x in edges]
        self.points = int(columns.numbers("n_points")[-1])
        self.mean, self.variation, self.longest = np.full((3, len(self.steps)), np.nan)
        self.short: list[dict[tuple[int, int], float]] = []
        for k, bars in enumerate(self.deaths):
            known = len(bars) > 0 and self.finite[k]
            mean = self.mean[k] = bars.mean() if known else np.nan
            if known:
                # All bars of length 0 are of one length, and there is no gap.
                self.variation[k] = bars.std() / mean if mean > 0 else 0.0
                self.longest[k] = bars.max() / mean if mean > 0 else np.nan
            close = np.flatnonzero((bars < SHORT * mean) | (bars == 0)) if known else []
            self.short.append(
                {
                    (int(i), int(j)): float(d / mean) if mean > 0 else 0.0
                    for (i, j), d in zip(self.edges[k][close], bars[close], strict=True)
                }
                if len(close)
                else {}
            )

    @property
    def known(self) -> np.ndarray:
        """Where there are bars with a mean, (S,) bool."""
        return np.asarray(np.isfinite(self.mean))

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules in the order to read them; the first three make the verdict.

        Each has its name, the rule, whether it `holds` at the last record (None where it says
        nothing), what was found there, and in how many records it held.
        """
        known, now = self.known, self.known[-1]
        zero = now and self.mean[-1] == 0
        none = "no bars (fewer than two tokens)" if self.finite[-1] else "not finite"
        coincide = f"all {self.points} tokens coincide"
        pairs = f"{counted(len(self.short[-1]), 'pair')} that nearly coincide"
        pairs = pairs.replace("1 pair that nearly coincide", "1 pair that nearly coincides")
        longest = f"longest bar {number(self.longest[-1])} × mean"
        found = [
            ("finite", "every death is a finite number", self.finite, np.ones_like(known),
             "all finite" if self.finite[-1] else "deaths that are not finite"),
            ("no pair that nearly coincides", f"every death ≥ {SHORT:g} × mean",
             np.array([not short for short in self.short]), known, coincide if zero else pairs),
            # NaN compares as False.
            ("no gap", f"longest bar ≤ {GAP:g} × mean", ~(self.longest > GAP), known,
             "all bars of length 0" if zero else longest),
            ("even bars", f"coefficient of variation < {EVEN:g}", self.variation < EVEN, known,
             f"coefficient of variation {number(self.variation[-1])}"),
        ]  # fmt: skip
        return [
            {
                "name": name,
                "rule": rule,
                "holds": bool(held[-1]) if judged[-1] else None,
                "found": said if judged[-1] else none,
                "records": f"{int((held & judged).sum())} of {int(judged.sum())}",
            }
            for name, rule, held, judged, said in found
        ]


@dataclass(frozen=True)
class Story:
    """The verdict at the last record, its kind ("good", "bad", or "none" where nothing can be
    judged), the rules that it follows from, and sentences in the order to read them."""

    verdict: str
    kind: str
    rules: list[dict[str, Any]]
    sentences: list[str]


def tell(course: Course, control: Course | None = None, label: Label = "token {}".format) -> Story:
    """Tell the story of one cloud.

    Args:
        control: the same cloud under cross-entropy alone, set beside this one.
        label: gives a virtual token its name; "token 3" by default. Tokens are counted from 0.
    """
    rules, last = course.rules(), course.steps[-1]
    said = ("{}", "{}", "a gap ({})")
    bad = [
        words.format(rule["found"])
        for words, rule in zip(said, rules, strict=False)
        if rule["holds"] is False
    ]
    if bad:
        kind, verdict = "bad", f"Not healthy at step {last}: {', '.join(bad)}"
    elif not course.known[-1]:
        kind, verdict = "none", f"Nothing to judge at step {last}: {rules[1]['found']}"
    else:
        even = "bars even" if rules[3]["holds"] else "bars uneven"
        kind, verdict = "good", f"Healthy at step {last}: no pair nearly coincides, no gap; {even}"
    sentences = [
        *_of_finiteness(course),
        *_of_mean(course, control),
        *_of_evenness(course, control),
        *_of_pairs(course, label),
        *_of_gaps(course, label),
        *_of_merges(course),
        *_of_movement(course, control),
    ]
    return Story(verdict, kind, rules, sentences)


def _of_finiteness(course: Course) -> Iterator[str]:
    bad = course.steps[~course.finite]
    if len(bad):
        yield (
            f"{len(bad)} of {len(course.steps)} records hold deaths that are not finite, the first "
            f"at step {bad[0]}: the points had NaN or infinite coordinates, or overflowed there."
        )


def _of_mean(course: Course, control: Course | None) -> Iterator[str]:
    where = np.flatnonzero(course.known)
    if not len(where):
        return
    values, steps = course.mean[where], course.steps[where]
    start, end = values[0], values[-1]
    if len(where) == 1:
        only = ", the only record" if len(course.steps) == 1 else ""
        yield f"At step {steps[0]}{only}, the mean death is {number(end)}."
        return
    text = f"Between step {steps[0]} and step {steps[-1]} the mean death {change(start, end)}"
    if control is not None and control.known.any():
        theirs = np.flatnonzero(control.known)
        before, after = control.mean[theirs[[0, -1]]]
        at = control.steps[theirs[-1]]
        text += f"; under cross-entropy alone it {change(before, after)}"
        text += f" by step {at}" if at != steps[-1] else ""
    yield text + "."
    if moved(start, end) and len(where) > 3:
        half = steps[np.abs(values - start) >= abs(end - start) / 2][0]
        yield f"Half of that change was reached at step {half}."
    for k, word in ((values.argmax(), "highest"), (values.argmin(), "lowest")):
        beyond = min(abs(values[k] - start), abs(values[k] - end))
        if beyond > 0.1 * max(abs(start), abs(end)):
            yield f"It was {word} at step {steps[k]}: {number(values[k])}."


def _of_evenness(course: Course, control: Course | None) -> Iterator[str]:
    if not course.known[-1] or len(course.deaths[-1]) < 2 or course.mean[-1] == 0:
        return
    end, first, last = course.variation[-1], int(course.known.argmax()), len(course.steps) - 1
    began = f", {number(course.variation[first])} at step {course.steps[first]}"
    now = f"{number(end)} at step {course.steps[-1]}{began if first != last else ''}"
    beside = ""
    if control is not None and control.known[-1]:
        beside = f"; under cross-entropy alone it ends at {number(control.variation[-1])}"
    if end >= EVEN:
        when, even = f"At step {course.steps[-1]}", f"uneven: coefficient of variation {now}"
    else:
        lasting = [
            (level, since)
            for level in LEVELS
            if end < level and (since := held_since(course.variation < level)) < last
        ]
        level, since = lasting[0] if lasting else (EVEN, last)
        when = _when(course, since, last == 0)
        even = f"even: coefficient of variation below {level:g} ({now})"
    yield f"{capital(when)} the bars are {even}{beside}."


def _of_pairs(course: Course, label: Label) -> Iterator[str]:
    if not course.known[-1]:
        return
    if course.mean[-1] == 0:
        yield "All tokens coincide: every bar has length 0."
        return
    now = course.short[-1]
    for pair in sorted(now, key=lambda p: now[p])[:SHOWN_PAIRS]:
        since = held_since([pair in short for short in course.short])
        yield (
            f"{capital(label(pair[0]))} and {label(pair[1])} nearly coincide "
            f"{_when(course, since)}: their distance is {number(now[pair])} of the mean death."
        )
    if len(now) > SHOWN_PAIRS:
        yield f"So do {len(now) - SHOWN_PAIRS} more pairs of neighbours in the tree."
    counts = np.array([len(short) for short in course.short])
    most = int(counts.argmax())
    if counts[most] > len(now):
        tail = "" if now else f"; none does since step {course.steps[held_since(counts == 0)]}"
        yield (
            f"At step {course.steps[most]} {counted(int(counts[most]), 'pair')} nearly "
            f"coincided{tail}."
        )


def _of_gaps(course: Course, label: Label) -> Iterator[str]:
    above = course.longest > GAP
    if above[-1]:
        groups = find_groups(course)
        alone = [label(group[0]) for group in groups if len(group) == 1]
        if len(groups) > 6:
            what = f"the prompt splits into {len(groups)} groups"
        elif len(alone) == len(groups) - 1:
            verb = "stands" if len(alone) == 1 else "stand"
            what = f"{listed(alone)} {verb} apart from the others"
        else:
            sizes = listed([str(len(group)) for group in groups])
            what = f"the prompt splits into {len(groups)} groups of {sizes} tokens"
        yield (
            f"{capital(what)} {_when(course, held_since(above))}: the longest bar is "
            f"{number(course.longest[-1])} times the mean."
        )
    elif above.any():
        peak = int(np.nanargmax(course.longest))
        yield (
            f"At step {course.steps[peak]} there was a gap, with the longest bar "
            f"{number(course.longest[peak])} times the mean; none is above {GAP:g} times since "
            f"step {course.steps[held_since(~above)]}."
        )


def _of_merges(course: Course) -> Iterator[str]:
    added = course.columns.lists("edges_added")
    counts = np.array([0 if x is None else len(x) for x in added])
    bars = len(course.deaths[-1])
    if len(counts) < 2 or not bars or all(x is None for x in added[1:]):
        return
    # The first record has none before it, and one without bars has no merges to compare with.
    counts[0] = 0
    counts[1:][~course.finite[:-1]] = 0
    if not counts.any():
        yield f"The merges are the same in all {len(counts)} records."
        return
    most, final = int(counts.argmax()), int(np.flatnonzero(counts)[-1])
    text = (
        f"{counts[most]} of {bars} merges changed between step {course.steps[most - 1]} and "
        f"step {course.steps[most]}"
    )
    text += ", more than at any other time" if (counts == counts[most]).sum() == 1 else ""
    if final < len(counts) - 1:
        text += f"; none has changed since step {course.steps[final]}"
    elif final != most:
        text += f"; {counts[final]} changed between the last two records"
    yield text + "."


def _of_movement(course: Course, control: Course | None) -> Iterator[str]:
    moved_by = course.columns.numbers("displacement_first")
    if len(moved_by) > 1 and np.isfinite(moved_by[-1]):
        text = (
            f"Since step {course.steps[0]} a token has moved by {number(moved_by[-1])} on average"
        )
        metric = course.columns.record.metadata.get("metric", "euclidean")
        if course.mean[0] > 0 and metric == "euclidean":
            text += f", {number(moved_by[-1] / course.mean[0])} times the first mean death"
        theirs = control.columns.numbers("displacement_first") if control else [np.nan]
        if np.isfinite(theirs[-1]):
            text += f"; under cross-entropy alone by {number(theirs[-1])}"
        yield text + "."
    rest = course.columns.numbers("bottleneck_previous") < REST * course.mean
    since = held_since(rest)
    if len(rest) - since >= 3:
        yield (
            f"The barcode has been at rest since step {course.steps[since]}: from one record to "
            f"the next no bar changed by more than {100 * REST:g}\u00a0% of the mean."
        )


def find_groups(course: Course) -> list[list[int]]:
    """Return the components at scale GAP × mean of the last record, the largest first."""
    joined = course.edges[-1][course.deaths[-1] <= GAP * course.mean[-1]].astype(int)
    shape = (course.points, course.points)
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape)
    count, labels = connected_components(graph, directed=False)
    groups = [np.flatnonzero(labels == k).tolist() for k in range(count)]
    return sorted(groups, key=lambda group: (-len(group), group))


def held_since(held: Sequence[bool] | np.ndarray) -> int:
    """The first position from which it held to the end; one past the end if not at the end."""
    gone = np.flatnonzero(~np.asarray(held, dtype=bool))
    return int(gone[-1]) + 1 if len(gone) else 0


def _when(course: Course, since: int, only: bool = False) -> str:
    if since == len(course.steps) - 1 or only:
        return f"at step {course.steps[-1]}"
    return "in every record" if since == 0 else f"since step {course.steps[since]}"


def tell_task(run: Run, control: Run | None = None) -> list[str]:
    """Sentences on held-out accuracy and cross-entropy; none where nothing was measured."""
    sentences = []
    for name, title, best in (
        ("accuracy", "The accuracy on held-out items", np.argmax),
        ("ce", "The cross-entropy of held-out items", np.argmin),
    ):
        series = run.measured.get(name)
        if series is None or not len(series.steps) or not np.isfinite(series.values).all():
            continue
        steps, values = series.steps, series.values
        if len(steps) == 1:
            text = f"{title} is {number(values[0])} at step {steps[0]}, the only evaluation"
        else:
            # A share of an accuracy near 0 is a large number that means little.
            changed = change(values[0], values[-1], relative=name != "accuracy")
            text = f"{title} {changed} between step {steps[0]} and step {steps[-1]}"
            top = int(best(values))
            if values[top] != values[-1]:
                text += f" (best: {number(values[top])} at step {steps[top]})"
        theirs = control.measured.get(name) if control else None
        if theirs is not None and len(theirs.steps):
            where = "" if theirs.steps[-1] == steps[-1] else f" at step {theirs.steps[-1]}"
            text += f"; under cross-entropy alone it ends at {number(theirs.values[-1])}{where}"
        sentences.append(text + ".")
        rates = [
            f"{words} reaches {number(run.reference[key])}"
            for key, words in RATES.items()
            if name == "accuracy" and isinstance(run.reference.get(key), (int, float))
        ]
        if rates:
            sentences.append(f"Without tuning, {listed(rates)}.")
    return sentences


def moved(start: float, end: float) -> bool:
    """Whether two values differ by more than 1 % of the larger."""
    return abs(end - start) > STEADY * max(abs(start), abs(end))


def change(start: float, end: float, relative: bool = True) -> str:
    """Such as "rose from 3.05 to 4.1 (+34 %)", or "stayed at 3.05"."""
    if not moved(start, end):
        return f"stayed at {number(end)}"
    text = f"{'rose' if end > start else 'fell'} from {number(start)} to {number(end)}"
    if not relative or not start:
        return text
    share = (end - start) / abs(start)
    if abs(share) > 9.995:
        return f"{text} ({number(end / start)} times)"
    return f"{text} ({share:+.0%})".replace("%", "\u00a0%").replace("-", "−")


def number(value: float) -> str:
    """Three significant digits; no exponent from 0.0001 to a million."""
    if not np.isfinite(value):
        return str(float(value))
    if 999.5 <= abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
