"""Runs as a pandas table: what each run came to, then the mean over the learning rates.

A group holds the runs that differ in arm, learning rate and seed alone. An arm is a method of the
design; one with a start of its own belongs to the groups of the arms without.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.integrate import trapezoid

from tsloss_fast._terminal import escape_invisible

Record = Mapping[str, Any]
# Outcomes of fewer test items than this are not outcomes: a study of training alone has one item.
FEW_ITEMS = 10
_COLUMNS = ["group", "arm", "lr", "weight", "seed", "diverged", "step", "term", "digest", "run"]


@dataclass(frozen=True)
class Outcome:
    """A number that a run comes to, or the steps until a series passes its threshold; a run that
    never does is censored at all of its steps."""

    name: str
    label: str
    better: int  # +1 if more is better, -1 if less is, 0 if neither.
    digits: int = 3
    series: str = ""


OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("train_ce", "mean training CE", -1),
        Outcome("final_accuracy", "final accuracy", +1),
        Outcome("accuracy_area", "area under accuracy", +1),
        Outcome("steps_to_train_ce", "log2 steps to training CE", -1, 2, "train_ce"),
        Outcome("steps_to_accuracy", "steps to accuracy", -1, 1, "accuracy"),
        Outcome("steps_to_ce", "steps to CE", -1, 1, "ce"),
        Outcome("final_ce", "end CE", -1),
        # This one shows that a loss did what it optimises, not that the loss helps.
        Outcome("coefficient_of_variation", "coefficient of variation", 0),
    )
}
CENSORED = {name: f"{name}_censored" for name, outcome in OUTCOMES.items() if outcome.series}


@dataclass(frozen=True)
class Study:
    """The records of one experiment, sorted.

    Attributes:
        arms: of the design, the baseline first.
        groups: what the runs of each group of the design share, and the thresholds of its task.
        runs: a row a run; the column "run" holds its record.
        seeds: a row a group, arm and seed, see `average_over_rates`.
    """

    name: str
    design: Record
    arms: Sequence[str]
    primary: Sequence[str]
    groups: Sequence[Record]
    runs: pd.DataFrame
    seeds: pd.DataFrame
    records: Sequence[Record]

    @property
    def begun(self) -> list[int]:
        """The groups with a final run."""
        return sorted(set(self.runs.group))

    def arms_of(self, group: int) -> list[str]:
        """The arms of a group with a final run, in the order of `arms`."""
        there = set(self.runs.arm[self.runs.group == group])
        return [arm for arm in self.arms if arm in there]

    def of(self, group: int, arm: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of an arm of a group, by default of `seeds`, in the order of their seeds."""
        rows = self.seeds if frame is None else frame
        return rows[(rows.group == group) & (rows.arm == arm)].sort_values("seed", kind="stable")

    def rates(self, group: int, arm: str) -> str:
        """The learning rates that an arm of a group has runs of, as text."""
        return ", ".join(f"{rate:g}" for rate in sorted(set(self.of(group, arm, self.runs).lr)))


def run_outcomes(run: Record, thresholds: Record) -> dict[str, Any]:
    """Return every outcome of a run by name, NaN for a missing one, and which are censored.

    Where a curve ends early, as in a run that diverged, its last accuracy counts to the end.
    """
    end, curve, losses = run["end"], run["curve"], list(map(_number, run["train_ce"]))
    steps, last = run["trial"]["steps"], curve[-1]
    series = {k: [(p["step"], _number(p[k])) for p in curve] for k in ("accuracy", "ce")}
    series["train_ce"] = list(enumerate(losses, start=1))
    at, rates = zip(*series["accuracy"], (steps, series["accuracy"][-1][1]), strict=True)
    found: dict[str, Any] = {
        "train_ce": math.fsum(losses) / steps if len(losses) == steps else math.nan,
        "final_accuracy": _number(end.get("accuracy")),
        "accuracy_area": trapezoid(rates, at) / steps,
        "final_ce": _number(end.get("ce")),
        "coefficient_of_variation": _number(last.get("coefficient_of_variation")),
    }
    if run["trial"]["test_size"] < FEW_ITEMS:
        found |= dict.fromkeys(("final_accuracy", "accuracy_area", "final_ce"), math.nan)
    if run["trial"].get("stop_train_ce") is not None:
        # The mean would be over the steps of the runs that never arrived alone.
        found["train_ce"] = math.nan
    if run["diverged"] is not None:
        found |= dict.fromkeys(("final_accuracy", "final_ce"), math.nan)
    for name, late in CENSORED.items():
        points = series[OUTCOMES[name].series]
        sign = 1 if OUTCOMES[name].series == "accuracy" else -1
        threshold = thresholds.get(f"{OUTCOMES[name].series}_threshold")
        known = threshold is not None
        past = [s for s, value in points if known and sign * value >= sign * threshold]
        reached = float(next(iter(past), steps)) if known else math.nan
        found[name] = math.log2(reached) if name == "steps_to_train_ce" else reached
        found[late] = known and not past
    return found


def _number(value: float | None) -> float:
    """None and infinity, which JSON and a mean cannot hold, as NaN."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def read_study(records: Iterable[Record]) -> Study:
    """Sort the records of one experiment, finished or underway. Runs that are in no group of its
    design are left out."""
    everything = list(records)
    head = next(each for each in reversed(everything) if each["kind"] == "experiment")
    design, rows = head["design"], []
    groups = list(designed_groups(design))
    own = {each["name"] for each in design["methods"] if each.get("start") is not None}
    for run in (each for each in everything if each["kind"] == "run"):
        trial, seconds = run["trial"], run["seconds"]
        row = {name: trial[name] for name in ("lr", "weight", "seed")}
        row |= {"arm": trial["method"], "diverged": run["diverged"] is not None, "run": run}
        row |= {"step": seconds["step"], "term": _number(seconds["term"])}
        row |= {"digest": run["task_digest"]}
        starts = ("start", "init", "init_text", "jitter") if trial["method"] in own else ()
        fields = {key: value for key, value in trial.items() if key not in starts}
        for index, group in enumerate(groups):
            if agrees(group, fields):
                rows.append({"group": index, **row, **run_outcomes(run, group)})
    runs = pd.DataFrame(rows, columns=[*_COLUMNS, *OUTCOMES, *CENSORED.values()])
    arms = [method["name"] for method in design["methods"]]
    seeds = average_over_rates(runs, frozenset(design["lr"]))
    return Study(head["name"], design, arms, design["primary"], groups, runs, seeds, everything)


def average_over_rates(runs: pd.DataFrame, grid: frozenset[float]) -> pd.DataFrame:
    """Return means of outcomes over the learning rates, and counts of censored and diverged runs.

    A seed counts once its runs have every rate of the grid: a mean over other rates would be a mean
    of something else. One run without an outcome makes the mean NaN.
    """
    keys, counts = ["group", "arm", "seed"], [*CENSORED.values(), "diverged"]
    by_seed = runs.groupby(keys, sort=False)
    found = by_seed[list(OUTCOMES)].agg(lambda column: math.fsum(column) / len(column))
    found[counts] = by_seed[counts].sum()
    found["rates"] = by_seed["lr"].agg(frozenset)
    found["digest"] = by_seed["digest"].agg(lambda column: " ".join(sorted(set(column))))
    return found[[rates >= grid for rates in found["rates"]]].reset_index()


def agrees(part: Record, whole: Record) -> bool:
    """Whether the fields that both have are equal. None in `part` says nothing, as a difficulty
    does that is left to the task."""
    return all(value is None or whole.get(key, value) == value for key, value in part.items())


def designed_groups(design: Record) -> Iterator[dict[str, Any]]:
    """Yield what the runs of each group of a design share."""
    axes = ("models", "tasks", "virtual_tokens", "starts")
    shared = {key: design[key] for key in ("weight_decay", "lr_schedule")}
    for model, task, count, start in itertools.product(*(design[axis] for axis in axes)):
        begin = {"start" if k == "name" else k: v for k, v in start.items()}
        yield {**shared, "model": model, "virtual_tokens": count, **task, **begin}


_WORDS = {"difficulty": "difficulty {}", "model": "{}", "virtual_tokens": "N = {}"}
_WORDS |= {"start": "from {}", "train_size": "{} training items", "steps": "{} steps"}


def group_names(groups: Sequence[Record], short: bool = True) -> list[str]:
    """Name each group by its task and the fields that differ between groups, or by all fields.
    Tasks and models may be files, so that a name can hold any character."""
    told = [k for k in _WORDS if not short or len({group.get(k) for group in groups}) > 1]
    parts = [[g["task"], *(_WORDS[k].format(g[k]) for k in told if g.get(k))] for g in groups]
    return [escape_invisible(", ".join(each)) for each in parts]
