"""The design of an experiment: what is compared on what, fixed before anything is run.

A design is a YAML file or a preset; every run of it is a trial, a mapping of everything that the
run's result depends on. The same trial of two designs is the same run, and is computed once.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tsloss_fast.compare.checks import as_list, at_least_one, different_seeds, known, text
from tsloss_fast.compare.methods import Method, essence, find_method
from tsloss_fast.compare.outcomes import OUTCOMES, PRIMARY
from tsloss_fast.compare.parts import Group, Search, Start, TaskPlan
from tsloss_fast.compare.trial import Trial, trial_key
from tsloss_fast.tuning.packed import ADAPTERS
from tsloss_fast.tuning.tasks import task_difficulty

__all__ = [
    "Design",
    "load_design",
    "preset_names",
    "trial_key",
]

LR_SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class Design:
    """An experiment.

    Attributes:
        name, question: for the reader.
        models, tasks, adapters, virtual_tokens, starts: every combination is a group.
        methods: compared in each group; the first is the baseline of the paired differences.
        seeds: of items, first prompt and order of the data. The same for all methods.
        search: how learning rate and weight are chosen; None: `lr`, and each method's scale.
        lr: without a search.
        weight_decay: of AdamW.
        lr_schedule: "constant", or "linear" to 0 at the last step.
        bootstrap, confidence: of the intervals of paired differences over seeds.
        primary: the outcomes that the experiment is about.
        cohort: runs at most that go through the model together; changes time and memory only.
    """

    name: str
    tasks: tuple[TaskPlan, ...]
    methods: tuple[Method, ...]
    question: str = ""
    models: tuple[str, ...] = ("smollm2",)
    adapters: tuple[str, ...] = ("prompt",)
    virtual_tokens: tuple[int, ...] = (10,)
    starts: tuple[Start, ...] = (Start(),)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    search: Search | None = field(default_factory=Search)
    lr: float = 0.03
    weight_decay: float = 0.0
    lr_schedule: str = "constant"
    bootstrap: int = 10_000
    confidence: float = 0.95
    primary: tuple[str, ...] = PRIMARY
    cohort: int = 6

    def __post_init__(self) -> None:
        _check_design(self)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Design:
        """A design from what a YAML file holds.

        Raises:
            ValueError, TypeError: an unknown key, a missing or a wrong value; says which.
        """
        values = dict(known(cls, given, "the design"))
        if "name" not in values or "tasks" not in values or "methods" not in values:
            raise ValueError("a design needs name, tasks and methods")
        for name in ("models", "adapters", "virtual_tokens", "seeds", "primary"):
            if name in values:
                values[name] = tuple(as_list(name, values[name]))
        values["tasks"] = tuple(
            TaskPlan(**known(TaskPlan, {"task": each} if isinstance(each, str) else each, "a task"))
            for each in as_list("tasks", values["tasks"])
        )
        values["methods"] = tuple(map(find_method, as_list("methods", values["methods"])))
        if "starts" in values:
            values["starts"] = tuple(
                Start(**known(Start, {"name": each} if isinstance(each, str) else each, "a start"))
                for each in as_list("starts", values["starts"])
            )
        if values.get("search") is not None:
            search = dict(known(Search, values["search"], "search"))
            for name in ("seeds", "lr", "weight"):
                if name in search:
                    search[name] = tuple(as_list(f"search: {name}", search[name]))
            values["search"] = Search(**search)
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """What `from_mapping` reads, for JSON and YAML, with every default written out."""
        written: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return written

    def groups(self) -> Iterator[Group]:
        """Every combination, in the order of the design."""
        for model, plan, adapter, count, start in itertools.product(
            self.models, self.tasks, self.adapters, self.virtual_tokens, self.starts
        ):
            yield Group(model, plan, adapter, count, start)

    def search_trials(self, group: Group) -> list[Trial]:
        """The trials of a group's search, seed by seed."""
        if self.search is None:
            return []
        return [
            self._trial(group, "search", method, seed, rate, weight)
            for seed in self.search.seeds
            for method in self.methods
            for rate, weight in self.search.points(method)
        ]

    def final_trials(
        self, group: Group, chosen: Mapping[str, tuple[float, float]], seed: int
    ) -> list[Trial]:
        """The trials of a seed: each method at its learning rate and weight."""
        return [
            self._trial(group, "final", method, seed, *chosen[method.name])
            for method in self.methods
        ]

    def choose(
        self, group: Group, runs: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]] | None:
        """What each method gets, from the runs by key; None while some of the search is missing."""
        if self.search is None:
            return {
                method.name: {
                    "lr": self.lr,
                    "weight": 0.0 if method.adds_nothing else method.scale,
                    "trials": [],
                }
                for method in self.methods
            }
        chosen = {}
        for method in self.methods:
            points = self.search.points(method)
            criteria = []
            for rate, weight in points:
                found = []
                for seed in self.search.seeds:
                    trial = self._trial(group, "search", method, seed, rate, weight)
                    run = runs.get(trial_key(trial))
                    if run is None:
                        return None
                    # A run that diverged is worse than any that did not.
                    diverged = run["diverged"] is not None
                    found.append(math.inf if diverged else _late_ce(run["curve"]))
                criteria.append(statistics.fmean(found))
            # Where all diverged, the first: the lowest learning rate, whose run shows it.
            best = criteria.index(min(criteria))
            chosen[method.name] = {
                "lr": points[best][0],
                "weight": points[best][1],
                "trials": [
                    # JSON has no infinity.
                    {"lr": rate, "weight": weight, "criterion": None if math.isinf(ce) else ce}
                    for (rate, weight), ce in zip(points, criteria, strict=True)
                ],
            }
        return chosen

    def _trial(
        self, group: Group, stage: str, method: Method, seed: int, lr: float, weight: float
    ) -> Trial:
        trial = {
            "stage": stage,
            **group.fields(),
            "weight_decay": self.weight_decay,
            "lr_schedule": self.lr_schedule,
            "method": method.name,
            "settings": method.settings(),
            "lr": lr,
            "weight": weight,
            "seed": seed,
        }
        if stage == "search":
            assert self.search is not None
            trial["eval_every"] = self.search.eval_every(trial["steps"])
        return trial


def _check_design(design: Design) -> None:
    """Refuse a design of which no comparison can be made.

    Raises:
        ValueError: something is missing, out of range, there twice or at odds with the rest.
    """
    for name in ("tasks", "methods", "models", "adapters", "virtual_tokens", "starts"):
        values = getattr(design, name)
        keys = [str(getattr(value, "name", value)) for value in values]
        if not values or len(set(keys)) != len(keys):
            raise ValueError(f"{name}: expected at least one, each once, got {keys}")
    plain = isinstance(design.name, str) and re.fullmatch(r"[\w][\w .-]*", design.name, re.ASCII)
    if not plain:
        raise ValueError(
            f"name must be letters, digits, spaces, dots and dashes, since it names files; got "
            f"{design.name!r}"
        )
    _refuse_doubles(design)
    different_seeds("seeds", design.seeds)
    if design.search is not None and set(design.search.seeds) & set(design.seeds):
        raise ValueError(
            f"the seeds of the search {list(design.search.seeds)} and of the comparison "
            f"{list(design.seeds)} must differ, or what was chosen is tested on its own items"
        )
    for model in design.models:
        text("models", model)
    for adapter in design.adapters:
        if adapter not in ADAPTERS:
            raise ValueError(f"adapters must be of {', '.join(ADAPTERS)}, got {adapter!r}")
    hidden = [method.name for method in design.methods if method.where == "hidden"]
    if hidden and "prefix" in design.adapters:
        raise ValueError(
            f"the methods {', '.join(hidden)} act on the states of a soft prompt's positions, "
            "which the adapter 'prefix' does not have"
        )
    for count in design.virtual_tokens:
        at_least_one("virtual_tokens", count)
    at_least_one("cohort", design.cohort)
    at_least_one("bootstrap", design.bootstrap)
    if not (math.isfinite(design.lr) and design.lr > 0 and design.weight_decay >= 0):
        raise ValueError(
            f"lr must be above 0 and weight_decay at least 0, got {design.lr}, "
            f"{design.weight_decay}"
        )
    if design.lr_schedule not in LR_SCHEDULES:
        raise ValueError(
            f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}, got {design.lr_schedule!r}"
        )
    unknown = [name for name in design.primary if name not in OUTCOMES]
    if unknown or not design.primary:
        raise ValueError(
            f"primary must be some of {', '.join(OUTCOMES)}, got {list(design.primary)}"
        )
    if not 0 < design.confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {design.confidence}")


def _refuse_doubles(design: Design) -> None:
    """Refuse two parts of which the runs would have equal keys in the results."""
    keys: dict[str, list[Any]] = {
        "tasks": [
            (p.task, task_difficulty(p.task, p.difficulty), p.train_size, p.steps)
            for p in design.tasks
        ],
        "methods": [json.dumps(essence(m.settings()) | {"scale": m.scale}) for m in design.methods],
        "starts": [(s.init, s.init_text, s.jitter) for s in design.starts],
    }
    for name, values in keys.items():
        for index, value in enumerate(values):
            if value in values[:index]:
                first = values.index(value)
                what = "task, difficulty, train_size and steps" if name == "tasks" else "content"
                raise ValueError(
                    f"{name}: number {first + 1} and number {index + 1} have the same {what}, "
                    "so their runs could not be told apart; leave one out"
                )


def _late_ce(curve: Sequence[Mapping[str, float]]) -> float:
    """The mean cross-entropy of the evaluations in the second half of a training."""
    last = curve[-1]["step"]
    return statistics.fmean(point["ce"] for point in curve if 2 * point["step"] >= last)


def preset_names() -> list[str]:
    """The designs that come with the package."""
    folder = resources.files("tsloss_fast.compare") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


class _RepeatedKey(yaml.YAMLError):  # type: ignore[misc]
    """A mapping that is YAML for other readers, which take the last of the values."""


class _DesignLoader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, except that a key given twice is an error and not the last of its values."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            # Other keys than scalars are refused when the mapping is made.
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                first = lines.get((key.tag, key.value))
                if first is not None:
                    raise _RepeatedKey(
                        f"the key {key.value!r} is given twice, first in line {first} and then in "
                        f"line {line}: leave one out"
                    )
                lines[key.tag, key.value] = line
        return node


def load_design(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Design:
    """A preset by its name or a design from a YAML file, with some of its top keys replaced.

    Args:
        name_or_path: one of `preset_names`, or a file.
        changes: by key, what replaces what the file has.

    Raises:
        FileNotFoundError: neither a preset nor a file.
        ValueError: the file is no YAML mapping or not a design; the message begins with its name.

    Example:
        >>> design = load_design("default", {"seeds": [0, 1]})
        >>> design.seeds, design.methods[0].name
        ((0, 1), 'ce')
    """
    if name_or_path in preset_names():
        folder = resources.files("tsloss_fast.compare") / "presets"
        data = (folder / f"{name_or_path}.yaml").read_bytes()
    elif Path(name_or_path).is_file():
        data = Path(name_or_path).read_bytes()
    else:
        raise FileNotFoundError(
            f"the design {name_or_path!r} is neither a file nor one of {', '.join(preset_names())}"
        )
    try:
        found = yaml.load(data.decode("utf-8"), _DesignLoader)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name_or_path}: byte {error.start + 1} ({data[error.start]:#04x}) is no UTF-8, which "
            "a design has to be: save the file in that encoding"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        words = " ".join(str(error).split())
        problem = words if isinstance(error, _RepeatedKey) else f"not YAML ({words})"
        raise ValueError(f"{name_or_path}: {problem}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name_or_path}: expected a mapping, got {type(found).__name__}")
    try:
        return Design.from_mapping({**found, **(changes or {})})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name_or_path}: {error}") from error
