"""How recorded topology goes with performance: rank correlations, with intervals over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tsloss_fast.analysis.runs import Run

__all__ = ["Correlation", "Relation", "RunGroup", "relate"]

QUANTITIES = (
    "mean_lifetime",
    "max_lifetime",
    "total_persistence",
    "coefficient_of_variation",
    "entropy_gap",
    "redundancy",
    "displacement_first",
    "bottleneck_previous",
    "wasserstein_first",
)
OUTCOMES = ("accuracy", "ce")


@dataclass(frozen=True)
class Correlation:
    """Spearman's coefficient of one quantity with one outcome, in one group of runs.

    Attributes:
        view: "steps": the mean over runs of the coefficient over the steps within each run;
            "runs": the coefficient over the runs, last value against last value.
        group: index into `Relation.groups`.
        quantity, outcome: what was related.
        coefficient: in [-1, 1]; None where it is undefined or too few runs have it.
        low, high: ends of the bootstrap interval over runs; None with fewer than 5 runs.
        runs: the runs that it comes from.
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

    @property
    def claim(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        raise NotImplementedError


@dataclass(frozen=True)
class RunGroup:
    """Runs that are taken together: the same task and the same model.

    Attributes:
        task, model: None where the runs do not say.
        runs: their names.
        remarks: what a reader must know of how they differ, as sentences.
    """

    task: str | None
    model: str | None
    runs: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """All correlations that were looked at, in the order view, group, quantity, outcome."""

    correlations: tuple[Correlation, ...]
    groups: tuple[RunGroup, ...]
    confidence: float
    resamples: int
    seed: int

    @property
    def claim(self) -> bool:
        """Whether any group has runs enough (5) for an interval."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary a correlation, of what JSON can hold (None, never NaN)."""
        raise NotImplementedError

    def sentences(self) -> list[str]:
        """What may be said, and what may not, in English."""
        raise NotImplementedError


def relate(
    runs: Sequence[Run],
    quantities: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Relation:
    """Spearman's rank correlation of recorded quantities with measured outcomes.

    Args:
        runs: as `load_runs` gives them, each once.
        quantities: columns of the record, dimension 0, averaged over clouds; with the prefix "h1_"
            of dimension 1. By default `QUANTITIES`.
        outcomes: names in `Run.measured`. By default `OUTCOMES`.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same numbers.
    """
    raise NotImplementedError
