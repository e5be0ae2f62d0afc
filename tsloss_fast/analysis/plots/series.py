"""One quantity over the steps of several runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tsloss_fast.analysis.plots.axes import (
    COLOURS,
    GREY,
    GRID,
    as_numbers,
    axes_or_new,
    legend,
    note,
)

__all__ = ["plot_series", "run_looks"]

# Runs are told apart by colour, then by stroke; grey and dashes are the controls'.
STROKES: tuple[Any, ...] = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)))
CONTROL_STROKES: tuple[Any, ...] = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 3)))
# A marker at each value of a series that is not longer, or nobody sees where it was measured.
FEW = 40


def plot_series(
    series: Mapping[str, tuple[Any, Any]],
    ax: Axes | None = None,
    *,
    ylabel: str | None = None,
    control: str | Collection[str] = (),
    limit: float | None = None,
    show_legend: bool = True,
    looks: Mapping[str, tuple[str, Any]] | None = None,
) -> Axes:
    """Draw a line for each run; both axes start at 0, unless there are values below it.

    NaN is a gap. An infinite value is an arrowhead at the edge of the axes.

    Args:
        series: by the name of the run, its steps (S,) strictly ascending and values (S,).
        ax: where to draw; None makes a new figure.
        ylabel: the quantity and its unit.
        control: names of the runs drawn grey and dashed, for comparison.
        limit: the value at the top, for example 1 for a rate; default: as the values need.
        show_legend: whether the names stand above the axes.
        looks: (colour, stroke) of each run, where figures show different ones; `run_looks` makes
            them.

    Raises:
        TypeError: no mapping, not numbers, no Axes.
        ValueError: shapes that differ, steps that are NaN or not ascending, a control that is no
            run, more runs than can be told apart (18, and 4 controls).
    """
    if not isinstance(series, Mapping):
        raise TypeError(f"series: expected {{name: (steps, values)}}, got {type(series).__name__}")
    looks = looks or run_looks(list(series), control)
    lines = {name: _line(name, pair) for name, pair in series.items()}
    axes = axes_or_new(ax, (3.5, 2.6))
    handles = []
    for index, (name, (steps, values)) in enumerate(lines.items()):
        colour, stroke = looks[name]
        handles += axes.plot(
            steps,
            np.where(np.isfinite(values), values, np.nan),
            color=colour,
            linestyle=stroke,
            # The first run lies on top, but for the dashes, between which it is seen.
            zorder=3 - 0.01 * index + (colour == GREY),
            linewidth=1.4,
            marker="o" if len(steps) <= FEW else None,
            markersize=2.8,
        )
        if len(steps) > FEW:
            alone = _alone(values)
            axes.plot(steps[alone], values[alone], "o", color=colour, markersize=2.8)
        for sign, marker, edge in ((1, "^", 1), (-1, "v", 0)):
            where = steps[values == sign * np.inf]
            if len(where):
                axes.plot(
                    where, np.full(len(where), edge), marker, color=colour, markersize=5,
                    transform=axes.get_xaxis_transform(), clip_on=False, zorder=5,
                )  # fmt: skip
    _scale(axes, lines, limit)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_xlabel("training step")
    if ylabel is not None:
        axes.set_ylabel(ylabel, parse_math=False)
    if not any(np.isfinite(values).any() for _, values in lines.values()):
        note(axes, "no values")
    elif show_legend:
        legend(axes, handles, list(lines), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2)
    return axes


def run_looks(
    names: Collection[str], control: str | Collection[str] = ()
) -> dict[str, tuple[str, Any]]:
    """Colour and stroke of each run, the same in every figure of the same runs.

    Raises:
        ValueError: a control that is no run, more runs than can be told apart.
    """
    controls = {control} if isinstance(control, str) else set(control)
    if controls - set(names):
        raise ValueError(
            f"control: {', '.join(sorted(controls - set(names)))} is not among the series: "
            f"{', '.join(names) or '(none)'}"
        )
    ways = [(colour, stroke) for stroke in STROKES for colour in COLOURS]
    grey = [(GREY, stroke) for stroke in CONTROL_STROKES]
    for what, given, most in (
        ("runs", len(names) - len(controls), len(ways)),
        ("controls", len(controls), len(grey)),
    ):
        if given > most:
            raise ValueError(
                f"series: {given} {what} cannot be told apart in one figure, expected at most "
                f"{most}; draw them in several"
            )
    free, free_grey = iter(ways), iter(grey)
    return {name: next(free_grey if name in controls else free) for name in names}


def _line(name: str, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        steps, values = pair
    except (TypeError, ValueError) as error:
        raise TypeError(f"series[{name!r}]: expected a pair (steps, values)") from error
    steps = as_numbers(steps, f"steps of {name!r}")
    values = as_numbers(values, f"values of {name!r}")
    if steps.shape != values.shape:
        raise ValueError(
            f"series[{name!r}]: expected as many values as steps, got {len(values)} values and "
            f"{len(steps)} steps"
        )
    if not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise ValueError(f"series[{name!r}]: expected finite, strictly ascending steps; sort them")
    return steps, values


def _alone(values: np.ndarray) -> np.ndarray:
    """Finite values without a finite neighbour: no line shows them."""
    finite = np.pad(np.isfinite(values), 1)
    return np.asarray(finite[1:-1] & ~finite[:-2] & ~finite[2:])


def _scale(
    axes: Axes, lines: Mapping[str, tuple[np.ndarray, np.ndarray]], limit: float | None
) -> None:
    steps = np.concatenate([np.zeros(1), *(steps for steps, _ in lines.values())])
    values = np.concatenate([np.zeros(1), *(values for _, values in lines.values())])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 1.0
    last = max(float(steps.max()), float(steps.min()) + 1)
    # Room for the last marker.
    axes.set_xlim(steps.min(), last + 0.02 * (last - float(steps.min())))
    axes.set_ylim(low - 0.05 * span if low < 0 else 0, high + 0.06 * span if high > low else 1)
    if limit is not None:
        axes.set_ylim(top=max(1.03 * limit, axes.get_ylim()[1]) if high > limit else 1.03 * limit)
    if low < 0:
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    counts = bool((values == np.floor(values)).all() and values.any())
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=counts))
