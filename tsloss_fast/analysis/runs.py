"""A run as the reports see it: its record of topology, and what was measured of its task."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from tsloss_fast._files import read_json_lines
from tsloss_fast._terminal import escape_invisible, shorten
from tsloss_fast.analysis.record import CONTROL, RECORD, RecordError
from tsloss_fast.analysis.record.reader import TopologyRecord, read_record
from tsloss_fast.analysis.words import LOSSES

__all__ = [
    "OF_THE_LOSS", "Run", "Series", "control_of", "describe", "group_runs", "load_run", "load_runs",
    "method_name", "settings_that_vary",
]  # fmt: skip

# Settings in which a run and its control may differ, and those in which two seeds of one method
# may: items and initial tokens are drawn with the seed.
OF_THE_LOSS = {"loss", "weight", "connectivity", "redundancy", "compactness", "loops", "device"}
_OF_THE_START = {"init", "init_text", "jitter"}
_OF_THE_SEED = {"seed", "task_digest", "tokens_digest", "device", "checkpoint_every", "eval_every"}


@dataclass(frozen=True)
class Series:
    """Values (S,) float64 at steps (S,) int64, ascending."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """One run's folder, read.

    Attributes:
        name: for readers, without invisible characters; those of `load_runs` differ.
        folder: where it lies.
        record: the topology.
        measured: by name: `train_ce` of training batches, `ce`, `accuracy`, `restricted_accuracy`
            of held-out items, and all other numbers of the log. Empty without a log.
        reference: rates without any tuning: `majority_rate`, `zero_shot_restricted_accuracy`, …
        config: the settings of `tsloss tune`, with the digests of model and tokens that it noted;
            empty for other runs.
        command: the command line that began the run; empty where it is not known.
        control: whether this is the run with cross-entropy alone.
    """

    name: str
    folder: Path
    record: TopologyRecord
    measured: Mapping[str, Series] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def control(self) -> bool:
        return self.config.get("loss") == "ce"

    @property
    def model(self) -> str | None:
        """The name or folder of the language model, if the run says it."""
        name = self.config.get("model") or self.record.metadata.get("model")
        return None if name is None else str(name)

    @property
    def subject(self) -> str:
        """Task and model, such as "Task boolean (difficulty 3), model smollm2"."""
        task = self.config.get("task") or self.record.metadata.get("task") or "unknown"
        level = self.config.get("difficulty")
        task = task if level is None else f"{task} (difficulty {level})"
        return f"Task {task}, model {self.model or 'unknown'}"

    @property
    def seed(self) -> int | None:
        """The seed, if the run says it."""
        return self.config.get("seed")

    @property
    def test_items(self) -> int | None:
        """The number of held-out items that an accuracy is a share of, if the run says it."""
        known = self.reference.get("test_items", self.config.get("test_size"))
        return known if type(known) is int and 0 < known < 2**31 else None

    @property
    def began(self) -> float:
        """The time of the first row, in seconds since 1970; -inf if no row has a time."""
        return min(self.record.table.column("time").drop_null().to_pylist(), default=-math.inf)


def control_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run with cross-entropy alone to set beside `run`: one with the same settings but
    for the loss, first the one in its folder; else the one in its folder, whose settings are
    others. A control has none."""
    if run.control:
        return None
    controls = [other for other in runs if other.control]
    own = [other for other in controls if other.folder.parent == run.folder]
    alike = [c for c in [*own, *controls] if not settings_that_vary([run, c], OF_THE_LOSS)]
    return next(iter([*alike, *own]), None)


def settings_that_vary(runs: Sequence[Run], but_for: Iterable[str]) -> list[str]:
    """Return the names of the settings, but for some, that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.config if name not in but_for)
    return [n for n in names if any(r.config.get(n) != runs[0].config.get(n) for r in runs)]


def group_runs(runs: Sequence[Run]) -> list[list[int]]:
    """Return the indices of the runs of each method, in the order in which the methods first come.

    Runs of one method have the same settings but for the seed. Each seed stands once in a group,
    because runs of one seed are one observation; a run that does not say its seed is alone.
    """
    groups: list[list[int]] = []
    for index, run in enumerate(runs):
        for group in groups:
            other = settings_that_vary([runs[group[0]], run], _OF_THE_SEED)
            if not other and run.seed not in [None, *(runs[k].seed for k in group)]:
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def describe(loss: str, weight: float) -> str:
    """What a run's loss is, in words."""
    if loss == "ce":
        return "cross-entropy alone"
    return f"cross-entropy + {weight:g} × {LOSSES.get(loss, loss)}"


def _start(config: Mapping[str, Any]) -> str:
    """How a run's prompt begins, in words; empty if its settings do not say it."""
    text = shorten(str(config.get("init_text")), 24)
    words = {"vocabulary": "vocabulary rows", "normal": "normal noise", "text": f'"{text}"'}
    start = words.get(str(config.get("init")))
    jitter = f" with jitter {shorten(str(config['jitter']), 24)}" if config.get("jitter") else ""
    return "" if start is None else escape_invisible(f"from {start}{jitter}")


def method_name(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """Return the name of the method of some runs, with the settings that differ in other runs."""
    config, name = runs[0].config, runs[0].name
    if len(runs) > 1 and "loss" in config:
        name = "control: " * runs[0].control + describe(config["loss"], config["weight"])
    tuned = [run for run in others if "loss" in run.config]
    alike = [run for run in tuned if run.config["loss"] == config.get("loss")]
    apart = settings_that_vary(tuned, _OF_THE_SEED | OF_THE_LOSS)
    apart += settings_that_vary(alike, _OF_THE_SEED | {"loss", "weight", *apart})
    start = _start(config)
    if start and start not in name and _OF_THE_START.intersection(apart):
        name = f"{name}, {start}"
    if start:
        apart = [key for key in apart if key not in _OF_THE_START]
    known = [f"{key} {shorten(str(config[key]), 24)}" for key in apart if key in config]
    return ", ".join([name, *known])


def load_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Return the runs in the folders, each followed by the control in its folder `control`.

    Args:
        paths: folders or records, as of `load_run`. A folder without a record stands for the
            folders seed-* in it, as `tsloss tune --seeds` makes them, that have one.

    Raises:
        FileNotFoundError, RecordError, ValueError: as `load_run`.
    """
    folders: list[Path] = []
    for path in map(_folder, paths):
        seeds = [p for p in sorted(path.glob("seed-*")) if (p / RECORD).exists()]
        for folder in [path] if (path / RECORD).exists() or not seeds else seeds:
            folders += [folder, *(p for p in [folder / CONTROL] if (p / RECORD).exists())]
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    runs = [load_run(folder) for folder in unique]
    starts = [_start(run.config) for run in runs]
    if len(set(starts) - {""}) > 1:
        told = zip(runs, starts, strict=True)
        runs = [replace(r, name=f"{r.name}, {start}" if start else r.name) for r, start in told]
    # Equal names get the seed if that makes them differ, else the folder.
    seeded = [run.name if run.seed is None else f"{run.name}, seed {run.seed}" for run in runs]
    placed = [f"{escape_invisible('/'.join(run.folder.parts[-2:]))}: {run.name}" for run in runs]
    names = [run.name for run in runs]
    shown = [
        name if names.count(name) == 1 else seed if seeded.count(seed) == 1 else place
        for name, seed, place in zip(names, seeded, placed, strict=True)
    ]
    return [replace(run, name=name) for run, name in zip(runs, shown, strict=True)]


def _folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a run, which may be given by the record in it."""
    if not os.fspath(path):
        raise ValueError("the name of a run is empty: expected its folder; . is the working folder")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        if folder.name != RECORD:
            raise FileNotFoundError(f"{folder} is a file: expected the folder of a run")
        folder = folder.parent
    for name in (RECORD, "config.json", "metrics.jsonl", "trainer_state.json"):
        if (folder / name).is_dir():
            raise ValueError(f"{folder / name} is a folder: expected a file; move it away")
    return folder


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder of `tsloss tune`, or any folder in which a tracker left a record; the folder
    may be given by its record, too.

    Beside the record it reads `metrics.jsonl` of `tsloss tune`, or `trainer_state.json` of the
    transformers Trainer: the one written last, in the folder or in its checkpoints, unless that
    was before the record began, in which case it is of another training. A `config.json` or
    `metrics.jsonl` of another program is left alone.

    Raises:
        FileNotFoundError: the folder does not exist, or has no record in it.
        RecordError: the record cannot be read, or is empty.
        ValueError: the log or the config is damaged, or holds something else than it should;
            names the file.
    """
    folder = _folder(folder)
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}: expected the folder of a run")
    if not (folder / RECORD).exists():
        raise FileNotFoundError(
            f"{folder} has no {RECORD}: expected the folder of `tsloss tune`, or one that a "
            "TopologyTracker or PromptTopologyCallback wrote to"
        )
    record = read_record(folder)
    if not len(record.steps()):
        raise RecordError(f"{folder / RECORD} holds no whole record yet: nothing to show")
    config, command = _config(folder / "config.json")
    name = describe(config["loss"], config["weight"]) if "loss" in config else folder.name
    if config.get("loss") == "ce" and folder.name == CONTROL:
        name = f"control: {name}"
    # Neither pages nor figures take every character that a name of a folder can hold.
    run = Run(escape_invisible(name), folder, record, config=config, command=command)
    log = folder / "metrics.jsonl"
    lines = read_json_lines(log) if log.exists() else []
    lines = [line for line in lines if line.get("kind") in ("step", "eval", "reference")]
    if lines:
        measured = _measured(_of_tune(lines), f"{log} is no log of `tsloss tune`")
        reference = next((line for line in lines if line["kind"] == "reference"), {})
        return replace(run, measured=measured, reference=reference)
    # A state is written after the first record; an older one was left by another training.
    states = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    written = {path: path.stat().st_mtime for path in states}
    states = [path for path in states if written[path] >= run.began]
    if not states:
        return run
    state = max(states, key=lambda path: written[path])
    wrong = f"{state} is damaged, or no state of a Trainer"
    return replace(run, measured=_measured(_of_trainer(state), wrong))


def _config(path: Path) -> tuple[Mapping[str, Any], str]:
    """The settings and the command line of `tsloss tune`; empty for a missing file and for one of
    another program. A seed that is no integer is left out."""
    try:
        whole = json.loads(path.read_text("utf-8"))
        config = {**whole["config"]}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to go on without") from error
    except (FileNotFoundError, KeyError, TypeError):
        return {}, ""
    loss, weight = config.get("loss"), config.get("weight")
    if "loss" in config and not (isinstance(loss, str) and isinstance(weight, (int, float))):
        return {}, ""
    if type(config.get("seed")) not in (int, NoneType):
        del config["seed"]
    digests = whole.get("digests")
    if isinstance(digests, dict):
        config |= {f"{name}_digest": digest for name, digest in digests.items()}
    command = whole.get("command")
    return config, command if isinstance(command, str) else ""


# Names, steps and values of what was measured, in any order.
_Points = Iterator[tuple[str, Any, Any]]


def _of_tune(lines: Sequence[Mapping[str, Any]]) -> _Points:
    for line in lines:
        if line["kind"] == "step":
            yield "train_ce", line["step"], line["ce"]
            yield "tsloss", line["step"], line["tsloss"]
        elif line["kind"] == "eval":
            for name, value in line.items():
                if name.endswith(("accuracy", "ce")):
                    yield name, line["step"], value


def _of_trainer(state: Path) -> _Points:
    renamed = {"loss": "train_ce", "eval_loss": "ce"}
    for entry in json.loads(state.read_text("utf-8"))["log_history"]:
        # Where the task's own loss is logged, the loss of the training has the term in it.
        own = {"loss": entry["tsloss/task_loss"]} if "tsloss/task_loss" in entry else {}
        for name, value in {**entry, **own}.items():
            if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                yield renamed.get(name, name.removeprefix("eval_")), entry["step"], value


def _measured(points: _Points, wrong: str) -> dict[str, Series]:
    """The series of a log; `wrong` begins the error for a log that cannot be read."""
    found: dict[str, dict[int, float]] = {}
    try:
        for name, step, value in points:
            if not isinstance(value, (int, float, NoneType)):
                raise TypeError(f"expected a number, got {value!r}")
            found.setdefault(name, {})[int(step)] = math.nan if value is None else float(value)
    except (
        KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{wrong} ({reason}): delete it to go on without") from error
    steps = {name: sorted(by_step) for name, by_step in found.items()}
    return {
        name: Series(np.array(at, np.int64), np.array([found[name][step] for step in at]))
        for name, at in steps.items()
    }
