"""Final runs as a pandas table: what each run came to, then the mean over the learning rates.

A group holds the runs that differ in arm, learning rate and seed alone. An arm is a method with its
weight; an arm that has a start of its own is compared in the group of the arms that have not.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tsloss_fast._terminal import counted, escape_invisible

Record = Mapping[str, Any]
START = ("start", "init", "init_text", "jitter")
# A trial's fields that tell apart the runs of one group; all others are what the group shares.
# Validation items are not looked at by final runs.
_WITHIN = {"stage", "method", "settings", "lr", "weight", "seed", "validation_size"}


@dataclass(frozen=True)
class Outcome:
    """A number that a run comes to.

    Attributes:
        name, label: in code, and in tables.
        better: +1 if more is better, -1 if less is, 0 if neither.
        digits: shown after the decimal point.
        threshold: name of the threshold in the task's entry of the design. The outcome then counts
            the steps to it, and is censored at all steps of the run.
    """

    name: str
    label: str
    better: int
    digits: int = 3
    threshold: str = ""


OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("train_ce", "mean training CE", -1),
        Outcome("final_accuracy", "final accuracy", +1),
        Outcome("accuracy_area", "area under accuracy", +1),
        Outcome("steps_to_train_ce", "log2 steps to training CE", -1, 2, "train_ce_threshold"),
        Outcome("steps_to_accuracy", "steps to accuracy", -1, 1, "accuracy_threshold"),
        Outcome("steps_to_ce", "steps to CE", -1, 1, "ce_threshold"),
        Outcome("final_ce", "end CE", -1),
        # Tells whether the loss did what it optimises, which is no evidence that it helps.
        Outcome("coefficient_of_variation", "coefficient of variation", 0),
    )
}
CENSORED = {name: f"{name}_censored" for name, outcome in OUTCOMES.items() if outcome.threshold}


@dataclass(frozen=True)
class Study:
    """The records of one experiment, sorted.

    Attributes:
        name, design: of the last record of the kind "experiment"; empty without one.
        arms: of the design or with a run, the baseline first.
        margins: by outcome, the difference that would not matter.
        groups: what the runs of each group share, and the thresholds of its task; those of the
            design come first, in its order, with runs or without.
        runs: a row a final run; the column "run" holds its record.
        seeds: a row a group, arm and seed, see `average_over_rates`.
        records: of runs of every stage.
    """

    name: str
    design: Record
    arms: tuple[str, ...]
    primary: tuple[str, ...]
    confidence: float
    margins: Mapping[str, float]
    groups: Sequence[Record]
    runs: pd.DataFrame
    seeds: pd.DataFrame
    records: Sequence[Record]

    @property
    def baseline(self) -> str:
        return self.arms[0]

    @property
    def begun(self) -> list[int]:
        """The groups with a final run."""
        return sorted(set(self.runs.group))

    def of(self, group: int, arm: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of an arm of a group, by default of `seeds`, in the order of their seeds."""
        rows = self.seeds if frame is None else frame
        return rows[(rows.group == group) & (rows.arm == arm)].sort_values(["seed"], kind="stable")

    def arms_of(self, group: int) -> list[str]:
        """The arms of a group with a final run, in the order of `arms`."""
        there = set(self.runs.arm[self.runs.group == group])
        return [arm for arm in self.arms if arm in there]


def run_outcomes(run: Record, plan: Record) -> dict[str, Any]:
    """Every outcome of a run by name, NaN where there is none, and which of them are censored.

    The steps to a threshold are the first step at which the curve, or the training's cross-entropy,
    is at the threshold or past it; all steps of the run if there is none. A run that diverged has
    reached nothing, and its accuracy stays at the last value for the area under it.
    """
    curve, losses, steps = run["curve"], run["train_ce"], int(run["trial"]["steps"])
    end, last = run["end"], curve[-1] if curve else {}
    accuracy = [(point["step"], _number(point["accuracy"])) for point in curve]
    area = math.nan
    if accuracy and accuracy[0][0] == 0:
        pieces = [(b - a) * (x + y) / 2 for (a, x), (b, y) in itertools.pairwise(accuracy)]
        area = (math.fsum(pieces) + (steps - accuracy[-1][0]) * accuracy[-1][1]) / steps
    whole = len(losses) == steps
    found: dict[str, Any] = {
        "train_ce": math.fsum(map(_number, losses)) / steps if whole else math.nan,
        "final_accuracy": _number(end.get("accuracy")),
        "accuracy_area": area,
        "final_ce": _number(end.get("ce")),
        "coefficient_of_variation": _number(last.get("coefficient_of_variation")),
    }
    for name, sign, values in (
        ("steps_to_train_ce", -1, list(enumerate(map(_number, losses), start=1))),
        ("steps_to_accuracy", 1, accuracy),
        ("steps_to_ce", -1, [(point["step"], _number(point["ce"])) for point in curve]),
    ):
        threshold = plan.get(OUTCOMES[name].threshold)
        known = threshold is not None and bool(values)
        past = (step for step, value in values if known and sign * value >= sign * threshold)
        first = next(past, None)
        reached = float(steps if first is None else first) if known else math.nan
        found[name] = math.log2(reached) if reached and name == "steps_to_train_ce" else reached
        found[CENSORED[name]] = known and first is None
    return {n: v if math.isfinite(v) else math.nan for n, v in found.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def read_study(records: Iterable[Record]) -> Study:
    """Sort the records of one experiment, finished or underway. O(R) for R records.

    Of runs of the same group, arm, learning rate and seed the first counts.

    Raises:
        ValueError: the design has a primary outcome that there is not.
    """
    everything = list(records)
    head: Record = next((r for r in reversed(everything) if r["kind"] == "experiment"), {})
    design: Record = head.get("design", {})
    primary = tuple(design.get("primary") or ("train_ce", "final_accuracy"))
    unknown = [name for name in primary if name not in OUTCOMES]
    if unknown:
        raise ValueError(
            f"primary: got {', '.join(unknown)}; expected outcomes of {', '.join(OUTCOMES)}"
        )
    every = [record for record in everything if record["kind"] == "run"]
    methods = [m if isinstance(m, Mapping) else {"name": m} for m in design.get("methods", [])]
    own = {method["name"] for method in methods if method.get("start") is not None}
    groups, rows = list(_designed(design)), []
    final = [run for run in every if run["trial"]["stage"] == "final"]
    # Arms with a start of their own come last, when the groups that they belong to are known.
    for run in sorted(final, key=lambda run: run["trial"]["method"] in own):
        trial = run["trial"]
        fields = {k: v for k, v in trial.items() if trial["method"] not in own or k not in START}
        there = [index for index, group in enumerate(groups) if agrees(group, fields)]
        if not there:
            task = next((task for task in design.get("tasks", []) if agrees(task, trial)), {})
            groups.append({**task, **{k: v for k, v in trial.items() if k not in _WITHIN}})
        for index in there or [len(groups) - 1]:
            rows.append({"group": index, **_row(run), **run_outcomes(run, groups[index])})
    runs = pd.DataFrame(rows, columns=["group", *_COLUMNS, *OUTCOMES, *CENSORED.values()])
    runs = runs.drop_duplicates(["group", "arm", "lr", "seed"], ignore_index=True)
    grid = design["lr"] if isinstance(design.get("lr"), Sequence) else ()
    return Study(
        str(head.get("name", "")),
        design,
        tuple(dict.fromkeys([*(method["name"] for method in methods), *runs.arm])) or ("ce",),
        primary,
        float(design.get("confidence", 0.95)),
        dict(design.get("margins") or {}),
        groups,
        runs,
        average_over_rates(runs, frozenset(map(float, grid))),
        every,
    )


_COLUMNS = ("arm", "lr", "weight", "seed", "diverged", "step", "term", "digest", "run")


def _row(run: Record) -> dict[str, Any]:
    trial, seconds = run["trial"], run.get("seconds") or {}
    values = (
        *(trial["method"], float(trial["lr"]), float(trial["weight"]), int(trial["seed"])),
        *(run.get("diverged") is not None, _number(seconds.get("step"))),
        *(_number(seconds.get("term")), str(run.get("task_digest")), run),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def average_over_rates(runs: pd.DataFrame, grid: frozenset[float] = frozenset()) -> pd.DataFrame:
    """Means over the learning rates, a row a group, arm and seed.

    A seed counts once its runs have every rate of the grid, by default every rate that the arm has
    in its group: a mean over other rates would be a mean of something else. One run without an
    outcome makes the mean NaN.
    """
    keys = ["group", "arm", "seed"]
    if runs.empty:
        columns = [*keys, *OUTCOMES, *CENSORED.values(), "diverged", "rates", "digest"]
        return pd.DataFrame(columns=columns)
    by_seed = runs.groupby(keys, sort=False)
    found = by_seed[list(OUTCOMES)].agg(lambda column: math.fsum(column) / len(column))
    found[list(CENSORED.values())] = by_seed[list(CENSORED.values())].sum()
    found["diverged"] = by_seed["diverged"].sum()
    found["rates"] = by_seed["lr"].agg(frozenset)
    found["digest"] = by_seed["digest"].agg(lambda column: " ".join(sorted(set(column))))
    found = found.reset_index()
    every = runs.groupby(["group", "arm"])["lr"].agg(frozenset)
    wanted = [grid or every.loc[(row.group, row.arm)] for row in found.itertuples()]
    complete = [rates >= want for rates, want in zip(found["rates"], wanted, strict=True)]
    return found[complete].reset_index(drop=True)


def equal_methods(study: Study, group: int) -> list[tuple[list[str], int]]:
    """Sets of methods whose training is bit for bit the same wherever they ran at the same rate and
    seed, runs of a search included, and in how many such places they did."""
    fields = ("model", "task", "difficulty", "train_size", "adapter", "virtual_tokens", "steps")
    where = {k: study.groups[group].get(k) for k in (*fields, "batch_size", *START)}
    seen: dict[str, dict[str, set[str]]] = {}
    for run in study.records:
        trial = run["trial"]
        if agrees(where, trial):
            place = {k: v for k, v in trial.items() if k not in ("method", "settings", "weight")}
            places = seen.setdefault(trial["method"], {})
            came_to = json.dumps([run["train_ce"], run["end"]])
            places.setdefault(json.dumps(place, sort_keys=True), set()).add(came_to)
    found: list[tuple[list[str], int]] = []
    for method in [arm for arm in study.arms if arm in seen]:
        for names, _ in found:
            common = seen[method].keys() & seen[names[0]].keys()
            if common and all(seen[method][place] == seen[names[0]][place] for place in common):
                names.append(method)
                break
        else:
            found.append(([method], 0))
    return [
        (names, len(set.intersection(*(set(seen[name]) for name in names))))
        for names, _ in found
        if len(names) > 1
    ]


def agrees(part: Record, whole: Record) -> bool:
    """Whether the fields that both have are equal, but for those that differ within a group. None
    in `part` says nothing, as a difficulty does that is left to the task."""
    return all(v is None or whole.get(k, v) == v for k, v in part.items() if k not in _WITHIN)


def _designed(design: Record) -> Iterator[dict[str, Any]]:
    """What the runs of each group of a design share, as far as the design lists it."""
    axes = ("models", "tasks", "adapters", "virtual_tokens", "starts")
    shared = {k: design[k] for k in ("weight_decay", "lr_schedule") if k in design}
    if all(isinstance(design.get(name), list) for name in axes):
        for model, task, adapter, count, start in itertools.product(*(design[a] for a in axes)):
            named = start if isinstance(start, Mapping) else {"name": start}
            begin = {"start" if k == "name" else k: v for k, v in named.items()}
            axis = {"model": model, "adapter": adapter, "virtual_tokens": count}
            yield {**shared, **axis, **task, **begin}


def group_name(group: Record) -> str:
    """All that the runs of a group share and that a reader asks for. Tasks and models may be files,
    so that a name can hold any character."""
    hard = "" if group.get("difficulty") is None else f" (difficulty {group['difficulty']})"
    adapter = "" if group.get("adapter") in (None, "prompt") else f" ({group['adapter']})"
    return escape_invisible(
        f"{group['task']}{hard}, {group['model']}, {group['virtual_tokens']} virtual tokens"
        f"{adapter} from {group['start']}, {group.get('train_size', '?')} training items, "
        f"{counted(group.get('steps', 0), 'step')}"
    )


def short_names(groups: Sequence[Record]) -> list[str]:
    """The task of each group, and what else tells the groups apart."""
    words = {"difficulty": "difficulty {}", "model": "{}", "train_size": "{} items"}
    words |= {"adapter": "{}", "virtual_tokens": "N = {}", "start": "from {}", "steps": "{} steps"}
    told = [k for k in words if len({group.get(k) for group in groups}) > 1]
    return [
        escape_invisible(
            ", ".join([str(g["task"]), *(words[k].format(g[k]) for k in told if k in g)])
        )
        for g in groups
    ]
