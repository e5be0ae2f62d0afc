"""The course of a prompt in plain sentences, and its health by the first three of four rules.

Every sentence is a statement about numbers of the record, with the steps at which they stand.
"Since step s" means: in every record from s to the last one. Nothing is said of what lies between
two records, nor of causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.words import RATES, THRESHOLDS

__all__ = [
    "VARIATION", "Course", "capital", "change", "listed", "moved", "number", "tell", "tell_task",
]  # fmt: skip

VARIATION = "coefficient_of_variation"
# Shares of the mean death of the same record, but for EVEN, a coefficient of variation.
SHORT, GAP, EVEN = (THRESHOLDS[name] for name in ("short", "gap", "even"))
# Smaller relative changes are called none.
STEADY = 0.01
SHOWN_PAIRS = 3


class Course:
    """A cloud over its records: what the rules and the sentences are made from.

    Attributes:
        steps: of the records, (S,).
        deaths, edges: by record; empty where the cloud was not finite.
        finite: (S,) whether all deaths are finite numbers.
        known: (S,) whether there are bars, and all of them finite.
        mean, variation, longest: (S,) mean death, coefficient of variation, and longest bar over
            the mean; NaN where they are not known, as are the last two where all bars are 0.
        short: by record the pairs that nearly coincide, with their distance over the mean.
    """

    def __init__(self, record: TopologyRecord, cloud: int = 0) -> None:
        columns = CloudColumns(record, cloud)
        self.steps = columns.steps
        deaths, edges = columns.lists("deaths"), columns.lists("edges")
        self.finite = np.array([x is not None and bool(np.isfinite(x).all()) for x in deaths])
        self.deaths = [np.zeros(0) if x is None else x for x in deaths]
        self.edges = [np.zeros((0, 2), int) if x is None else x for x in edges]
        self.points = int(columns.numbers("n_points")[-1])
        self.known = self.finite & [len(x) > 0 for x in self.deaths]
        self.mean = np.where(self.known, columns.numbers("mean_lifetime"), np.nan)
        self.variation = np.where(self.mean > 0, columns.numbers(VARIATION), np.nan)
        scale = np.where(self.mean > 0, self.mean, np.nan)
        self.longest = columns.numbers("max_lifetime") / scale
        self.short: list[dict[tuple[int, int], float]] = []
        for bars, pairs, size in zip(self.deaths, self.edges, scale, strict=True):
            close = (bars < SHORT * size) | (bars == 0)
            shares = np.nan_to_num(bars[close] / size).tolist()
            self.short.append(dict(zip(map(tuple, pairs[close].tolist()), shares, strict=True)))

    def lack(self) -> str:
        """Return why the last record has no coefficient of variation; empty where it has one."""
        if not self.known[-1]:
            none = "no bars (fewer than two tokens)"
            return none if self.finite[-1] else "deaths that are not finite"
        known = np.isfinite(self.variation[-1])
        return "" if known else "bars of length 0 only" if self.mean[-1] == 0 else "no mean death"

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules in the order to read them; the first three make the verdict.

        Each has its name, the rule, whether it `holds` at the last record (None where it says
        nothing), what was found there, and in how many records it held.
        """
        pairs = counted(len(self.short[-1]), "nearly coinciding pair")
        longest = f"longest bar {number(self.longest[-1])} × mean"
        if self.mean[-1] == 0:
            pairs, longest = f"all {self.points} tokens coincide", "all bars of length 0"
        every, apart = np.full(len(self.steps), True), np.array([not s for s in self.short])
        finite = "all finite" if self.finite[-1] else "deaths that are not finite"
        spread = f"coefficient of variation {number(self.variation[-1])}"
        least = f"every death > 0 and ≥ {SHORT:g} × mean"
        # NaN compares as False.
        rules = (
            ("finite", "every death is a finite number", every, self.finite, finite),
            ("no nearly coinciding pair", least, self.known, apart, pairs),
            ("no gap", f"longest bar ≤ {GAP:g} × mean", self.known, ~(self.longest > GAP), longest),
            ("even bars (no part of the verdict)", f"coefficient of variation < {EVEN:g}",
             self.mean > 0, self.variation < EVEN, spread),
        )  # fmt: skip
        return [
            {"name": name, "rule": rule, "found": found if judged[-1] else self.lack()}
            | {"holds": bool(held[-1]) if judged[-1] else None}
            | {"records": f"{(held & judged).sum()} of {judged.sum()}"}
            for name, rule, judged, held, found in rules
        ]


def tell(course: Course, label: Callable[[int], str] = "token {}".format) -> dict[str, Any]:
    """Return the verdict on one cloud at its last record, its kind ("good", "bad", or "none" where
    nothing can be judged), the rules that it follows from, and sentences in the order to read them.

    Args:
        label: gives a virtual token its name; "token 3" by default. Tokens are counted from 0.
    """
    rules, last = course.rules(), course.steps[-1]
    said = zip(("{}", "{}", "a gap ({})"), rules, strict=False)
    bad = [words.format(rule["found"]) for words, rule in said if rule["holds"] is False]
    even = "even" if rules[3]["holds"] else "uneven"
    kind, verdict = "good", f"Healthy at step {last}: no pair nearly coincides, no gap; bars {even}"
    if bad:
        kind, verdict = "bad", f"Not healthy at step {last}: {', '.join(bad)}"
    elif not course.known[-1]:
        kind, verdict = "none", f"Nothing to judge at step {last}: {rules[1]['found']}"
    parts = _of_bars(course), _of_pairs(course, label), _of_gap(course, label), _of_merges(course)
    sentences = [sentence for part in parts for sentence in part]
    return {"verdict": verdict, "kind": kind, "rules": rules, "sentences": sentences}


def _of_bars(course: Course) -> Iterator[str]:
    bad = course.steps[~course.finite]
    if len(bad):
        yield (
            f"Deaths are not finite in {len(bad)} of {counted(len(course.steps), 'record')}, the "
            f"first at step {bad[0]}: the points had NaN or infinite coordinates, or overflowed."
        )
    for name, known in (
        ("mean death", course.mean),
        ("coefficient of variation of the bars", course.variation),
    ):
        steps, values = (x[np.isfinite(known)] for x in (course.steps, known))
        if len(steps) > 1:
            went = change(values[0], values[-1])
            yield f"Between step {steps[0]} and step {steps[-1]} the {name} {went}."
        elif len(steps):
            yield f"The {name} is {number(values[0])} at step {steps[0]}."


def _of_pairs(course: Course, label: Callable[[int], str]) -> Iterator[str]:
    if course.mean[-1] == 0:
        yield "All tokens coincide: every bar has length 0."
        return
    now = course.short[-1]
    for i, j in sorted(now, key=lambda pair: now[pair])[:SHOWN_PAIRS]:
        when = _when(course, np.array([(i, j) in short for short in course.short]))
        yield (
            f"{capital(label(i))} and {label(j)} nearly coincide {when}: their distance is "
            f"{number(now[i, j])} of the mean death."
        )
    if len(now) > SHOWN_PAIRS:
        more = counted(len(now) - SHOWN_PAIRS, "more pair")
        yield f"The same is true of {more} of neighbours in the tree."


def _of_gap(course: Course, label: Callable[[int], str]) -> Iterator[str]:
    above = course.longest > GAP
    if not above[-1]:
        return
    # The groups at the scale GAP × mean of the last record.
    near = course.edges[-1][course.deaths[-1] <= GAP * course.mean[-1]]
    graph = coo_array((np.ones(len(near)), near.T), (course.points, course.points))
    sizes = sorted(np.bincount(connected_components(graph, directed=False)[1]), reverse=True)
    shown = listed([str(size) for size in sizes[:6]]) + " and fewer" * (len(sizes) > 6)
    i, j = map(label, course.edges[-1][course.deaths[-1].argmax()].tolist())
    yield (
        f"The prompt splits into {len(sizes)} groups of {shown} tokens {_when(course, above)}: the "
        f"longest bar, from {i} to {j}, is {number(course.longest[-1])} times the mean."
    )


def _of_merges(course: Course) -> Iterator[str]:
    # A record without bars has no merges to compare with.
    trees = [{*map(tuple, edges.tolist())} for edges in course.edges if len(edges)]
    steps = course.steps[[len(edges) > 0 for edges in course.edges]]
    changed = [k for k, (old, new) in enumerate(pairwise(trees), 1) if new != old]
    if changed:
        before, after = steps[changed[-1] - 1], steps[changed[-1]]
        yield f"The merge tree last changed between step {before} and step {after}."
    elif len(trees) > 1:
        yield f"The merge tree is the same in all {len(trees)} records that have bars."


def _when(course: Course, held: np.ndarray) -> str:
    """The records from which it held to the last one, where it holds."""
    broken = np.flatnonzero(~held)
    since = int(broken[-1]) + 1 if len(broken) else 0
    if since == len(held) - 1:
        return f"at step {course.steps[-1]}"
    return f"since step {course.steps[since]}" if since else "in every record"


def tell_task(run: Run) -> list[str]:
    """Sentences on held-out accuracy and cross-entropy; none where nothing was measured."""
    sentences = []
    for name, title in (("accuracy", "accuracy on"), ("ce", "cross-entropy of")):
        series = run.measured.get(name)
        if series is not None and np.isfinite(series.values).all():
            steps, values = series.steps, series.values
            # A share of an accuracy near 0 is a large number that means little.
            text = change(values[0], values[-1], relative=name != "accuracy")
            text = f"{text} between step {steps[0]} and step {steps[-1]}"
            sentences.append(f"The {title} held-out items {text}.")
    rates = [
        f"{number(run.reference[key])} ({words})"
        for key, words in RATES.items()
        if isinstance(run.reference.get(key), (int, float))
    ]
    if sentences and rates:
        sentences.append(f"Without tuning the accuracy is {listed(rates)}.")
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
    return f"{text} ({(end - start) / abs(start):+.0%})".replace("%", "\u00a0%").replace("-", "−")


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, or as many as asked for; no exponent from 0.0001 to a million."""
    whole = 10**digits - 0.5 <= abs(value) < 1e6
    return format(float(value), ".0f" if whole else f".{digits}g").replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([part for part in (", ".join(words[:-1]), *words[-1:]) if part])


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
