"""The page of evidence, and every table and figure of the experiments, from their raw results.

Run as ``python -m tsloss_fast.benchmarks.evidence``. Reads the results that `tsloss compare` wrote
(``*.jsonl``), writes beside each its tables and its figure, the page ``evidence.md`` above them,
and the table between the marks in the README. Nothing is trained, and no result stands here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .write import write


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.evidence",
        description="Write the page of evidence, its tables and figures from raw results.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/evidence"),
        help="folder of *.jsonl (benchmarks/results/evidence)",
    )
    parser.add_argument("--output", type=Path, help="the page (evidence.md beside the folder)")
    parser.add_argument("--readme", type=Path, help="a README whose marked table is replaced")
    options = parser.parse_args(argv)
    if not options.results.is_dir():
        parser.error(f"{options.results} is no folder; tsloss compare --out makes one")
    output = options.output or options.results.with_suffix(".md")
    for path in write(options.results, output, options.readme):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
