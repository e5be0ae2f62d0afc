"""The course of a prompt in plain sentences, and its health by four rules.

Every sentence is a statement about numbers of the record, with the steps at which they stand.
"Since step s" means: in every record from s to the last one. Nothing is said of what lies between
two records, nor of causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.words import RATES, THRESHOLDS

__all__ = ["Course", "capital", "change", "listed", "moved", "number", "tell", "tell_task"]

# Shares of the mean death of the same record, but for EVEN, a coefficient of variation.
SHORT, GAP, EVEN, REST = (THRESHOLDS[name] for name in ("short", "gap", "even", "rest"))
# Levels of the coefficient of variation worth naming; the tightest that lasts is named.
LEVELS = (0.01, 0.02, 0.05, EVEN)
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
            the mean; NaN where they are not known.
        short: by record the pairs that nearly coincide, with their distance over the mean.
    """

    def __init__(self, record: TopologyRecord, cloud: int = 0) -> None:
        self.columns = columns = CloudColumns(record, cloud)
        self.steps = columns.steps
        deaths, edges = columns.lists("deaths"), columns.lists("edges")
        self.finite = np.array([x is not None and bool(np.isfinite(x).all()) for x in deaths])
        self.deaths = [np.zeros(0) if x is None else x for x in deaths]
        self.edges = [np.zeros((0, 2), int) if x is None else x for x in edges]
        self.points = int(columns.numbers("n_points")[-1])
        self.known = self.finite & [len(x) > 0 for x in self.deaths]
        self.mean = np.where(self.known, columns.numbers("mean_lifetime"), np.nan)
        self.variation = np.where(self.known, columns.numbers("coefficient_of_variation"), np.nan)
        scale = np.where(self.mean > 0, self.mean, np.nan)
        self.longest = columns.numbers("max_lifetime") / scale
        self.short: list[dict[tuple[int, int], float]] = []
        for bars, pairs, size in zip(self.deaths, self.edges, scale, strict=True):
            close = (bars < SHORT * size) | (bars == 0)
            shares = np.nan_to_num(bars[close] / size).tolist()
            self.short.append(dict(zip(map(tuple, pairs[close].tolist()), shares, strict=True)))

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules in the order to read them; the first three make the verdict.

        Each has its name, the rule, whether it `holds` at the last record (None where it says
        nothing), what was found there, and in how many records it held.
        """
        none = "no bars (fewer than two tokens)" if self.finite[-1] else "not finite"
        pairs = counted(len(self.short[-1]), "nearly coinciding pair")
        longest = f"longest bar {number(self.longest[-1])} × mean"
        if self.mean[-1] == 0:
            pairs, longest = f"all {self.points} tokens coincide", "all bars of length 0"
        apart = np.array([not short for short in self.short])
        finite = "all finite" if self.finite[-1] else "deaths that are not finite"
        spread = f"coefficient of variation {number(self.variation[-1])}"
        every = np.full(len(self.steps), True)
        # NaN compares as False.
        rules = (
            ("finite", "every death is a finite number", self.finite, every, finite),
            ("no nearly coinciding pair", f"every death ≥ {SHORT:g} × mean", apart, self.known,
             pairs),
            ("no gap", f"longest bar ≤ {GAP:g} × mean", ~(self.longest > GAP), self.known, longest),
            ("even bars", f"coefficient of variation < {EVEN:g}", self.variation < EVEN,
             self.known, spread),
        )  # fmt: skip
        return [
            {"name": name, "rule": rule, "found": found if judged[-1] else none}
            | {"holds": bool(held[-1]) if judged[-1] else None}
            | {"records": f"{(held & judged).sum()} of {judged.sum()}"}
            for name, rule, held, judged, found in rules
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
    if bad:
        kind, verdict = "bad", f"Not healthy at step {last}: {', '.join(bad)}"
    elif not course.known[-1]:
        kind, verdict = "none", f"Nothing to judge at step {last}: {rules[1]['found']}"
    else:
        even = "even" if rules[3]["holds"] else "uneven"
        kind, verdict = (
            "good",
            f"Healthy at step {last}: no pair nearly coincides, no gap; bars {even}",
        )
    sentences = [
        *_of_lengths(course),
        *_of_evenness(course),
        *_of_pairs(course, label),
        *_of_gaps(course, label),
        *_of_merges(course),
        *_of_movement(course),
    ]
    return {"verdict": verdict, "kind": kind, "rules": rules, "sentences": sentences}


def _of_lengths(course: Course) -> Iterator[str]:
    bad = course.steps[~course.finite]
    if len(bad):
        yield (
            f"{len(bad)} of {len(course.steps)} records hold deaths that are not finite, the first "
            f"at step {bad[0]}: the points had NaN or infinite coordinates, or overflowed there."
        )
    values, steps = course.mean[course.known], course.steps[course.known]
    if len(values) == 1:
        yield f"The mean death is {number(values[0])} at step {steps[0]}."
    if len(values) < 2:
        return
    start, end = values[0], values[-1]
    yield f"Between step {steps[0]} and step {steps[-1]} the mean death {change(start, end)}."
    if moved(start, end) and len(values) > 3:
        half = steps[np.abs(values - start) >= abs(end - start) / 2][0]
        yield f"Half of that change was reached at step {half}."
    for k, word in ((values.argmax(), "highest"), (values.argmin(), "lowest")):
        if abs(values[k] - [start, end]).min() > 0.1 * max(start, end):
            yield f"It was {word} at step {steps[k]}: {number(values[k])}."


def _of_evenness(course: Course) -> Iterator[str]:
    if not course.known[-1] or len(course.deaths[-1]) < 2 or course.mean[-1] == 0:
        return
    end, first, last = course.variation[-1], int(course.known.argmax()), len(course.steps) - 1
    now = f"{number(end)} at step {course.steps[-1]}"
    if first != last:
        now += f", {number(course.variation[first])} at step {course.steps[first]}"
    if end >= EVEN:
        yield f"The bars are uneven: coefficient of variation {now}."
        return
    # A level that only the last record has reached is not one that lasts.
    lasting = ((level, held_since(course.variation < level)) for level in LEVELS)
    level, since = next((found for found in lasting if found[1] < last), (EVEN, last))
    when = capital(_when(course, since))
    yield f"{when} the bars are even: coefficient of variation below {level:g} ({now})."


def _of_pairs(course: Course, label: Callable[[int], str]) -> Iterator[str]:
    now, counts = course.short[-1], np.array([len(short) for short in course.short])
    if course.mean[-1] == 0:
        yield "All tokens coincide: every bar has length 0."
        return
    for i, j in sorted(now, key=lambda pair: now[pair])[:SHOWN_PAIRS]:
        since = _when(course, held_since([(i, j) in short for short in course.short]))
        yield (
            f"{capital(label(i))} and {label(j)} nearly coincide {since}: their distance is "
            f"{number(now[i, j])} of the mean death."
        )
    if len(now) > SHOWN_PAIRS:
        yield f"So do {len(now) - SHOWN_PAIRS} more pairs of neighbours in the tree."
    most = int(counts.argmax())
    if counts[most] > len(now) and course.known[-1]:
        tail = "" if now else f"; none does since step {course.steps[held_since(counts == 0)]}"
        pairs = counted(int(counts[most]), "pair")
        yield f"At step {course.steps[most]} {pairs} nearly coincided{tail}."


def _of_gaps(course: Course, label: Callable[[int], str]) -> Iterator[str]:
    above = course.longest > GAP
    if above[-1]:
        groups = find_groups(course)
        alone = [label(group[0]) for group in groups if len(group) == 1]
        if len(alone) == len(groups) - 1 and len(groups) <= 6:
            what = (
                f"{listed(alone)} {'stands' if len(alone) == 1 else 'stand'} apart from the others"
            )
        else:
            sizes = listed([str(len(group)) for group in groups[:6]])
            more = " and fewer" if len(groups) > 6 else ""
            what = f"the prompt splits into {len(groups)} groups of {sizes}{more} tokens"
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
    # The first record has none before it, and one without bars has no merges to compare with.
    counts[0] = 0
    counts[1:][~course.finite[:-1]] = 0
    if not len(course.deaths[-1]) or all(x is None for x in added[1:]):
        return
    if not counts.any():
        yield f"The merges are the same in all {len(counts)} records."
        return
    most, final = int(counts.argmax()), int(np.flatnonzero(counts)[-1])
    text = f"{counts[most]} of {len(course.deaths[most])} merges changed between step "
    text += f"{course.steps[most - 1]} and step {course.steps[most]}"
    if final == len(counts) - 1:
        yield f"{text}; {counts[final]} changed between the last two records."
    else:
        yield f"{text}; none has changed since step {course.steps[final]}."


def _of_movement(course: Course) -> Iterator[str]:
    moved_by = course.columns.numbers("displacement_first")[-1]
    if len(course.steps) > 1 and np.isfinite(moved_by):
        text = f"Since step {course.steps[0]} a token has moved by {number(moved_by)} on average"
        metric = course.columns.record.metadata.get("metric", "euclidean")
        if course.mean[0] > 0 and metric == "euclidean":
            text += f", {number(moved_by / course.mean[0])} times the first mean death"
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
    i, j = course.edges[-1][course.deaths[-1] <= GAP * course.mean[-1]].T
    graph = coo_array((np.ones(len(i)), (i, j)), (course.points, course.points))
    count, labels = connected_components(graph, directed=False)
    groups = [np.flatnonzero(labels == k).tolist() for k in range(count)]
    return sorted(groups, key=lambda group: (-len(group), group))


def held_since(held: Sequence[bool] | np.ndarray) -> int:
    """The first position from which it held to the end; one past the end if not at the end."""
    gone = np.flatnonzero(~np.asarray(held, dtype=bool))
    return int(gone[-1]) + 1 if len(gone) else 0


def _when(course: Course, since: int) -> str:
    if since == len(course.steps) - 1:
        return f"at step {course.steps[-1]}"
    return "in every record" if since == 0 else f"since step {course.steps[since]}"


def tell_task(run: Run) -> list[str]:
    """Sentences on held-out accuracy and cross-entropy; none where nothing was measured."""
    sentences = []
    for name, title in (("accuracy", "accuracy on"), ("ce", "cross-entropy of")):
        series = run.measured.get(name)
        if series is None or not np.isfinite(series.values).all():
            continue
        steps, values = series.steps, series.values
        # A share of an accuracy near 0 is a large number that means little.
        text = change(values[0], values[-1], relative=name != "accuracy")
        best = int(values.argmax() if name == "accuracy" else values.argmin())
        top = f" (best: {number(values[best])} at step {steps[best]})"
        top *= bool(values[best] != values[-1])
        between = f"between step {steps[0]} and step {steps[-1]}"
        sentences.append(f"The {title} held-out items {text} {between}{top}.")
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
    share = (end - start) / abs(start)
    if abs(share) > 9.995:
        return f"{text} ({number(end / start)} times)"
    return f"{text} ({share:+.0%})".replace("%", "\u00a0%").replace("-", "−")


def number(value: float) -> str:
    """Three significant digits; no exponent from 0.0001 to a million."""
    whole = 999.5 <= abs(value) < 1e6
    return format(float(value), ".0f" if whole else ".3g").replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([part for part in (", ".join(words[:-1]), *words[-1:]) if part])


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
