"""Figures for papers from plain arrays: barcode, diagram, components, merge tree, map, series.

Each function draws on the matplotlib `Axes` it is given, or on those of a new figure, and returns
them; `axes.figure.savefig("figure.pdf")` writes a file. Arrays may be NumPy's, torch's (any device,
with gradient or without) or lists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.plots.axes import (
    COLOURS,
    GREY,
    GRID,
    MARKERS,
    as_deaths,
    as_diagrams,
    axes_or_new,
    homology,
    legend,
    limits,
    note,
    require_at_least,
)
from tsloss_fast.analysis.plots.series import plot_series
from tsloss_fast.analysis.plots.tree import plot_dendrogram, plot_map

__all__ = [
    "plot_barcode",
    "plot_components",
    "plot_dendrogram",
    "plot_diagram",
    "plot_map",
    "plot_series",
]

# Each dimension gets at least this share of a barcode's height, or its label would not fit.
LEAST_SHARE = 0.16


def plot_barcode(
    diagrams: Any, ax: Axes | None = None, *, max_bars: int = 200, limit: float | None = None
) -> Axes:
    """Draw a barcode: one line from birth to death for each bar, dimension 0 at the bottom.

    Infinite bars are arrows that reach the right edge, bars of length 0 short ticks. Within a
    dimension the bars go by birth, then death.

    Args:
        diagrams: (n, 2) real numbers by dimension (birth, death), as ripser, persim and GUDHI have
            them, in the units of the filtration; or one such array.
        ax: where to draw; None makes a new figure.
        max_bars: only so many bars of a dimension are drawn, the longest; its label says so.
        limit: the last scale to draw, at least; for several barcodes with one axis.

    Raises:
        TypeError: not numbers, no list, no Axes.
        ValueError: another shape, NaN, an infinite birth, a death before its birth, max_bars < 1.

    Example:
        >>> axes = plot_barcode([np.array([[0.0, 1.0], [0.0, np.inf]])])
        >>> axes.get_xlabel()
        'scale'
    """
    found = as_diagrams(diagrams)
    require_at_least(1, max_bars, "max_bars")
    axes = axes_or_new(ax, (3.5, 2.6))
    low, high = limits(found, limit)
    edge = high + 0.06 * (high - low)
    groups = [_longest(bars, max_bars) for bars in found]
    total = sum(map(len, groups))
    height = [max(len(bars), LEAST_SHARE * total) for bars in groups]
    gap = 0.03 * sum(height)
    points = axes.get_window_extent().height * 72 / axes.figure.dpi
    width = float(np.clip(0.6 * points / max(sum(height), 1), 0.3, 3))
    bottom = 0.0
    middles, names = [], []
    for dimension, bars in enumerate(groups):
        y = bottom + (height[dimension] - len(bars)) / 2 + 0.5 + np.arange(len(bars))
        colour = COLOURS[dimension % len(COLOURS)]
        births, deaths = bars.T
        infinite = np.isinf(deaths)
        axes.hlines(y, births, np.where(infinite, edge, deaths), colors=colour, linewidths=width)
        look: dict[str, Any] = {"color": colour, "markersize": 2 + 1.5 * width, "clip_on": False}
        if infinite.any():
            ends = np.full(infinite.sum(), edge)
            axes.plot(ends, y[infinite], ">", markeredgewidth=0, zorder=3, **look)
        empty = deaths == births
        if empty.any():
            axes.plot(births[empty], y[empty], "|", **look)
        middles.append(bottom + height[dimension] / 2)
        names.append(f"{homology(dimension)}\n{_count(len(bars), len(found[dimension]))}")
        bottom += height[dimension] + gap
    axes.set_xlim(low, edge)
    axes.set_ylim(0, max(bottom - gap, 1))
    axes.set_yticks(middles if total else [], labels=names if total else [])
    axes.tick_params(axis="y", length=0)
    for label, dimension in zip(axes.get_yticklabels(), range(len(groups)), strict=False):
        label.set_color(COLOURS[dimension % len(COLOURS)])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("scale")
    if not total:
        note(axes, "no bars")
    return axes


def plot_diagram(diagrams: Any, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Draw a persistence diagram: death over birth, with the diagonal and a line for infinity.

    The axes have one scale. The bars of dimension 0 of a Rips filtration are born at 0, so its
    points lie on the left edge.

    Args:
        diagrams, limit: as `plot_barcode`.
        ax: where to draw; None makes a new figure.

    Raises:
        TypeError, ValueError: as `plot_barcode`.
    """
    found = as_diagrams(diagrams)
    axes = axes_or_new(ax, (3.1, 3))
    low, high = limits(found, limit)
    span = high - low
    infinity = high + 0.1 * span
    top = high + 0.14 * span
    axes.plot([low, top], [low, top], color=GREY, linewidth=0.8, zorder=1)
    axes.axhline(infinity, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    handles, names = [], []
    for dimension, bars in enumerate(found):
        births, deaths = bars.T
        handles += axes.plot(
            births,
            np.where(np.isinf(deaths), infinity, deaths),
            MARKERS[dimension % len(MARKERS)],
            color=COLOURS[dimension % len(COLOURS)],
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.3,
            alpha=0.85,
            clip_on=False,
            zorder=3,
        )
        # Without a point matplotlib would make room for the figure's corner.
        handles[-1].set_in_layout(len(bars) > 0)
        names.append(f"{homology(dimension)}: {_count(len(bars), len(bars))}")
    axes.set_xlim(low, top)
    axes.set_ylim(low, top)
    axes.set_aspect("equal")
    ticks, texts = _ticks(low, high, 4)
    if max(map(len, texts)) > 5:
        ticks, texts = _ticks(low, high, 2)
    axes.set_xticks(ticks, labels=texts)
    axes.set_yticks([*ticks, infinity], labels=[*texts, "∞"])
    axes.set_xlabel("birth")
    axes.set_ylabel("death")
    if any(map(len, found)):
        # Nothing lies below the diagonal.
        legend(axes, handles, names, loc="lower right")
    else:
        note(axes, "no bars")
    return axes


def plot_components(
    deaths: Any,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    colour: str = COLOURS[0],
    stroke: Any = "-",
) -> Axes:
    """Draw the number of connected components over the scale (the Betti curve of dimension 0).

    It is N at scale 0, less what coincides there, falls by one at each death, and ends at 1. Call
    it again with the same Axes to compare clouds.

    Args:
        deaths: (N-1,) real numbers, ascending, in the units of the distance. No deaths: one point.
        ax: where to draw; None makes a new figure.
        label: name of the curve, for a legend.
        colour, stroke: of the curve, as matplotlib's `color` and `linestyle`.

    Raises:
        TypeError: not numbers, no Axes.
        ValueError: another shape, NaN, infinite, negative or not ascending.
    """
    heights = as_deaths(deaths)
    axes = axes_or_new(ax, (3.5, 2.6))
    scales, merged = np.unique(heights, return_counts=True)
    counts = np.concatenate([[len(heights) + 1], len(heights) + 1 - np.cumsum(merged)])
    # What merges at scale 0 is never seen apart.
    first = 1 if len(scales) and scales[0] == 0 else 0
    starts = np.concatenate([[0.0], scales])[first:]
    axes.step(
        [*starts, starts[-1]], [*counts[first:], 1], where="post",
        color=colour, linestyle=stroke, linewidth=1.4, label=label,
    )  # fmt: skip
    # Every curve stays at 1 from its last death to the edge.
    curves = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    scales_of = [np.array(line.get_xdata(), dtype=np.float64) for line in curves]
    edge = 1.06 * max(float(found[-2]) for found in scales_of) or 1.0
    for line, found in zip(curves, scales_of, strict=True):
        line.set_xdata([*found[:-1], edge])
    axes.set_xlim(0, edge)
    axes.set_ylim(0, 1.05 * max(float(np.max(line.get_ydata())) for line in curves))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_xlabel("scale")
    axes.set_ylabel("components")
    return axes


def _ticks(low: float, high: float, most: int) -> tuple[list[float], list[str]]:
    """Ticks up to the last finite value, above which only infinity lies, and their labels."""
    small = 1e-9 * (high - low)
    found = MaxNLocator(most).tick_values(low, high)
    ticks = [0.0 if abs(tick) < small else float(tick) for tick in found]
    ticks = [tick for tick in ticks if low - small <= tick <= high + small]
    return ticks, [f"{tick:.4g}" for tick in ticks]


def _longest(bars: np.ndarray, count: int) -> np.ndarray:
    """The longest bars, by birth and then death."""
    order = np.argsort(bars[:, 0] - bars[:, 1], kind="stable")[:count]
    return bars[order][np.lexsort((bars[order, 1], bars[order, 0]))]


def _count(drawn: int, all_: int) -> str:
    if drawn < all_:
        return f"{drawn} longest\nof {all_}"
    return counted(drawn, "bar") if drawn else "no bars"
