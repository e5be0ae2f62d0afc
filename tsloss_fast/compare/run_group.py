"""Runs that are compared with one another, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tsloss_fast.compare.outcomes import is_censored, run_outcomes

__all__ = ["SHARED", "RunGroup"]

Record = Mapping[str, Any]
# What the runs of a group share, by the names that trials have for it.
SHARED = (
    "model",
    "task",
    "difficulty",
    "train_size",
    "adapter",
    "virtual_tokens",
    "start",
    "steps",
)


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their method and seed alone.

    Attributes:
        shared: the value of each of `SHARED`.
        runs: by method (the baseline first), then by seed in ascending order. Empty for a group of
            the design that has not begun.
        plan: the task's entry in the design, with the thresholds; empty if there is none.
        repeated: final runs left out because their method and seed are there already.
    """

    shared: Record
    runs: Mapping[str, Mapping[int, Record]] = field(default_factory=dict)
    plan: Record = field(default_factory=dict)
    repeated: int = 0

    @property
    def seeds(self) -> list[int]:
        """The seeds of any method."""
        return sorted({seed for runs in self.runs.values() for seed in runs})

    @property
    def trial(self) -> Record:
        """That of any run, for what does not depend on method and seed."""
        run = next((run for runs in self.runs.values() for run in runs.values()), None)
        return {} if run is None else run["trial"]

    def owns(self, record: Record) -> bool:
        """Whether a record that names some of what the runs share names the same."""
        return all(record.get(name, value) == value for name, value in self.shared.items())

    def alike(self, method: str, other: str, seed: int) -> bool:
        """Whether the runs of a seed saw the same items: a task's file may have changed between."""
        one, two = (self.runs[name][seed].get("task_digest") for name in (method, other))
        return bool(one == two)

    def values(self, method: str, outcome: str) -> dict[int, float]:
        """By seed; a run without the outcome is not there."""
        found = {
            seed: run_outcomes(run, self.plan)[outcome]
            for seed, run in self.runs.get(method, {}).items()
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def censored(self, method: str, outcome: str) -> list[int]:
        """The seeds whose run never reached the threshold: its steps are all there were."""
        runs = self.runs.get(method, {})
        return [seed for seed, run in runs.items() if is_censored(run, outcome, self.plan)]

    def references(self, name: str) -> list[float]:
        """A rate that needs no training, one for each seed: its methods share the items."""
        by_seed = {
            seed: run["reference"] for runs in self.runs.values() for seed, run in runs.items()
        }
        return [rates[name] for rates in by_seed.values() if rates.get(name) is not None]
