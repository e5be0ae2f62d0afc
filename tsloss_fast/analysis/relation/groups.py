"""Which runs may be taken together, and what a reader must know of how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsloss_fast.analysis.runs import Run

__all__ = ["RunGroup", "count_seeds", "describe_group", "group_runs"]

# What makes no difference to a run, or is said elsewhere.
_NOT_COMPARED = ("out", "model", "task", "seed", "checkpoint_every", "eval_every", "device")


@dataclass(frozen=True)
class RunGroup:
    """Runs that are taken together: the same task and the same model.

    Attributes:
        task, model: None where the runs do not say.
        runs: their names.
        seeds: how many different seeds they have, as `count_seeds`.
        remarks: what a reader must know of how they differ, as sentences.
    """

    task: str | None
    model: str | None
    runs: tuple[str, ...]
    remarks: tuple[str, ...]
    seeds: int = 0


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each (task, model), in the order in which these first come."""
    groups: dict[tuple[str | None, str | None], list[Run]] = {}
    for run in runs:
        groups.setdefault((_task(run), run.model), []).append(run)
    return list(groups.values())


def describe_group(runs: Sequence[Run]) -> RunGroup:
    """What a group of `group_runs` is."""
    names = tuple(run.name for run in runs)
    task, seeds = _task(runs[0]), count_seeds(runs)
    return RunGroup(task, runs[0].model, names, tuple(_remarks(runs)), seeds)


def count_seeds(runs: Sequence[Run]) -> int:
    """How many observations the runs are: those of one seed start from the same points and see the
    same data, so that they count once, a run and its control too. A run that does not say its seed
    counts as one."""
    seeds = [run.config.get("seed") for run in runs]
    return len({seed for seed in seeds if seed is not None}) + seeds.count(None)


def _task(run: Run) -> str | None:
    task = run.config.get("task") or run.record.metadata.get("task")
    if task is not None and run.config.get("difficulty") is not None:
        return f"{task} (difficulty {run.config['difficulty']})"
    return None if task is None else str(task)


def _remarks(runs: Sequence[Run]) -> Iterator[str]:
    """How the runs of a group differ, where that may be behind a correlation over the runs."""
    first = runs[0]
    unsaid = [
        word for word, value in (("task", _task(first)), ("model", first.model)) if value is None
    ]
    if unsaid and len(runs) > 1:
        yield (
            f"The runs do not say what their {' and '.join(unsaid)} is: they are taken together "
            "as if it were the same."
        )
    differing = _differing([run.config for run in runs])
    if differing:
        yield (
            f"The runs differ in {', '.join(differing)}: that may be behind a correlation over "
            "the runs."
        )
    seeds = [run.config["seed"] for run in runs if "seed" in run.config]
    if len(set(seeds)) < len(seeds):
        yield (
            f"{len(seeds)} runs have {len(set(seeds))} seeds: runs of one seed have the same start "
            "and the same data, so they are less independent than the intervals take them to be."
        )
    last = [int(run.record.steps()[-1]) for run in runs]
    if min(last) < max(last):
        yield (
            f"The runs end between step {min(last)} and step {max(last)}: over the runs, whatever "
            "changes with the steps then correlates."
        )


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for config in configs for name in config)
    return [
        name
        for name in names
        if name not in _NOT_COMPARED
        and any(config.get(name) != configs[0].get(name) for config in configs)
    ]
