"""The command `tsloss plot`: figures of recorded runs, for a paper."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Sequence
from pathlib import Path

from tsloss_fast._terminal import CommandParser, require, say
from tsloss_fast.analysis.plots import KINDS

__all__ = ["main"]

# Smaller figures have no room for their axes; larger ones do not fit in memory.
_INCHES = (1, 60)

ALL = {"all": "a figure of each kind: pages of FILE.pdf, or FILE-barcode.png, …"}


def main(argv: Sequence[str]) -> int:
    """Run `tsloss plot`; returns the exit code 0, raises on errors."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    out, kind = given.pop("out"), given.pop("kind")
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        parser.error(f"--out: expected a file name that ends in .png, .svg or .pdf, got {out}")
    if given["quantities"] and kind not in ("curves", "all"):
        parser.error(f"--quantity chooses the curves; a {kind} has none")
    if given["step"] is not None and kind == "curves":
        parser.error("--step chooses a step; the curves show all of them")
    require("tsloss plot", "analysis", "matplotlib", "scipy", "pyarrow")
    from tsloss_fast.analysis.plots.figure import write_figure

    written = write_figure(out, kind, given.pop("runs"), **given)
    say(*(f"wrote {path}" for path in written))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss plot",
        usage="tsloss plot KIND RUN [RUN ...] -o FILE [options]",
        description="Draw recorded runs as pictures for a paper. A run's control, in its folder "
        "control/,\nis drawn beside it.\n\nkinds of figure:\n"
        + "\n".join(f"  {name:10}  {text}" for name, text in (KINDS | ALL).items()),
        epilog="example: tsloss plot barcode runs/boolean -o barcode.pdf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("kind", metavar="KIND", choices=[*KINDS, *ALL], help="one of the kinds above")
    add("runs", metavar="RUN", nargs="+", help="folder of a run with a record")
    out_help = "FILE.png, FILE.svg or FILE.pdf"
    add("-o", "--out", type=Path, required=True, metavar="FILE", help=out_help)
    add("--step", type=int, metavar="N", help="a recorded step (default: each run's last)")
    add("--cloud", type=int, default=0, metavar="I", help="index of the cloud (default: 0)")
    add(
        "--quantity",
        dest="quantities",
        action="append",
        default=[],
        metavar="NAME",
        help="of curves: a column of the record (NAME:1 for dimension 1) or of the run's log; may "
        "be given several times",
    )
    add("--title", metavar="TEXT", help="above the figure")
    for name, default, ends, text in (
        ("dpi", 300.0, (10, 2400), "dots an inch, of .png (default: 300)"),
        ("width", None, _INCHES, "inches (default: 3.4, of `all`, or for each panel in a row)"),
        ("height", None, _INCHES, "inches (default: as the panels need)"),
    ):
        kind = functools.partial(_number, *ends)
        add(f"--{name}", type=kind, default=default, metavar="X", help=text)
    return parser


def _number(least: float, most: float, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"expected a number from {least} to {most}, got {text}")
    return value
