"""The design of a study: what is compared on what, fixed before anything is run.

A design is a YAML file or a preset. Each of its runs is a trial, a mapping of everything that the
result depends on; the same trial of two designs is the same run, and is computed once in a folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from tsloss_fast.benchmarks.study.methods import METHODS, Method, Start
from tsloss_fast.benchmarks.study.outcomes import OUTCOMES
from tsloss_fast.benchmarks.study.tasks import task_difficulty

from tsloss_fast._terminal import escape_invisible

__all__ = ["Design", "TaskPlan", "Trial", "load_design", "read_design", "trial_key"]

Trial = dict[str, Any]
# Numbers in a design are at least 0, and counts at least 1.
Count = Annotated[int, 1]
OutcomeName = Literal[tuple(OUTCOMES)]
# To be counted up when generated items or the training change, which makes other runs.
_VERSION = 2


@dataclass(frozen=True)
class TaskPlan:
    """A task, how long it is trained on, and the thresholds of the outcomes "steps to".

    The first `curve_size` test items are evaluated every `eval_every` steps, and all at the end. A
    run ends early at the first step whose training cross-entropy is at most `stop_train_ce`.
    """

    task: str
    difficulty: Count | None = None
    train_size: Count = 128
    test_size: Count = 200
    curve_size: Count = 50
    steps: Count = 60
    batch_size: Count = 8
    eval_every: Count = 5
    stop_train_ce: float | None = None
    train_ce_threshold: float | None = None
    ce_threshold: float | None = None
    accuracy_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.curve_size > self.test_size:
            raise ValueError(f"curve_size {self.curve_size} > test_size {self.test_size}")
        ends, counted = self.stop_train_ce, self.train_ce_threshold
        if ends is not None and counted is not None and ends > counted:
            raise ValueError(
                f"stop_train_ce {ends} > train_ce_threshold {counted}: no run would reach the "
                "threshold; expected at most the threshold, so lower the first"
            )
        object.__setattr__(self, "difficulty", task_difficulty(self.task, self.difficulty))


@dataclass(frozen=True)
class Design:
    """A study.

    Attributes:
        name, question: for the reader; the name is that of the results file.
        models, tasks, virtual_tokens, starts: each combination is a group.
        methods: the arms that are compared in each group; the first is the baseline.
        lr: the grid of learning rates, the same for every arm. Outcomes are averaged over it.
        seeds: of items, first prompt and order of the data; arms are paired by them.
        lr_schedule: "constant", or "linear" to 0 at the last step.
        primary, margins: the outcomes that the study is about, and by outcome the difference that
            would not matter.
        cohort: runs at most that go through the model together; changes time and memory only.
    """

    name: str
    tasks: tuple[TaskPlan, ...]
    methods: tuple[Method, ...]
    question: str = "Which method is best?"
    models: tuple[str, ...] = ("smollm2",)
    virtual_tokens: tuple[Count, ...] = (10,)
    starts: tuple[Start, ...] = (Start(),)
    lr: tuple[float, ...] = (0.015, 0.03, 0.06)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    lr_schedule: Literal["constant", "linear"] = "constant"
    weight_decay: float = 0.0
    primary: tuple[OutcomeName, ...] = ("train_ce", "final_accuracy")
    margins: Mapping[OutcomeName, float] = field(default_factory=dict)
    confidence: float = 0.95
    cohort: Count = 6

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w .-]*", self.name, re.ASCII):
            raise ValueError(f"name: got {self.name!r}, expected letters, since it names files")
        if not (min(self.lr) > 0 and 0 < self.confidence < 1):
            raise ValueError("lr must be above 0, and confidence between 0 and 1")
        # Tables tell groups apart by these, and runs are known by the content of their arm.
        for what, values in (
            ("tasks", [(p.task, p.difficulty, p.train_size, p.steps) for p in self.tasks]),
            ("names of methods", [method.name for method in self.methods]),
            ("methods", [(m.settings(), m.weight, m.start) for m in self.methods]),
            ("names of starts", [start.name for start in self.starts]),
        ):
            _refuse_repeats(what, values)

    def to_mapping(self) -> dict[str, Any]:
        """Return what `load_design` reads, with every default written out."""
        return json.loads(json.dumps(asdict(self)))

    def cohorts(self, done: Iterable[str] = ()) -> Iterator[list[Trial]]:
        """Yield the trials that are trained together: some of those of a group and a seed.

        Trials whose key is done or was in an earlier cohort are left out.
        """
        done = set(done)
        axes = (self.models, self.tasks, self.virtual_tokens, self.starts)
        for model, plan, count, start in itertools.product(*axes):
            common = {"version": _VERSION, "stage": "final", "model": model}
            common |= {k: v for k, v in asdict(plan).items() if not k.endswith("_threshold")}
            common |= {"adapter": "prompt", "virtual_tokens": count}
            common |= {"weight_decay": self.weight_decay, "lr_schedule": self.lr_schedule}
            for seed in self.seeds:
                trials = []
                for method, rate in itertools.product(self.methods, self.lr):
                    arm = asdict(method.start or start)
                    arm["start"] = arm.pop("name")
                    arm |= {"method": method.name, "settings": method.settings()}
                    arm |= {"lr": rate, "weight": method.weight, "seed": seed}
                    trials.append(common | arm)
                size = math.ceil(len(trials) / math.ceil(len(trials) / self.cohort))
                for begin in range(0, len(trials), size):
                    cohort = {trial_key(trial): trial for trial in trials[begin : begin + size]}
                    fresh = [trial for key, trial in cohort.items() if key not in done]
                    done |= cohort.keys()
                    yield from [fresh] if fresh else []

    def select(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return this design's lines of the results of a folder: its declaration and its runs.

        Another design may have run the same trial under another name.
        """
        runs = {record["key"]: record for record in records if record["kind"] == "run"}
        trials = itertools.chain.from_iterable(self.cohorts())
        return [
            {"kind": "experiment", "name": self.name, "design": self.to_mapping()},
            *(runs[key] | {"trial": t} for t in trials if (key := trial_key(t)) in runs),
        ]


def trial_key(trial: Mapping[str, Any]) -> str:
    """Return a digest of what the result of a trial depends on: all but the names in it."""
    content = {key: value for key, value in trial.items() if key not in ("method", "start")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_design(name_or_path: str) -> Design:
    """Return a preset or the design of a YAML file."""
    presets = {file.stem: file for file in Path(__file__).parent.glob("presets/*.yaml")}
    file = presets.get(name_or_path, Path(name_or_path))
    if not file.is_file():
        raise FileNotFoundError(
            f"the design {name_or_path!r} is neither a file nor one of {', '.join(sorted(presets))}"
        )
    try:
        return read_design(yaml.load(file.read_text(encoding="utf-8"), _Loader))
    except (ValueError, TypeError, OSError, ImportError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name_or_path}: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{name_or_path}: not YAML ({' '.join(str(error).split())})") from error


def read_design(mapping: Any) -> Design:
    """Return the design that a file or a line of results holds; raise ValueError if it is none."""
    return _read(Design, mapping, "the design")


class _Loader(yaml.SafeLoader):
    """The safe loader, except that a key given twice is an error, not the last of its values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if len(keys) > len(set(keys)):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a key is given twice, {keys}")
        return super().construct_mapping(node, deep)


def _read(kind: Any, given: Any, where: str) -> Any:
    """Return a value of a design's file as the kind that a field's annotation names."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return given
    if type(None) in inner:
        return None if given is None else _read(inner[0], given, where)
    if is_dataclass(kind):
        return _read_fields(kind, given, where)
    if origin is Literal:
        _check_choice(where, given, inner)
        return given
    if origin is Mapping and isinstance(given, Mapping):
        return {_read(inner[0], k, where): _read(inner[1], v, where) for k, v in given.items()}
    if origin is tuple and isinstance(given, list) and given:
        values = [_read(inner[0], each, f"{where}, number {n}") for n, each in enumerate(given, 1)]
        _refuse_repeats(where, values)
        return tuple(values)
    base, least = inner if origin is Annotated else (kind, 0)
    if base is str and isinstance(given, str) and given == escape_invisible(given, keep="\n") != "":
        return given
    number = base in (int, float) and isinstance(given, (int, base)) and not isinstance(given, bool)
    if number and least <= given < math.inf:
        return base(given)
    words = {str: "visible text", int: f"an integer of at least {least}", Mapping: "a mapping"}
    words[float] = "a number >= 0 (YAML takes 1e-2 for text: write 0.01 or 1.0e-2)"
    words[tuple] = "a list with an entry"
    raise ValueError(f"{where}: expected {words.get(base) or words[origin]}, got {given!r}")


def _read_fields(kind: Any, given: Any, where: str) -> Any:
    if isinstance(given, str):
        keys = {TaskPlan: ["task"], Start: ["name", "init"]}.get(kind, ["name"])
        given = dict.fromkeys(keys, given)
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {given!r}")
    if kind is Method and "loss" not in given:
        _check_choice(f"{where}: a method without a loss", str(given.get("name")), METHODS)
        given = METHODS[given["name"]] | given
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in given:
        _check_choice(f"{where}: key", name, hints)
    return kind(**{name: _read(hints[name], v, f"{where}: {name}") for name, v in given.items()})


def _check_choice(where: str, given: object, allowed: Collection[str]) -> None:
    if given not in allowed:
        raise ValueError(f"{where}: got {given!r}, expected one of {', '.join(allowed)}")


def _refuse_repeats(where: str, values: Sequence[Any]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            first = values.index(value) + 1
            raise ValueError(f"{where}: number {first} and number {number + 1} are the same")
