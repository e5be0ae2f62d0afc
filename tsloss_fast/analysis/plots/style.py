"""The look of every figure: colours, axes, legends and sizes of type.

Sizes of type are relative to matplotlib's rcParams, so that a paper's own style stays in force.
No figure is made through pyplot: nothing here needs a window system, or keeps figures alive.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from tsloss_fast.analysis.words import PALETTE

COLOURS, _GREYS = PALETTE["runs"], PALETTE["controls"]
# Shapes tell dimensions apart where a figure is printed in grey.
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY, INK, GRID = _GREYS[0], "#222222", "#e4e4e4"
COLUMN = 3.4  # inches, the width of a column of a paper
# Runs differ in colour, then in stroke. Controls are grey, and never solid.
_STROKES: tuple[Any, ...] = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)))
_DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
_STYLE = {
    "font.family": "DejaVu Sans",
    # "small", which is 0.833 of it, comes to 7 points.
    "font.size": 8.4,
    "axes.labelsize": 8,
    "figure.titlesize": 8,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    # Text stays text, which readers can search and editors can change.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "tsloss",
}


def figure_style() -> AbstractContextManager[None]:
    """Return a context in which the user's own style does not change a figure's bytes."""
    return matplotlib.style.context(["default", _STYLE])


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of this width and height in inches."""
    # Panels need these pads (inches) between them, or two of them are read as one.
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07))


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure of this size (inches), in the common look.

    Raises:
        TypeError: `ax` is neither None nor matplotlib Axes.
    """
    if ax is None:
        ax = new_figure(size).add_subplot()
    elif not isinstance(ax, Axes):
        raise TypeError(
            f"ax: expected matplotlib Axes (`_, ax = pyplot.subplots()` makes one) or None, got "
            f"{type(ax).__name__}"
        )
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(GREY)
    ax.tick_params(colors=INK, color=GREY, labelsize="small")
    ax.set_axisbelow(True)
    return ax


def run_looks(
    names: Collection[str], control: str | Collection[str] = ()
) -> dict[str, tuple[str, Any]]:
    """Return the colour and the stroke of each run, which depend on the order of the names alone.

    Raises:
        ValueError: a control is not among the runs, or the runs outnumber the looks.
    """
    controls = {control} if isinstance(control, str) else set(control)
    if unknown := controls - set(names):
        raise ValueError(
            f"control: {', '.join(sorted(unknown))} is not among the series: "
            f"{', '.join(names) or '(none)'}"
        )
    looks: dict[str, tuple[str, Any]] = {}
    for what, strokes, colours in (("runs", _STROKES, COLOURS), ("controls", _DASHES, _GREYS)):
        given = [name for name in names if (name in controls) == (what == "controls")]
        ways = [(colour, stroke) for stroke in strokes for colour in colours]
        if len(given) > len(ways):
            raise ValueError(
                f"series: {len(given)} {what} cannot be told apart in one figure, expected at most "
                f"{len(ways)}; draw them in several"
            )
        looks.update(zip(given, ways, strict=False))
    return looks


def legend(axes: Axes, lines: Iterable[Line2D] | None = None, **how: Any) -> None:
    """Add a legend, above the axes if `how` says no other place, of the lines that have a label:
    of those given, or of all. Names are taken literally: `$` and a leading `_` mean nothing."""
    # The label of a line that was given none begins with _child in matplotlib.
    named = [line for line in lines or axes.lines if not str(line.get_label()).startswith("_child")]
    how = how or {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    how = {"frameon": False, "fontsize": "small", "borderpad": 0.2, **how}
    made = axes.legend(handles=named, labels=[str(k) for k in range(len(named))], **how)
    for text, line in zip(made.get_texts(), named, strict=True):
        text.set_parse_math(False)
        text.set_text(wrapped(str(line.get_label()), axes))


def wrapped(text: str, room: Axes | float) -> str:
    """Break small type into lines of the width of the axes, or of this many inches."""
    inches = room.bbox.width / room.figure.dpi if isinstance(room, Axes) else room
    # A character is about 0.06 inches wide.
    return textwrap.fill(text, max(int(inches / 0.06), 10), break_on_hyphens=False)


def note(axes: Axes, text: str) -> None:
    """Say in the middle of empty axes why they are empty."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def homology(dimension: int) -> str:
    """Return the name of the homology of a dimension, such as H₀."""
    return f"H{dimension}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
