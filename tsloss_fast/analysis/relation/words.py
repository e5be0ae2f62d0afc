"""What correlations of topology with performance allow to be said, in English."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tsloss_fast.analysis.relation.spearman import MINIMUM_SEEDS

if TYPE_CHECKING:
    from tsloss_fast.analysis.relation.groups import RunGroup
    from tsloss_fast.analysis.relation.relate import Correlation, Relation

__all__ = ["CAUTION", "sentences"]

CAUTION = (
    "Correlation, not cause; over the steps, anything that grows in training correlates with "
    "anything else that does."
)


def sentences(relation: Relation) -> list[str]:
    """A sentence for each interval that excludes zero, how many were looked at, and the caution."""
    if not relation.groups:
        return ["No runs: nothing was looked at.", CAUTION]
    found = []
    several = len(relation.groups) > 1
    if several:
        found.append(
            f"The runs are of {len(relation.groups)} tasks or models, which are not taken together."
        )
    for index, group in enumerate(relation.groups):
        entries = [entry for entry in relation.correlations if entry.group == index]
        start = f"Task {group.task or 'unknown'}, model {group.model or 'unknown'}: "
        of_group = _of_group(group, entries, relation.confidence)
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
