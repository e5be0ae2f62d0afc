"""The command `tsloss tune`: options, a progress bar, a table at the end."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsloss_fast._files import check_writable_folder
from tsloss_fast._terminal import CommandParser, require, say
from tsloss_fast.tuning.config import LOSSES, TuneConfig
from tsloss_fast.tuning.run_folder import CHECKPOINTS, read_metrics

if TYPE_CHECKING:
    from tsloss_fast.tuning.tune import TuneResult

__all__ = ["main"]

# Rows of the table at the end: the key of an evaluation, and its format.
ROWS = {
    "accuracy": ("accuracy", ".3f"),
    "restricted accuracy": ("restricted_accuracy", ".3f"),
    "majority rate": ("majority_rate", ".3f"),
    "zero-shot accuracy": ("zero_shot_accuracy", ".3f"),
    "restricted zero-shot accuracy": ("zero_shot_restricted_accuracy", ".3f"),
    "cross-entropy (test items)": ("ce", ".3f"),
    "coefficient of variation": ("coefficient_of_variation", ".4f"),
    "mean death": ("mean_death", ".3f"),
}
FILES = (
    "metrics.jsonl",
    "topology.arrows",
    "config.json",
    "adapter/",
    "prompts/",
    CHECKPOINTS + "/",
)
RATES = (
    "accuracy: share of test items whose answer is the most likely text; restricted: among the "
    "task's answers alone. Without tuning: majority {majority_rate:.3f} (always the most frequent "
    "answer), zero-shot {zero_shot_accuracy:.3f} (no prompt), restricted zero-shot "
    "{zero_shot_restricted_accuracy:.3f}."
)


def main(argv: Sequence[str]) -> int:
    """Run `tsloss tune`; returns the exit code 0, raises on errors."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    control, seeds = given.pop("control"), given.pop("seeds")
    given["trainer"] = dict(given.pop("trainer"))
    if "out" not in given:
        default: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TuneConfig)}
        default |= given
        given["out"] = f"runs/{Path(default['task']).stem}-{default['loss']}-{default['seed']}"
    config = TuneConfig(**given)
    if control and config.loss == "ce":
        parser.error("--control compares with cross-entropy alone, which --loss ce already is")
    if seeds is not None and seeds < 1:
        parser.error(f"--seeds must be at least 1, got {seeds}")
    require("tsloss tune", "tuning", "matplotlib", "tqdm")
    check_writable_folder(Path(config.out))
    _be_quiet()

    from tsloss_fast.analysis.plots.figure import write_figure
    from tsloss_fast.tuning.tune import refuse_early, tune

    load = functools.cache(functools.partial(_load, config.model))
    command = shlex.join(["tsloss", "tune", *argv])
    runs = [_with_control(one, control) for one in _with_seeds(config, seeds)]
    main_process = int(os.environ.get("RANK", "0")) == 0
    if main_process:
        # All runs before the first of them is begun.
        refuse_early(each for together in runs for each in together.values())
    table: list[list[str]] = []
    wrote: list[str] = []
    finals: list[dict[str, Mapping[str, Any]]] = []
    for together in runs:
        results = {}
        one = next(iter(together.values()))
        for name, each in together.items():
            label = name if seeds is None else f"{name}, seed {one.seed}"
            with _Bar(label, each.steps) as bar:
                results[name] = tune(each, bar, load=load, command=command)
        finals.append({name: result.final for name, result in results.items()})
        if not main_process:
            continue
        plot = Path(one.out, "plot.png")
        write_figure(plot, "curves", [one.out], dpi=150)
        table = _table(results)
        wrote += [str(plot), *(f"{r.folder}/{name}" for r in results.values() for name in FILES)]
    if main_process:
        if seeds is not None:
            table = _paired_table(finals, config.seed)
        say(*_aligned(table), "", *(f"wrote {path}" for path in wrote))
    return 0


def _be_quiet() -> None:
    """Leave out what the libraries say of themselves: it is nothing that a user can change."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    quiet: Any = transformers_logging.set_verbosity_error
    quiet()
    # The Trainer imports DeepSpeed where it is installed, which writes to standard output.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _with_seeds(config: TuneConfig, seeds: int | None) -> list[TuneConfig]:
    if seeds is None:
        return [config]
    return [
        dataclasses.replace(config, seed=seed, out=str(Path(config.out, f"seed-{seed:03d}")))
        for seed in range(config.seed, config.seed + seeds)
    ]


def _with_control(config: TuneConfig, control: bool) -> dict[str, TuneConfig]:
    if not control:
        return {config.loss: config}
    out = str(Path(config.out, "control"))
    alone = dataclasses.replace(config, loss="ce", weight=None, out=out)
    return {config.loss: config, "control": alone}


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss tune",
        description="Tune a soft prompt of a frozen language model with cross-entropy and a "
        "topological loss. A stopped run, started again with the same options, goes on from its "
        "newest checkpoint and ends with the same prompt, bit for bit; with more --steps a "
        "finished run is extended.",
        epilog="example: tsloss tune --model smollm2 --task boolean --loss tsloss --control "
        "--out runs/boolean",
        # An abbreviation that is unique today may not be tomorrow.
        allow_abbrev=False,
    )
    parser.add_argument(
        "-o",
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
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="run N seeds from --seed on, in folders seed-000, seed-001, …, and compare them",
    )
    parser.add_argument(
        "--trainer",
        nargs="+",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="any further fields of transformers.TrainingArguments, such as bf16=true, "
        "gradient_accumulation_steps=4 or report_to=tensorboard",
    )
    group: Any = parser
    for field in dataclasses.fields(TuneConfig):
        if not field.metadata:
            continue
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        kind, text = field.metadata["type"], field.metadata["help"]
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            metavar={int: "N", float: "X", str: "NAME"}[kind] if field.name != "loss" else None,
            choices=LOSSES if field.name == "loss" else None,
            # Left out of the namespace unless given: the defaults stand in TuneConfig alone.
            default=argparse.SUPPRESS,
            help=text if field.default is None else f"{text} (default: {field.default})",
        )
    return parser


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _load(model: str) -> tuple[Any, Any]:
    from tsloss_fast.tuning.models import load_model

    say(f"loading {model} …", file=sys.stderr)
    return load_model(model)


class _Bar:
    """Shows the records of a run on standard error: a bar on a terminal, evaluations everywhere."""

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.steps = steps

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
            self._say(RATES.format(**record))
        elif kind == "eval":
            self._say(
                f"step {record['step']:>{len(str(self.steps))}}/{self.steps}: accuracy "
                f"{record['accuracy']:.3f}, restricted {record['restricted_accuracy']:.3f}, "
                f"CE {record['ce']:.3f}, CV {record['coefficient_of_variation']:.4f}, mean death "
                f"{record['mean_death']:.3g}"
            )
        elif kind == "end":
            self._say(
                f"stopped early after step {record['step']}: the cross-entropy of the validation "
                "items no longer fell"
            )

    def _say(self, text: str) -> None:
        self.bar.write(f"{self.name}: {text}", file=sys.stderr)


def _table(results: Mapping[str, TuneResult]) -> list[list[str]]:
    cells = [["", *results]]
    for title, (key, form) in ROWS.items():
        cells.append([title, *(format(result.final[key], form) for result in results.values())])
    for title, key, scale, form in (
        ("median seconds a step", "seconds", 1.0, ".2f"),
        ("  of it ms in loss and record", "loss_seconds", 1000.0, ".2f"),
    ):
        row = [title]
        for result in results.values():
            values = [line[key] for line in read_metrics(result.folder) if line["kind"] == "step"]
            row.append(format(scale * statistics.median(values), form))
        cells.append(row)
    return cells


def _paired_table(finals: Sequence[Mapping[str, Mapping[str, Any]]], first: int) -> list[list[str]]:
    """A row for each seed, and their mean with its standard error; with a control also the
    differences, which are paired: both runs of a seed have the same items and first prompt."""
    names = list(finals[0])
    shown = {"accuracy": ".3f", "ce": ".3f", "coefficient_of_variation": ".4f"}
    groups = [*names, "difference"] if len(names) > 1 else names
    columns = [(name, key) for key in shown for name in groups]
    values = [
        [
            final[names[0]][key] - final[names[1]][key]
            if name == "difference"
            else final[name][key]
            for name, key in columns
        ]
        for final in finals
    ]
    forms = [("+" if name == "difference" else "") + shown[key] for name, key in columns]
    short = {"accuracy": "accuracy", "ce": "CE", "coefficient_of_variation": "CV"}
    cells = [["seed", *(f"{short[key]}, {name}" for name, key in columns)]]
    for seed, row in enumerate(values, first):
        cells.append([str(seed), *map(format, row, forms)])
    across = list(zip(*values, strict=True))
    cells.append(["mean", *map(format, map(statistics.fmean, across), forms)])
    if len(values) > 1:
        errors = [statistics.stdev(column) / len(values) ** 0.5 for column in across]
        cells.append(
            [
                "± (standard error)",
                *(format(e, f.lstrip("+")) for e, f in zip(errors, forms, strict=True)),
            ]
        )
    return cells


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]
