"""The command `tsloss tune`: options, a progress bar, a table at the end."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsloss_fast._terminal import CommandParser, require, say
from tsloss_fast.analysis.runs import describe
from tsloss_fast.tuning.config import DEFAULT_WEIGHTS, LOSSES, TuneConfig
from tsloss_fast.tuning.generators import GENERATORS
from tsloss_fast.tuning.run_folder import read_metrics
from tsloss_fast.tuning.tasks import BUILTIN_TASKS

if TYPE_CHECKING:
    from tsloss_fast.tuning.tune import TuneResult

__all__ = ["main"]

WEIGHTS = ", ".join(f"{loss} {weight:g}" for loss, weight in DEFAULT_WEIGHTS.items())
DIFFICULTIES = "; ".join(
    f"{task}: {generator.difficulties[0]} to {generator.difficulties[-1]} {generator.unit}, by "
    f"default {generator.default}"
    for task, generator in GENERATORS.items()
)
# Field of TuneConfig: the type of its option, and what the option says of itself.
OPTIONS: dict[str, dict[str, tuple[type, str]]] = {
    "what is tuned": {
        "model": (str, "a Hugging Face name, a folder, a .gguf file, or smollm2"),
        "task": (str, f"{', '.join(BUILTIN_TASKS)}, or a JSON Lines file (question, answer)"),
        "train_size": (int, "training items"),
        "test_size": (int, "test items"),
        "validation_size": (int, "validation items, evaluated beside the test items"),
        "difficulty": (int, f"of a generated task ({DIFFICULTIES})"),
    },
    "the loss": {
        "loss": (str, "what is added to cross-entropy; ce adds nothing"),
        "weight": (float, f"of what is added (default: {WEIGHTS})"),
        "connectivity": (float, "weight of this term within TSLoss"),
        "redundancy": (float, "weight of this term within TSLoss"),
        "compactness": (float, "weight of this term within TSLoss"),
        "loops": (float, "weight of this term within TSLoss; needs GUDHI"),
    },
    "the prompt": {
        "virtual_tokens": (int, "tokens of the prompt"),
        "init": (str, "how the prompt begins: vocabulary, text or normal"),
        "init_text": (str, "the text of --init text"),
        "jitter": (float, "noise on the first prompt, which separates equal tokens"),
    },
    "the training": {
        "steps": (int, "optimizer steps"),
        "batch_size": (int, "items a step"),
        "lr": (float, "learning rate of AdamW"),
        "weight_decay": (float, "of AdamW"),
        "seed": (int, "of the items, the first prompt and the order of the data"),
        "eval_every": (int, "steps between evaluations"),
        "checkpoint_every": (int, "steps between checkpoints"),
        "device": (str, "where the model runs, for example cuda"),
    },
}


def main(argv: Sequence[str]) -> int:
    """Run `tsloss tune`; returns the exit code 0, raises on errors."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    control = given.pop("control")
    given.setdefault("out", _default_folder(given))
    config = TuneConfig(**given)
    if control and config.loss == "ce":
        parser.error("--control compares with cross-entropy alone, which --loss ce already is")
    require("tsloss tune", "tuning", "matplotlib", "tqdm")

    from transformers.utils import logging as transformers_logging

    from tsloss_fast.tuning.plot import plot_runs
    from tsloss_fast.tuning.tune import tune

    be_quiet: Any = transformers_logging.set_verbosity_error
    be_quiet()
    configs = {config.loss: config}
    if control:
        configs["control"] = dataclasses.replace(
            config, loss="ce", weight=None, out=str(Path(config.out, "control"))
        )
    load = functools.cache(functools.partial(_load, config.model))
    results = {}
    for name, each in configs.items():
        with _Bar(name, each.steps) as bar:
            results[name] = tune(each, bar, load=load)
    labels = {
        name: ("control: " if name == "control" else "") + describe(each.loss, each.weight or 0.0)
        for name, each in configs.items()
    }
    plot = plot_runs(
        {labels[name]: result.folder for name, result in results.items()},
        Path(config.out, "plot.png"),
    )
    say(*_table(results), "", *(f"wrote {path}" for path in [plot, *_files(results)]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss tune",
        description="Tune a soft prompt of a frozen language model with cross-entropy and a "
        "topological loss. A stopped run, started again with the same options, goes on from its "
        "newest checkpoint and ends with the same prompt, bit for bit.",
        epilog="example: tsloss tune --model smollm2 --task boolean --loss tsloss --control "
        "--out runs/boolean",
        # An abbreviation that is unique today may not be tomorrow.
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        default=argparse.SUPPRESS,
        help="folder of the run: config.json, metrics.jsonl, topology.arrows, checkpoints/, "
        "prompts/, adapter/, plot.png (default: runs/TASK-LOSS-SEED)",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="also tune with cross-entropy alone, from the same prompt with the same data in the "
        "same order, in the folder control/, and draw both",
    )
    defaults = {field.name: field.default for field in dataclasses.fields(TuneConfig)}
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for field, (kind, text) in options.items():
            default = defaults[field]
            group.add_argument(
                "--" + field.replace("_", "-"),
                type=kind,
                metavar={int: "N", float: "X", str: "NAME"}[kind] if field != "loss" else None,
                choices=LOSSES if field == "loss" else None,
                # Left out of the namespace unless given: the defaults stand in TuneConfig alone.
                default=argparse.SUPPRESS,
                help=text if default is None else f"{text} (default: {default})",
            )
    return parser


def _default_folder(given: Mapping[str, Any]) -> str:
    fields = {field.name: field.default for field in dataclasses.fields(TuneConfig)}
    task, loss, seed = (given.get(name, fields[name]) for name in ("task", "loss", "seed"))
    return str(Path("runs", f"{Path(task).stem}-{loss}-{seed}"))


def _load(model: str) -> tuple[Any, Any]:
    from tsloss_fast.tuning.models import load_model

    say(f"loading {model} …", file=sys.stderr)
    return load_model(model)


class _Bar:
    """Shows the records of a run on standard error: a bar on a terminal, evaluations everywhere."""

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.steps = steps
        self.reference = ""

    def __enter__(self) -> _Bar:
        from tqdm import tqdm

        # disable=None: no bar where standard error is a file.
        self.bar = tqdm(
            total=self.steps, desc=self.name, unit="step", dynamic_ncols=True, disable=None
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == "step":
            terms = ", ".join(f"{name} {value:.2g}" for name, value in record["terms"].items())
            self.bar.set_postfix_str(
                f"CE {record['ce']:.3f}, TSLoss {record['tsloss']:.3g} ({terms})", refresh=False
            )
            self.bar.update()
        elif kind == "resume":
            self.bar.update(record["step"])
            # The rate is that of this process's steps.
            self.bar.initial = record["step"]
            self._say(f"resumed at step {record['step']}")
        elif kind == "reference":
            self.reference = (
                f"majority {record['majority_rate']:.3f}, restricted zero-shot "
                f"{record['zero_shot_restricted_accuracy']:.3f}"
            )
            self._say(f"before tuning: {self.reference}")
        elif kind == "eval":
            self._say(
                f"step {record['step']:>{len(str(self.steps))}}/{self.steps}: accuracy "
                f"{record['accuracy']:.3f}, restricted {record['restricted_accuracy']:.3f}, "
                f"CE {record['ce']:.3f}, CV {record['coefficient_of_variation']:.4f}, mean death "
                f"{record['mean_death']:.3g}" + (f" ({self.reference})" if self.reference else "")
            )

    def _say(self, text: str) -> None:
        self.bar.write(f"{self.name}: {text}", file=sys.stderr)


def _table(results: Mapping[str, TuneResult]) -> list[str]:
    rows = {
        "accuracy": ("accuracy", ".3f"),
        "restricted accuracy": ("restricted_accuracy", ".3f"),
        "majority rate": ("majority_rate", ".3f"),
        "zero-shot accuracy": ("zero_shot_accuracy", ".3f"),
        "restricted zero-shot accuracy": ("zero_shot_restricted_accuracy", ".3f"),
        "cross-entropy (test items)": ("ce", ".3f"),
        "coefficient of variation": ("coefficient_of_variation", ".4f"),
        "mean death": ("mean_death", ".3f"),
    }
    cells = [["", *results]]
    for title, (key, form) in rows.items():
        cells.append([title, *(format(result.final[key], form) for result in results.values())])
    cells.append(["median seconds a step", *(_seconds(r.folder) for r in results.values())])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))])
        for row in cells
    ]


def _seconds(folder: Path) -> str:
    steps = [record["seconds"] for record in read_metrics(folder) if record["kind"] == "step"]
    return f"{statistics.median(steps):.2f}"


def _files(results: Mapping[str, TuneResult]) -> list[str]:
    names = (
        "metrics.jsonl",
        "topology.arrows",
        "config.json",
        "adapter/",
        "prompts/",
        "checkpoints/",
    )
    return [f"{result.folder}/{name}" for result in results.values() for name in names]
