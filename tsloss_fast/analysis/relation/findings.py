"""Correlations of topology with performance, and sentences that say what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsloss_fast.analysis.relation.groups import RunGroup
from tsloss_fast.analysis.relation.spearman import MINIMUM_SEEDS

__all__ = ["CAUTION", "Correlation", "Relation"]

CAUTION = (
    "Correlation, not cause; over the steps, anything that grows in training correlates with "
    "anything else that does."
)


@dataclass(frozen=True)
class Correlation:
    """Spearman's coefficient of one quantity with one outcome, in one group of runs.

    Attributes:
        view: "steps": the mean over runs of the coefficient over the steps within each run;
            "runs": the coefficient over the runs, last value against last value.
        group: index into `Relation.groups`.
        quantity, outcome: what was related.
        coefficient: in [-1, 1]; None where it is undefined. In the view "runs" None with fewer than
            5 seeds too; in the view "steps" it then describes these runs and no others.
        low, high: ends of the bootstrap interval over runs; None with fewer than 5 seeds.
        runs: the runs that it comes from.
        seeds: how many different seeds they have; a run that does not say its seed has its own.
        steps: the steps that it comes from, all runs together (one a run in the view "runs").
        constant: runs left out because one of the two never changes.
        missing: runs left out because they do not have both (at 3 steps at least).
        by_run: in the view "steps" the coefficient of every run of the group, in the order of
            `RunGroup.runs`, None where there is none. A description of these runs, no more.
    """

    view: str
    group: int
    quantity: str
    outcome: str
    coefficient: float | None
    low: float | None
    high: float | None
    runs: int
    steps: int
    constant: int
    missing: int
    by_run: tuple[float | None, ...] = ()
    seeds: int = 0

    @property
    def claim(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Relation:
    """All correlations that were looked at, by group, then view, quantity and outcome."""

    correlations: tuple[Correlation, ...]
    groups: tuple[RunGroup, ...]
    confidence: float
    resamples: int
    seed: int

    @property
    def claim(self) -> bool:
        """Whether anything was looked at with seeds enough (5) for an interval."""
        return any(entry.low is not None for entry in self.correlations)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary a correlation, of what JSON can hold (None, never NaN)."""
        return [
            {"task": self.groups[entry.group].task, "model": self.groups[entry.group].model}
            | asdict(entry)
            | {"claim": entry.claim, "by_run": list(entry.by_run)}
            for entry in self.correlations
        ]

    def sentences(self) -> list[str]:
        """Return what may be said of other runs, and how far, in English; the caution always.

        There is a sentence for each interval that excludes zero, and one that says how many pairs
        were looked at.
        """
        if not self.groups:
            return ["No runs: nothing was looked at.", CAUTION]
        found = []
        several = len(self.groups) > 1
        if several:
            found.append(
                f"The runs are of {len(self.groups)} tasks or models, which are not taken together."
            )
        for index, group in enumerate(self.groups):
            entries = [entry for entry in self.correlations if entry.group == index]
            start = f"Task {group.task or 'unknown'}, model {group.model or 'unknown'}: "
            of_group = _of_group(group, entries, self.confidence)
            found += [start + sentence if several else sentence for sentence in of_group]
        return [*found, CAUTION]


def _of_group(group: RunGroup, entries: Sequence[Correlation], confidence: float) -> Iterator[str]:
    count = len(group.runs)
    if group.seeds < MINIMUM_SEEDS:
        # Runs of one seed have the same start and the same data: they count once.
        of = "" if group.seeds == count else f" of {_seeds(group.seeds)}"
        yield (
            f"{_runs(count)}{of}: too few to say anything about other runs; at least "
            f"{MINIMUM_SEEDS} different seeds are needed."
        )
        return
    for entry in entries:
        if entry.claim:
            yield _claim(entry, confidence)
    tested = [entry for entry in entries if entry.low is not None]
    yield _looked_at(tested, len(entries), confidence)
    constant = sum(entry.constant > 0 for entry in entries)
    if constant:
        yield (
            f"In {constant} of the {len(entries)} pairs a series is constant in some of the runs: "
            "a coefficient is undefined there, and those runs are left out."
        )
    yield from group.remarks


def _claim(entry: Correlation, confidence: float) -> str:
    interval = f"{100 * confidence:g}% interval {entry.low:+.2g} to {entry.high:+.2g}"
    pair = f"{entry.quantity} and {entry.outcome}"
    if entry.view == "runs":
        return (
            f"Over the runs, {pair}: Spearman {entry.coefficient:+.2g} ({interval}; the last "
            f"values of {_runs(entry.runs)} of {_seeds(entry.seeds)})."
        )
    return (
        f"Over the steps, {pair}: mean Spearman {entry.coefficient:+.2g} ({interval}; "
        f"{_runs(entry.runs)} of {_seeds(entry.seeds)}, {entry.steps} steps in all)."
    )


def _looked_at(tested: Sequence[Correlation], pairs: int, confidence: float) -> str:
    """How many intervals there are, so that a reader can discount what chance alone excludes."""
    if not tested:
        return (
            f"None of the {pairs} pairs that were looked at has runs of {MINIMUM_SEEDS} different "
            "seeds, as an interval needs."
        )
    fewest = min(entry.seeds for entry in tested)
    narrow = ", and more because intervals of so few runs are too narrow" if fewest < 20 else ""
    none = "" if any(entry.claim for entry in tested) else "; none of the intervals excludes zero"
    return (
        f"{len(tested)} pairs of a quantity and an outcome were looked at, over the steps and over "
        f"the runs{none}. About {(1 - confidence) * len(tested):.2g} of the intervals would "
        f"exclude zero by chance alone{narrow}."
    )


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} different seeds"
