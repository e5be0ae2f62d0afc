"""Figures from plain arrays: barcode, diagram, components over the scale, series over the steps.

Each function draws on the matplotlib `Axes` it is given as `ax`, or on those of a new figure, and
returns them; `axes.figure.savefig("figure.pdf")` writes a file. Arrays may be NumPy's, torch's (any
device, with gradient or without) or lists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.plots import style
from tsloss_fast.analysis.plots.arrays import DEATHS, STEPS, as_array, as_diagrams

__all__ = ["finite_range", "plot_barcode", "plot_components", "plot_diagram", "plot_series"]

# Each dimension gets at least this share of a barcode's height, or its label would not fit.
LEAST_SHARE = 0.16
# A dimension with more bars is drawn with its longest ones only.
MOST_BARS = 200
# A longer series has no marker at each of its values.
FEW = 40


def plot_barcode(diagrams: Any, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Draw a barcode: one line from birth to death for each bar, dimension 0 at the bottom.

    Infinite bars are arrows that reach the right edge, bars of length 0 short ticks. Within a
    dimension the bars go by birth, then death. A dimension with more than 200 bars is drawn with
    its longest 200, and its label says so.

    Args:
        diagrams: (n, 2) real numbers by dimension (birth, death), as ripser, persim and GUDHI have
            them, in the units of the filtration; or one such array.
        limit: the last scale to draw, at least; for several barcodes with one axis.

    Raises:
        TypeError: not numbers, no list, no Axes.
        ValueError: another shape, NaN, an infinite birth, a death before its birth.

    Example:
        >>> axes = plot_barcode([np.array([[0.0, 1.0], [0.0, np.inf]])])
        >>> axes.get_xlabel()
        'scale'
    """
    found = as_diagrams(diagrams)
    axes = style.axes_or_new(ax, (style.COLUMN, 2.6))
    low, high = finite_range(found, limit)
    edge = high + 0.06 * (high - low)
    shown = [bars[np.argsort(bars[:, 0] - bars[:, 1], kind="stable")[:MOST_BARS]] for bars in found]
    least = LEAST_SHARE * sum(map(len, shown))
    heights = [max(len(bars), least) for bars in shown]
    points = axes.get_window_extent().height * 72 / axes.figure.dpi
    width = float(np.clip(0.6 * points / max(sum(heights), 1), 0.3, 3))
    ticks: dict[float, str] = {}
    bottom = 0.0
    for dimension, (bars, height) in enumerate(zip(shown, heights, strict=True)):
        births, deaths = bars[np.lexsort((bars[:, 1], bars[:, 0]))].T
        y = bottom + (height - len(births)) / 2 + 0.5 + np.arange(len(births))
        infinite, empty = np.isinf(deaths), deaths == births
        colour = style.COLOURS[dimension % len(style.COLOURS)]
        look: dict[str, Any] = {"color": colour, "markersize": 2 + 1.5 * width, "clip_on": False}
        axes.hlines(y, births, np.where(infinite, edge, deaths), colors=colour, linewidths=width)
        # A line without points would have the layout make room for the figure's corner.
        if infinite.any():
            axes.plot(0 * y[infinite] + edge, y[infinite], ">", markeredgewidth=0, zorder=3, **look)
        if empty.any():
            axes.plot(births[empty], y[empty], "|", **look)
        whole = len(found[dimension])
        count = f"{MOST_BARS} longest\nof {whole}" if whole > MOST_BARS else counted(whole, "bar")
        ticks[bottom + height / 2] = f"{style.homology(dimension)}\n{count}"
        bottom += height + 0.03 * sum(heights)
    axes.set_xlim(low, edge)
    axes.set_ylim(0, max(bottom - 0.03 * sum(heights), 1))
    axes.set_yticks([*ticks] if least else [], labels=[*ticks.values()] if least else [])
    for dimension, label in enumerate(axes.get_yticklabels()):
        label.set_color(style.COLOURS[dimension % len(style.COLOURS)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("scale")
    if not least:
        style.note(axes, "no bars")
    return axes


def plot_diagram(diagrams: Any, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Draw a persistence diagram: death over birth, with the diagonal and a line for infinity.

    Both axes have one unit. The bars of dimension 0 of a Rips filtration are born at 0, so that
    its points lie on the left edge.

    Args:
        diagrams, limit: as `plot_barcode`.

    Raises:
        TypeError, ValueError: as `plot_barcode`.
    """
    found = as_diagrams(diagrams)
    axes = style.axes_or_new(ax, (3.1, 3))
    low, high = finite_range(found, limit)
    infinity, top = high + 0.1 * (high - low), high + 0.14 * (high - low)
    axes.plot([low, top], [low, top], color=style.GREY, linewidth=0.8, zorder=1)
    axes.axhline(infinity, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for dimension, bars in enumerate(found):
        shape, colour = (look[dimension % len(look)] for look in (style.MARKERS, style.COLOURS))
        (marks,) = axes.plot(
            bars[:, 0], np.minimum(bars[:, 1], infinity), shape, color=colour, markersize=4.5,
            markeredgecolor="white", markeredgewidth=0.3, alpha=0.85, clip_on=False, zorder=3,
            label=f"{style.homology(dimension)}: {counted(len(bars), 'bar')}",
        )  # fmt: skip
        # As in `plot_barcode`.
        marks.set_in_layout(len(bars) > 0)
    axes.set(xlim=(low, top), ylim=(low, top), aspect="equal", xlabel="birth", ylabel="death")
    # Above the last finite value there is only infinity.
    ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= 1.001 * high]
    texts = [f"{tick:.4g}" for tick in ticks]
    axes.set_xticks(ticks, labels=texts)
    axes.set_yticks([*ticks, infinity], labels=[*texts, "∞"])
    if any(map(len, found)):
        # Nothing lies below the diagonal.
        style.legend(axes, loc="lower right", handlelength=1)
    else:
        style.note(axes, "no bars")
    return axes


def plot_components(
    deaths: Any,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = style.COLOURS[0],
    stroke: Any = "-",
    limit: float | None = None,
) -> Axes:
    """Draw the number of connected components over the scale (the Betti curve of dimension 0).

    It is N at scale 0, less what coincides there, falls by one at each death, and ends at 1. Call
    it again with the same Axes to compare clouds.

    Args:
        deaths: (N-1,) real numbers, ascending, in the units of the distance. No deaths: one point.
        label: name of the curve, for a legend.
        colour, stroke: of the curve, as matplotlib's `color` and `linestyle`.
        limit: the last scale to draw, at least; for several curves that end together.

    Raises:
        TypeError: not numbers, no Axes.
        ValueError: another shape, NaN, infinite, negative or not ascending.
    """
    heights = as_array(deaths, "deaths", None, DEATHS)
    axes = style.axes_or_new(ax, (style.COLUMN, 2.6))
    # Points that coincide are never seen apart.
    scales = np.concatenate([[0.0], np.unique(heights[heights > 0])])
    counts = len(heights) + 1 - np.searchsorted(heights, scales, side="right")
    edge = 1.06 * max(scales[-1], limit or 0.0) or 1.0
    axes.step(
        [*scales, edge], [*counts, 1], where="post",
        color=colour, linestyle=stroke, linewidth=1.4, label=label,
    )  # fmt: skip
    axes.set_xlim(0, edge)
    axes.set_ylim(0, 1.05 * max(float(np.max(line.get_ydata())) for line in axes.lines))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=style.GRID, linewidth=0.7)
    axes.set(xlabel="scale", ylabel="components")
    return axes


def plot_series(
    series: Mapping[str, tuple[Any, Any]],
    ax: Axes | None = None,
    *,
    ylabel: str | None = None,
    control: str | Collection[str] = (),
    show_legend: bool = True,
) -> Axes:
    """Draw a line for each run; both axes start at 0, unless there are values below it.

    A value that is not finite is a gap.

    Args:
        series: by the name of the run, its steps (S,) strictly ascending and values (S,).
        ylabel: the quantity and its unit.
        control: names of the runs drawn grey and dashed, for comparison.
        show_legend: whether the names stand above the axes.

    Raises:
        TypeError: no mapping, not numbers, no Axes.
        ValueError: shapes that differ, steps that are NaN or not ascending, a control that is no
            run, more runs than can be told apart (18, and 9 controls).
    """
    if not isinstance(series, Mapping):
        raise TypeError(f"series: expected {{name: (steps, values)}}, got {type(series).__name__}")
    looks = style.run_looks(list(series), control)
    lines = {name: _line(name, pair) for name, pair in series.items()}
    axes = style.axes_or_new(ax, (style.COLUMN, 2.6))
    for index, (name, (steps, values)) in enumerate(lines.items()):
        colour, stroke = looks[name]
        finite = np.isfinite(values)
        # The first run lies on top, but for the dashes of controls, between which it is seen.
        look: dict[str, Any] = {"color": colour, "zorder": 3 - 0.01 * index + (stroke != "-")}
        gaps = np.where(finite, values, np.nan)
        axes.plot(steps, gaps, linestyle=stroke, linewidth=1.4, label=name, **look)
        # No line shows a value that has no neighbour.
        beside = np.pad(finite, 1)
        dots = finite if len(steps) <= FEW else finite & ~beside[:-2] & ~beside[2:]
        axes.plot(steps[dots], values[dots], "o", markersize=2.8, **look)
    drawn = np.concatenate([np.zeros(0), *(values for _, values in lines.values())])
    drawn = drawn[np.isfinite(drawn)]
    # Both axes show 0, and a margin only beyond what is drawn.
    axes.update_datalim([(0, 0), (1, 0 if drawn.any() else 1)])
    for line in axes.lines:
        line.sticky_edges.x.append(0)
        line.sticky_edges.y.append(0)
    axes.margins(0.03)
    axes.autoscale_view()
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    counts = bool((drawn == np.floor(drawn)).all() and drawn.any())
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=counts))
    if (drawn < 0).any():
        axes.axhline(0, color=style.GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="y", color=style.GRID, linewidth=0.7)
    axes.set_xlabel("training step")
    axes.set_ylabel(ylabel or "", parse_math=False)
    if not len(drawn):
        style.note(axes, "no values")
    elif show_legend:
        style.legend(axes)
    return axes


def _line(name: str, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        steps, values = pair
    except (TypeError, ValueError) as error:
        raise TypeError(f"series[{name!r}]: expected a pair (steps, values)") from error
    steps = as_array(steps, f"steps of {name!r}", None, STEPS)
    values = as_array(values, f"values of {name!r}")
    if steps.shape != values.shape:
        got = f"{len(values)} values and {len(steps)} steps"
        raise ValueError(f"series[{name!r}]: expected as many values as steps, got {got}")
    return steps, values


def finite_range(diagrams: Sequence[np.ndarray], least: float | None = None) -> tuple[float, float]:
    """Return the scales that diagrams need: from 0, or the least birth below it, to the last finite
    birth or death, or to `least` if that is more (to 1 if all are 0)."""
    finite = np.concatenate([[0.0, least or 0.0], *(d[np.isfinite(d)] for d in diagrams)])
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1.0
