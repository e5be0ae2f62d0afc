"""The command `tsloss compare`: options, the live table, and what is written at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, require, say

__all__ = ["main"]

_LISTS: dict[str, tuple[type, str]] = {
    "methods": (str, "in place of the design's; the first is the baseline"),
    "seeds": (int, "in place of the design's"),
    "virtual_tokens": (int, "tokens of the prompt, in place of the design's"),
    "models": (str, "Hugging Face names, folders or .gguf files, in place of the design's"),
}


def main(argv: Sequence[str]) -> int:
    """Run `tsloss compare`; returns the exit code 0, raises on errors."""
    parser = _parser()
    options = parser.parse_args(argv)
    for name in ("processes", "threads", "cohort"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    require("tsloss compare", "tuning", "rich", "yaml", "matplotlib", "scipy")
    from tsloss_fast.compare.design import load_design
    from tsloss_fast.compare.results import read_results

    changes: dict[str, Any] = {
        name: getattr(options, name) for name in _LISTS if getattr(options, name) is not None
    }
    if options.cohort is not None:
        changes["cohort"] = options.cohort
    design = load_design(options.design, changes)
    if options.tasks is not None:
        plans = {plan["task"]: plan for plan in design.to_mapping()["tasks"]}
        changes["tasks"] = [plans.get(task, task) for task in options.tasks]
        design = load_design(options.design, changes)
    out = Path(options.out)
    if not options.tables:
        from tsloss_fast.compare.scheduler import run_experiment
        from tsloss_fast.compare.view import live

        with live(design) as view:
            run_experiment(
                design,
                out,
                processes=options.processes,
                threads=options.threads,
                device=options.device,
                view=view,
            )
    from tsloss_fast.compare.figure import draw
    from tsloss_fast.compare.plan import Plan
    from tsloss_fast.compare.summary import summarize

    records = Plan.of_records(design, read_results(out)).lines()
    text = summarize(records)
    with whole_file(out / f"{design.name}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    pictures = draw(records, out / f"{design.name}.png")
    say(*text.split("\n"))
    written = [out / f"{design.name}.{end}" for end in ("jsonl", "md")]
    say(*(f"wrote {path}" for path in [*written, *pictures]), file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss compare",
        description="Compare methods of prompt tuning over tasks and seeds: learning rate and "
        "weight of each are chosen on validation items with the same number of runs, then every "
        "method is run from the same first prompt on the same data in the same order. A stopped "
        "experiment, started again with the same options, goes on.",
        epilog="example: tsloss compare default --processes 2 --out runs/compare",
        allow_abbrev=False,
    )
    parser.add_argument(
        "design",
        nargs="?",
        default="default",
        help="a YAML file or a preset (default, ablation, degenerate, schedules, …; "
        "an unknown name lists them)",
    )
    parser.add_argument(
        "--out",
        default="runs/compare",
        help="folder of the results; experiments in the same folder share runs "
        "(default: runs/compare)",
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="write the tables and figures of what is there, and run nothing",
    )
    for name, (kind, text) in _LISTS.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=kind,
            nargs="+",
            metavar={int: "N", str: "NAME"}[kind],
            help=text,
        )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME",
        help="of the design's tasks these; others with the default settings",
    )
    parser.add_argument("--cohort", type=int, metavar="N", help="runs in one forward pass (6)")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes side by side (1)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of each (default: the cores divided)"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs, for example cuda")
    return parser
