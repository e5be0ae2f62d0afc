"""The command `tsloss plot`: a figure of recorded runs, for a paper."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import CommandParser, require, say

__all__ = ["main", "write_figure"]

# Kind of figure, and what the help says of it.
KINDS = {
    "barcode": "a bar from birth to death for each feature",
    "diagram": "the persistence diagram: death over birth",
    "dendrogram": "the merge tree of single linkage",
    "components": "connected components over the scale",
    "curves": "quantities over the steps (--quantity)",
    "map": "two principal components with the minimum spanning tree",
    "all": "all of them in one figure",
}
# What each format writes beside the picture, and would change from one call to the next.
DATES: dict[str, dict[str, Any]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
# The same bytes for the same input, whatever the user's own style; text stays text.
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "tsloss",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def main(argv: Sequence[str]) -> int:
    """Run `tsloss plot`; returns the exit code 0, raises on errors."""
    parser = _parser()
    given = parser.parse_args(argv)
    out = Path(given.out)
    suffix = out.suffix.lower()
    if suffix not in DATES:
        parser.error(f"--out: expected a file name that ends in .png, .svg or .pdf, got {out}")
    if given.quantity and given.kind not in ("curves", "all"):
        parser.error(f"--quantity chooses the curves; a {given.kind} has none")
    if given.step is not None and given.kind == "curves":
        parser.error("--step chooses a step; the curves show all of them")
    require("tsloss plot", "analysis", "matplotlib", "scipy")
    look = {"size": (given.width, given.height), "title": given.title}
    write_figure(
        out,
        given.kind,
        given.runs,
        step=given.step,
        cloud=given.cloud,
        quantities=given.quantity or (),
        dpi=given.dpi,
        **look,
    )
    say(f"wrote {out}")
    return 0


def write_figure(
    out: Path,
    kind: str,
    folders: Sequence[str | Path],
    *,
    step: int | None = None,
    cloud: int = 0,
    quantities: Sequence[str] = (),
    dpi: float = 300.0,
    **look: Any,
) -> None:
    """Draw recorded runs, each with the control in its folder, into a file that is whole or absent.

    Args:
        out: a name that ends in .png, .svg or .pdf.
        kind: one of `KINDS`.
        folders: as of `load_runs`.
        step, cloud, quantities: what of the runs, as the options of `tsloss plot`.
        dpi: dots an inch of a .png.
        look: `size` and `title` of `draw_runs`.
    """
    import matplotlib.style

    from tsloss_fast.analysis.plots.choice import Choice
    from tsloss_fast.analysis.plots.figure import draw_runs
    from tsloss_fast.analysis.runs import load_runs

    suffix = out.suffix.lower()
    with matplotlib.style.context(["default", STYLE]):
        choice = Choice(step, cloud, tuple(quantities))
        figure = draw_runs(kind, load_runs(folders), choice, **look)
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=DATES[suffix])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, KINDS))
    kinds = "\n".join(f"  {name:{width}}  {text}" for name, text in KINDS.items())
    parser = CommandParser(
        prog="tsloss plot",
        usage="tsloss plot KIND RUN [RUN ...] -o FILE [options]",
        description="Draw recorded runs as a picture for a paper. A run's control, in its folder "
        "control/,\nis drawn beside it.\n\nkinds of figure:\n" + kinds,
        epilog="example: tsloss plot barcode runs/boolean -o barcode.pdf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help="one of the kinds above")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run with a record")
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="FILE.png, FILE.svg or FILE.pdf"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="a recorded step (default: each run's last)"
    )
    parser.add_argument(
        "--cloud", type=int, default=0, metavar="I", help="index of the cloud (default: 0)"
    )
    parser.add_argument(
        "--quantity",
        action="append",
        metavar="NAME",
        help="of curves: a column of the record (NAME:1 for dimension 1) or of the run's log; may "
        "be given several times",
    )
    parser.add_argument("--title", metavar="TEXT", help="above the figure")
    for name, default, text in (
        ("dpi", 300.0, "dots an inch, of .png (default: 300)"),
        ("width", None, "inches (default: as the panels need)"),
        ("height", None, "inches (default: as the panels need)"),
    ):
        parser.add_argument(f"--{name}", type=_positive(), default=default, metavar="X", help=text)
    return parser


def _positive() -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not (value > 0 and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return value

    return number
