"""The command `tsloss compare`: run a study, and write its tables and figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tsloss_fast._files import HeldElsewhere, check_writable_folder, whole_file
from tsloss_fast._terminal import CommandParser, counted, require, say

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run `tsloss compare`; return 1 if a part of the study failed, raise on other errors."""
    parser = CommandParser(
        prog="tsloss compare",
        description="Run a study: every method at every learning rate of one grid, with the same "
        "items in the same order, paired by seed. Run again, the command does what is missing.",
        epilog="example: tsloss compare quick --processes 2 --out runs/quick",
        allow_abbrev=False,
    )
    parser.add_argument("design", help="a YAML file or a preset (an unknown name lists them)")
    text = "folder of the results; studies in one folder share runs (runs/compare)"
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/compare"), help=text)
    parser.add_argument("--tables", action="store_true", help="only write tables and figures again")
    parser.add_argument("--processes", type=int, default=1, help="processes side by side (1)")
    parser.add_argument("--threads", type=int, help="threads of each (the cores divided)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    options = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = max(1, (cores or 1) // max(1, options.processes))
    threads = shared if options.threads is None else options.threads
    if min(options.processes, threads) < 1:
        parser.error("--processes and --threads must be at least 1")
    check_writable_folder(options.out)
    modules = ("transformers", "peft", "yaml", "scipy", "pandas", "matplotlib", "tqdm")
    require("tsloss compare", "tuning,study", *modules)
    # Read when torch is loaded: threads that spin while they wait slow the other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tsloss_fast.benchmarks.study.design import load_design
    from tsloss_fast.benchmarks.study.figure import draw
    from tsloss_fast.benchmarks.study.results import read_results
    from tsloss_fast.benchmarks.study.run import run_study
    from tsloss_fast.benchmarks.study.tables import summarize

    from tsloss_fast.tuning.config import check_device

    design = load_design(options.design)
    failures = 0
    if not options.tables:
        check_device(options.device)
        try:
            failures = run_study(design, options.out, options.processes, threads, options.device)
        except HeldElsewhere as error:
            raise RuntimeError(f"{options.out} is in use by {error}: wait for its end") from None
    records = design.select(read_results(options.out))
    text, page = summarize(records), options.out / f"{design.name}.md"
    with whole_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    pictures = draw(records, page.with_suffix(".png"))
    say(*text.split("\n"))
    say(*(f"wrote {path}" for path in (page, *pictures)), file=sys.stderr)
    if failures:
        what = f"{counted(failures, 'cohort')} failed; the same command tries again"
        say(f"tsloss: error: {what}", file=sys.stderr)
    return 1 if failures else 0
