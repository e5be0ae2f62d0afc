"""The CUDA kernels against what else a GPU could do with the same numbers, and against the goals.

Run as ``python -m tsloss_fast.benchmarks.gpu --output gpu.md``; also writes gpu.json and
kernels.md, the time of every kernel, beside it. Names of rows (``1x100x4096``, ``kernels``) choose
some. With ``--rehearse`` the same code runs small clouds on the CPU: its figures mean nothing, and
it says so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tsloss_fast import _core

from ..suite import target_file
from .parts import PARTS
from .rows import Kernels, Report, Row, heading, line, select
from .supervision import supervise


def seconds(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0: all measured; 1: something failed; 2: wrong usage; 3: something was not measured.
    A goal that is missed is no failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what is measured (all)")
    parser.add_argument("--output", type=Path, help="a Markdown file; a .json is written beside it")
    parser.add_argument("--rehearse", action="store_true", help="small clouds on the CPU")
    parser.add_argument("--seconds", type=seconds, default=300.0, help="for all of it (300)")
    arguments = parser.parse_args(argv)
    try:
        wanted = select(arguments.rows, (name for group in PARTS for name in group))
    except ValueError as problem:
        parser.error(str(problem))
    if not arguments.rehearse and not (torch.cuda.is_available() and _core.has_cuda):
        print(
            "gpu: needs a CUDA device and a build with CUDA kernels (TSLOSS_CUDA=ON); "
            "--rehearse runs without",
            file=sys.stderr,
        )
        return 2
    target = None
    if arguments.output is not None:
        try:
            target = target_file(arguments.output, "gpu.md")
        except OSError as problem:
            parser.error(str(problem))
    report = Report(arguments.rehearse)
    print("\n".join(heading(arguments.rehearse)), flush=True)
    for found in supervise(arguments.rehearse, arguments.seconds, wanted=wanted.__contains__):
        if isinstance(found, Row):
            report.rows.append(found)
            print(line(found), flush=True)
        elif isinstance(found, Kernels):
            report.kernels.append(found)
        else:
            report.machine = found
        # Each time, so that whatever ends this process, what was found is there.
        if target is not None:
            report.write(target)
    met = [row.met for row in report.rows if row.goal is not None]
    print(f"{len(report.rows)} rows; {met.count(True)} of {len(met)} goals met", flush=True)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
