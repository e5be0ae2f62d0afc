"""Whether a prompt is healthy: rules about the lengths of its bars, and their outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.report.wording import number

__all__ = ["EVEN", "GAP", "SHORT", "Check", "Course", "check_course", "find_groups", "held_since"]

# The rules, relative to the mean death of the same record.
SHORT = 0.5  # the rho of tsloss_fast.barcode.redundancy
GAP = 2.0
EVEN = 0.1


@dataclass(frozen=True)
class Check:
    """A rule of the verdict.

    Attributes:
        holds: at the last record; None where it says nothing (no bars, or numbers not finite).
        found: what was found there, in words.
        held, of: in how many records it held, of how many in which it says something.
    """

    name: str
    rule: str
    holds: bool | None
    found: str
    held: int
    of: int


class Course:
    """A cloud over its records: what the rules and the sentences are made from."""

    def __init__(self, record: TopologyRecord, cloud: int) -> None:
        columns = CloudColumns(record, cloud)
        self.columns = columns
        self.steps = columns.steps
        empty = np.zeros(0)
        # A cloud that is not finite is recorded without bars.
        deaths = columns.lists("deaths")
        self.finite = np.array([x is not None and bool(np.isfinite(x).all()) for x in deaths])
        self.deaths = [x if x is not None else empty for x in deaths]
        self.edges = [x if x is not None else np.zeros((0, 2)) for x in columns.lists("edges")]
        self.points = int(columns.numbers("n_points")[-1])
        # A record that is not finite has no mean, and no rule about lengths says anything there.
        self.mean = np.array([x.mean() if len(x) and np.isfinite(x).all() else np.nan
                              for x in self.deaths])  # fmt: skip
        self.cv = np.array([_cv(x, m) for x, m in zip(self.deaths, self.mean, strict=True)])
        self.short = [self._short(k) for k in range(len(self.steps))]
        self.longest = np.array([x.max() / m if m > 0 else np.nan
                                 for x, m in zip(self.deaths, self.mean, strict=True)])  # fmt: skip

    @property
    def last(self) -> int:
        return int(self.steps[-1])

    @property
    def known(self) -> np.ndarray:
        """Where there are bars with a mean."""
        return np.asarray(np.isfinite(self.mean))

    def _short(self, k: int) -> dict[tuple[int, int], float]:
        """Pairs that nearly coincide, with their distance over the mean (0 where all coincide)."""
        mean = self.mean[k]
        if not np.isfinite(mean):
            return {}
        found = (self.deaths[k] < SHORT * mean) | (self.deaths[k] == 0)
        pairs = zip(self.edges[k][found].tolist(), self.deaths[k][found], strict=True)
        return {(int(i), int(j)): float(d / mean) if mean > 0 else 0.0 for (i, j), d in pairs}


def _cv(deaths: np.ndarray, mean: float) -> float:
    return float(deaths.std() / mean) if mean > 0 else float(mean)  # 0 for bars all of length 0


def check_course(course: Course) -> list[Check]:
    """The rules in the order to read them; the first three are the verdict."""
    known = course.known
    pairs = len(course.short[-1])
    if known[-1] and course.mean[-1] == 0:
        found = f"all {course.points} tokens coincide"
    else:
        found = counted(pairs, "redundant pair")
    none = "no bars (fewer than two tokens)" if course.finite[-1] else "not finite"
    without_pairs = np.array([not short for short in course.short]) & known
    # NaN compares as False; where all coincide there is no gap, and nothing to be uneven.
    without_gap = ~(course.longest > GAP) & known
    even = (course.cv < EVEN) & known
    longest = f"longest bar {number(course.longest[-1])} × mean"
    zero = known[-1] and course.mean[-1] == 0

    def check(name: str, rule: str, held: np.ndarray, said: str) -> Check:
        holds = bool(held[-1]) if known[-1] else None
        return Check(
            name, rule, holds, said if known[-1] else none, int(held.sum()), int(known.sum())
        )

    finite = course.finite
    return [
        Check("finite", "every death is a finite number", bool(finite[-1]),
              "all finite" if finite[-1] else "deaths that are not finite",
              int(finite.sum()), len(finite)),
        check("no redundant pair", f"every death ≥ {SHORT:g} × mean", without_pairs, found),
        check("no gap", f"longest bar ≤ {GAP:g} × mean", without_gap,
              "all bars of length 0" if zero else longest),
        check("even bars", f"coefficient of variation < {EVEN:g}", even,
              f"coefficient of variation {number(course.cv[-1])}"),
    ]  # fmt: skip


def find_groups(course: Course) -> list[list[int]]:
    """The components at scale GAP × mean of the last record, the largest first."""
    parent = list(range(course.points))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    joined = course.deaths[-1] <= GAP * course.mean[-1]
    for i, j in course.edges[-1][joined].astype(int).tolist():
        parent[root(i)] = root(j)
    groups: dict[int, list[int]] = {}
    for i in range(course.points):
        groups.setdefault(root(i), []).append(i)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def held_since(held: Sequence[bool] | np.ndarray) -> int:
    """The first position from which it held to the end; one past the end if not at the end."""
    gone = np.flatnonzero(~np.asarray(held, dtype=bool))
    return int(gone[-1]) + 1 if len(gone) else 0
