"""The results of each experiment, as `tsloss compare` wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tsloss_fast.compare.comparison import Comparison, Experiment, RunGroup, read_experiment
from tsloss_fast.compare.design import Design
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.results import read_results
from tsloss_fast.compare.words import short_names

SHOWN = ("final_accuracy", "accuracy_area", "steps_to_accuracy", "steps_to_ce", "final_ce")
# The order of the page; a design that is not named here comes last.
_ORDER = ("default", "ablation", "degenerate", "long", "schedules", "prefix")


@dataclass(frozen=True)
class ExperimentResults:
    """The results of one design."""

    file: Path
    lines: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    designs: list[dict[str, Any]]
    """Each time that a design was written down, and the runs that followed it."""

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def design(self) -> dict[str, Any]:
        return dict(self.designs[-1]["design"])

    @cached_property
    def experiment(self) -> Experiment:
        return read_experiment(self.lines)

    @cached_property
    def compared(self) -> list[tuple[RunGroup, str, list[Comparison]]]:
        """Each group, its short name, and every method in every outcome of the page."""
        outcomes = [OUTCOMES[name] for name in SHOWN]
        groups = self.experiment.groups
        return [
            (group, name, self.experiment.compare(group, outcomes))
            for group, name in zip(groups, short_names(groups), strict=True)
        ]


def read(folder: Path) -> list[ExperimentResults]:
    """The experiments of a folder, each with the runs of others that belong to it."""
    everything = read_results(folder)
    found = []
    for file in sorted(folder.glob("*.jsonl"), key=lambda file: (_place(file.stem), file.stem)):
        own = read_results(file)
        designs: list[dict[str, Any]] = []
        for line in own:
            if line["kind"] == "experiment":
                designs.append({**line, "runs before the next": 0})
            elif line["kind"] == "run" and designs:
                designs[-1]["runs before the next"] += 1
        if not designs:
            raise ValueError(f"{file} holds no design; tsloss compare writes it first")
        plan = Plan.of_records(Design.from_mapping(designs[-1]["design"]), everything)
        sessions = [line for line in own if line["kind"] == "session"]
        found.append(ExperimentResults(file, plan.lines(), sessions, designs))
    return found


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
