"""What of a design is done, what can be run now, and what has to wait for a choice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsloss_fast.compare.design import Design
from tsloss_fast.compare.parts import Group
from tsloss_fast.compare.trial import Trial, trial_key

__all__ = ["Job", "Plan"]

Runs = dict[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Job:
    """Trials that are trained together, and what a reader calls them."""

    trials: tuple[Trial, ...]
    label: str

    @property
    def identity(self) -> str:
        keys = " ".join(map(trial_key, self.trials))
        return hashlib.sha256(keys.encode()).hexdigest()[:16]


class Plan:
    """A design against the runs that there are, by key. Computes nothing twice and starts nothing.

    Everything is a function of the design and the runs, so that a plan made again after any kill
    is the same plan.
    """

    def __init__(self, design: Design, runs: Runs) -> None:
        self.design = design
        self.runs = runs

    @classmethod
    def of_records(cls, design: Design, records: Sequence[Mapping[str, Any]]) -> Plan:
        """From the lines of results files; of two runs of the same trial the first counts."""
        runs = [line for line in reversed(records) if line["kind"] == "run"]
        return cls(design, {trial_key(line["trial"]): line for line in runs})

    def lines(self) -> list[dict[str, Any]]:
        """What belongs to the design of all that there is: the design, its choices and runs."""
        lines: list[dict[str, Any]] = [
            {"kind": "experiment", "name": self.design.name, "design": self.design.to_mapping()}
        ]
        lines += self.choices()
        for group in self.design.groups():
            for trial in [*self.design.search_trials(group), *self._final_trials(group)]:
                run = self.runs.get(trial_key(trial))
                if run is not None:
                    # Another design may have run the same trial under another name.
                    lines.append({**run, "key": trial_key(trial), "trial": trial})
        return lines

    def ready(self) -> Iterator[Job]:
        """Jobs that can be run now, in the order of the groups: each is finished before the next is
        begun, but for what has to wait for a choice."""
        for group in self.design.groups():
            yield from self._jobs(group, self.design.search_trials(group), "search with seed")
            yield from self._jobs(group, self._final_trials(group), "seed")

    def choices(self) -> Iterator[dict[str, Any]]:
        """What was chosen in each group whose search is complete: lines for the results."""
        for group in self.design.groups():
            chosen = self.design.choose(group, self.runs)
            if chosen is None or self.design.search is None:
                continue
            for method in self.design.methods:
                yield {
                    "kind": "choice",
                    **group.fields(),
                    "method": method.name,
                    **chosen[method.name],
                }

    def progress(self) -> tuple[int, int]:
        """Runs that there are and runs of the whole design. A final run whose learning rate is not
        chosen yet counts as missing."""
        done = total = 0
        for group in self.design.groups():
            search = self.design.search_trials(group)
            done += sum(trial_key(trial) in self.runs for trial in search)
            total += len(search) + len(self.design.seeds) * len(self.design.methods)
            done += len(self.final_runs(group))
        return done, total

    def final_runs(self, group: Group) -> list[Mapping[str, Any]]:
        """The runs of a group's comparison that there are."""
        keys = map(trial_key, self._final_trials(group))
        return [self.runs[key] for key in keys if key in self.runs]

    def _final_trials(self, group: Group) -> list[Trial]:
        """Of all seeds; none while something is not chosen yet."""
        chosen = self.design.choose(group, self.runs)
        if chosen is None:
            return []
        pairs = {name: (each["lr"], each["weight"]) for name, each in chosen.items()}
        return [
            trial
            for seed in self.design.seeds
            for trial in self.design.final_trials(group, pairs, seed)
        ]

    def _jobs(self, group: Group, trials: list[Trial], what: str) -> Iterator[Job]:
        seeds: dict[int, list[Trial]] = {}
        for trial in trials:
            seeds.setdefault(trial["seed"], []).append(trial)
        for seed, same in seeds.items():
            # Cut before what is done is left out: a plan made again has the same jobs.
            parts = -(-len(same) // self.design.cohort)
            size = -(-len(same) // parts)
            for start in range(0, len(same), size):
                unique = {trial_key(t): t for t in same[start : start + size]}
                missing = [trial for key, trial in unique.items() if key not in self.runs]
                if missing:
                    yield Job(tuple(missing), f"{group.describe()}: {what} {seed}")
