"""What happened to a prompt, in plain sentences.

Every sentence is a statement about numbers of the record, with the steps at which they stand.
"Since step s" means: in every record from s to the last one. Nothing is said of what lies between
two records, nor of causes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import TopologyRecord
from tsloss_fast.analysis.report.health import (
    EVEN,
    GAP,
    Check,
    Course,
    check_course,
    find_groups,
    held_since,
)
from tsloss_fast.analysis.report.wording import capital, change, listed, moved, number

__all__ = ["Story", "tell", "token"]

# Levels of the coefficient of variation worth naming; the tightest that lasts is named.
LEVELS = (0.01, 0.02, 0.05, EVEN)
# Bars that move less than this share of their mean from one record to the next are at rest.
REST = 0.01
SHOWN_PAIRS = 3

Label = Callable[[int], str]


def token(index: int) -> str:
    return f"token {index}"


@dataclass(frozen=True)
class Story:
    """Sentences in the order to read them, and the verdict at the last record."""

    verdict: str
    healthy: bool
    checks: tuple[Check, ...]
    sentences: tuple[str, ...]


def tell(
    record: TopologyRecord,
    cloud: int = 0,
    control: TopologyRecord | None = None,
    label: Label = token,
) -> Story:
    """The story of one cloud.

    Args:
        control: the run with cross-entropy alone, set beside this one where its record has the
            same cloud.
        label: what to call a virtual token; "token 3" by default. Tokens are counted from 0.
    """
    course = Course(record, cloud)
    beside = None
    if control is not None and cloud in control.clouds:
        beside = Course(control, cloud)
    checks = check_course(course)
    sentences = [
        *_of_finiteness(course),
        *_of_mean(course, beside),
        *_of_evenness(course, beside),
        *_of_pairs(course, label),
        *_of_gaps(course, label),
        *_of_merges(course),
        *_of_movement(course, beside),
    ]
    said = ("{}", "{}", "a gap ({})")
    bad = [
        words.format(check.found)
        for words, check in zip(said, checks, strict=False)
        if check.holds is False
    ]
    unknown = course.points < 2 or not np.isfinite(course.mean[-1])
    if bad:
        verdict = f"Not healthy at step {course.last}: {', '.join(bad)}"
    elif unknown:
        verdict = f"Nothing to judge at step {course.last}: {checks[1].found}"
    else:
        even = "bars even" if checks[3].holds else "bars uneven"
        verdict = f"Healthy at step {course.last}: no redundant pair, no gap; {even}"
    return Story(verdict, not bad and not unknown, tuple(checks), tuple(sentences))


def _of_finiteness(course: Course) -> list[str]:
    bad = course.steps[~course.finite]
    if not len(bad):
        return []
    return [
        f"{len(bad)} of {len(course.steps)} records hold deaths that are not finite, the first "
        f"at step {bad[0]}: the points had NaN or infinite coordinates, or overflowed there."
    ]


def _of_mean(course: Course, control: Course | None) -> list[str]:
    where = np.flatnonzero(course.known)
    if not len(where):
        return []
    first, last = int(where[0]), int(where[-1])
    start, end = course.mean[first], course.mean[last]
    if first == last:
        return [f"At step {course.steps[last]}, the only record, the mean death is {number(end)}."]
    a, b = course.steps[first], course.steps[last]
    text = f"Between step {a} and step {b} the mean death {change(start, end)}"
    if control is not None and control.known.any():
        their = np.flatnonzero(control.known)
        before, after = control.mean[their[0]], control.mean[their[-1]]
        at = control.steps[their[-1]]
        text += f"; under cross-entropy alone it {change(before, after)}"
        text += f" by step {at}" if at != b else ""
    sentences = [text + "."]
    if moved(start, end) and last - first >= 3:
        half = where[np.abs(course.mean[where] - start) >= abs(end - start) / 2][0]
        sentences.append(f"Half of that change was reached at step {course.steps[half]}.")
    values = course.mean[where]
    for index, word in (
        (where[np.argmax(values)], "highest"),
        (where[np.argmin(values)], "lowest"),
    ):
        beyond = min(abs(course.mean[index] - start), abs(course.mean[index] - end))
        if index not in (first, last) and beyond > 0.1 * max(abs(start), abs(end)):
            value = number(course.mean[index])
            sentences.append(f"It was {word} at step {course.steps[index]}: {value}.")
    return sentences


def _of_evenness(course: Course, control: Course | None) -> list[str]:
    if not course.known[-1] or len(course.deaths[-1]) < 2 or course.mean[-1] == 0:
        return []
    end, first = course.cv[-1], int(np.flatnonzero(course.known)[0])
    began = f"{number(course.cv[first])} at step {course.steps[first]}"
    once = first == len(course.steps) - 1
    beside = ""
    if control is not None and control.known[-1]:
        beside = f"; under cross-entropy alone it ends at {number(control.cv[-1])}"
    if end >= EVEN:
        text = f"At step {course.last} the bars are uneven: coefficient of variation {number(end)}"
        return [text + ("" if once else f" ({began})") + f"{beside}."]
    if once:
        return [f"The bars are even: coefficient of variation {number(end)}{beside}."]
    lasting = [
        (level, since)
        for level in LEVELS
        if end < level and (since := held_since(course.cv < level)) <= len(course.steps) - 2
    ]
    level, since = lasting[0] if lasting else (EVEN, len(course.steps) - 1)
    when = "In every record" if since == 0 else f"From step {course.steps[since]} on"
    now = f"{number(end)} at step {course.last}, {began}"
    return [f"{when} the bars are even: coefficient of variation below {level:g} ({now}){beside}."]


def _of_pairs(course: Course, label: Label) -> list[str]:
    if not course.known[-1]:
        return []
    if course.mean[-1] == 0:
        return ["All tokens coincide: every bar has length 0."]
    now = course.short[-1]
    sentences = []
    for pair in sorted(now, key=lambda p: now[p])[:SHOWN_PAIRS]:
        since = held_since([pair in short for short in course.short])
        first, second = map(label, pair)
        sentences.append(
            f"{capital(first)} and {second} nearly coincide {_when(course, since)}: their "
            f"distance is {number(now[pair])} of the mean death."
        )
    if len(now) > SHOWN_PAIRS:
        more = len(now) - SHOWN_PAIRS
        sentences.append(f"So do {more} more pairs of neighbours in the tree.")
    counts = [len(short) for short in course.short]
    most = int(np.argmax(counts))
    if counts[most] > len(now):
        tail = ""
        if not now:
            clear = held_since([count == 0 for count in counts])
            tail = f"; none does since step {course.steps[clear]}"
        pairs = counted(counts[most], "pair")
        sentences.append(f"At step {course.steps[most]} {pairs} nearly coincided{tail}.")
    return sentences


def _of_gaps(course: Course, label: Label) -> list[str]:
    above = course.longest > GAP
    if above[-1]:
        since = held_since(above)
        groups = find_groups(course)
        alone = [label(group[0]) for group in groups if len(group) == 1]
        sizes = [str(len(group)) for group in groups]
        if len(groups) > 6:
            what = f"the prompt splits into {len(groups)} groups"
        elif len(alone) == len(groups) - 1:
            verb = "stands" if len(alone) == 1 else "stand"
            what = f"{listed(alone)} {verb} apart from the others"
        else:
            what = f"the prompt splits into {len(groups)} groups of {listed(sizes)} tokens"
        return [
            f"{capital(what)} {_when(course, since)}: the longest bar is "
            f"{number(course.longest[-1])} times the mean."
        ]
    if above.any():
        peak = int(np.nanargmax(course.longest))
        return [
            f"At step {course.steps[peak]} there was a gap, with the longest bar "
            f"{number(course.longest[peak])} times the mean; none is above {GAP:g} times since "
            f"step {course.steps[held_since(~above)]}."
        ]
    return []


def _of_merges(course: Course) -> list[str]:
    added = course.columns.lists("edges_added")
    counts = np.array([len(x) if x is not None else 0 for x in added])
    bars = len(course.deaths[-1])
    if len(counts) < 2 or not bars or not any(x is not None for x in added[1:]):
        return []
    # The first record has none before it, and one without bars has no merges to compare with.
    counts[0] = 0
    counts[1:][~course.finite[:-1]] = 0
    if not counts.any():
        return [f"The merge tree is the same in all {len(counts)} records: no merge changed."]
    most = int(np.argmax(counts))
    text = (
        f"{counts[most]} of {bars} merges changed between step {course.steps[most - 1]} and "
        f"step {course.steps[most]}"
    )
    text += ", more than at any other time" if (counts == counts[most]).sum() == 1 else ""
    final = int(np.flatnonzero(counts)[-1])
    if final < len(counts) - 1:
        text += f"; none has changed since step {course.steps[final]}"
    elif final != most:
        text += f"; {counts[final]} changed between the last two records"
    return [text + "."]


def _of_movement(course: Course, control: Course | None) -> list[str]:
    sentences = []
    moved = course.columns.numbers("displacement_first")
    if len(moved) > 1 and np.isfinite(moved[-1]):
        text = f"Since step {course.steps[0]} a token has moved by {number(moved[-1])} on average"
        if course.known[0] and course.mean[0] > 0 and course.columns.record.metadata.get(
            "metric", "euclidean"
        ) == "euclidean":  # fmt: skip
            text += f", {number(moved[-1] / course.mean[0])} times the first mean death"
        if control is not None and np.isfinite(theirs := control.columns.numbers(
            "displacement_first"
        )[-1]):  # fmt: skip
            text += f"; under cross-entropy alone by {number(theirs)}"
        sentences.append(text + ".")
    shift = course.columns.numbers("bottleneck_previous")
    rest = shift < REST * course.mean
    since = held_since(rest)
    if len(rest) - since >= 3 and since < len(rest):
        sentences.append(
            f"The barcode has been at rest since step {course.steps[since]}: from one record to "
            f"the next no bar changed by more than {100 * REST:g}\u00a0% of the mean (bottleneck "
            "distance)."
        )
    return sentences


def _when(course: Course, since: int) -> str:
    if len(course.steps) == 1 or since == len(course.steps) - 1:
        return f"at step {course.last}"
    return "in every record" if since == 0 else f"since step {course.steps[since]}"
