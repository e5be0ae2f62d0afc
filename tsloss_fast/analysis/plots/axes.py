"""Parts of all figures: axes, colours, labels, and arrays that are drawn or refused in words.

Sizes of type follow matplotlib's rcParams, so that a paper's style stays in force. No figure is
made through pyplot: nothing here depends on a window system, or keeps figures alive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.legend import Legend

from tsloss_fast._terminal import escape_invisible, shorten

__all__ = [
    "COLOURS",
    "GREY",
    "GRID",
    "INK",
    "MARKERS",
    "as_deaths",
    "as_diagrams",
    "as_labels",
    "as_numbers",
    "axes_or_new",
    "homology",
    "label_beside",
    "legend",
    "limits",
    "note",
    "require_at_least",
]

# Okabe and Ito's colours, told apart with every kind of colour blindness; shapes tell them in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GREY, GRID = "#222222", "#6b6b6b", "#e4e4e4"
LONGEST_LABEL = 24
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of this size (inches), dressed alike.

    Raises:
        TypeError: `ax` is something else.
    """
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    elif not isinstance(ax, Axes):
        raise TypeError(
            f"ax: expected matplotlib Axes (`_, ax = pyplot.subplots()` makes one) or None, got "
            f"{type(ax).__name__}"
        )
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        ax.spines[side].set_color(GREY)
    ax.tick_params(colors=INK, color=GREY, labelsize="small")
    ax.set_axisbelow(True)
    return ax


def as_numbers(value: Any, name: str, columns: int | None = None) -> np.ndarray:
    """A tensor (any device, gradient or not), array or list as float64: (n,), or (n, columns).

    Raises:
        TypeError: it holds something else than real numbers.
        ValueError: it has another shape.
    """
    expected = "(n,)" if columns is None else f"(n, {columns})" if columns else "(n, d)"
    if isinstance(value, torch.Tensor):
        # NumPy has no bfloat16.
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected an array of shape {expected}, got rows of unequal lengths"
        ) from error
    if found.size == 0 and (found.ndim == 1 or len(found) == 0 or columns == 0):
        shape = (0,) if columns is None else (0, columns) if columns else (len(found), 0)
        return np.zeros(shape)
    if found.dtype.kind not in "fiu":
        raise TypeError(
            f"{name}: expected real numbers, got {found.dtype} ({type(value).__name__})"
        )
    if found.ndim != (1 if columns is None else 2) or (columns and found.shape[1] != columns):
        raise ValueError(f"{name}: expected shape {expected}, got {found.shape}")
    return found.astype(np.float64)


def as_deaths(value: Any) -> np.ndarray:
    """Finite deaths of one cloud (n,) float64, in ascending order.

    Raises:
        TypeError, ValueError: as `as_numbers`; NaN, infinite, negative, not ascending.
    """
    deaths = as_numbers(value, "deaths")
    bad = deaths[~np.isfinite(deaths)]
    if len(bad):
        raise ValueError(
            f"deaths: {len(bad)} of {len(deaths)} are {bad[0]:g}; expected the finite deaths of "
            "one cloud as h0_persistence gives them (the infinite bar is implied)"
        )
    if len(deaths) and deaths.min() < 0:
        raise ValueError(f"deaths: the least is {deaths.min():g}; expected numbers from 0 on")
    if (np.diff(deaths) < 0).any():
        raise ValueError(
            "deaths: expected ascending order, as h0_persistence gives it; sort them (and edges "
            "alike)"
        )
    return deaths


def as_diagrams(value: Any) -> list[np.ndarray]:
    """Persistence diagrams by dimension, (n, 2) float64 each: birth, death.

    Takes a list by dimension (`ripser(points)["dgms"]`, persim, several of GUDHI's
    `persistence_intervals_in_dimension`), one diagram, or GUDHI's list of
    (dimension, (birth, death)).

    Raises:
        TypeError, ValueError: as `as_numbers`; NaN, an infinite birth, a death before its birth.
    """
    if isinstance(value, (np.ndarray, torch.Tensor)):
        parts = list(value) if value.ndim == 3 else [value]
    elif not isinstance(value, (list, tuple)):
        raise TypeError(
            "diagrams: expected a list of (n, 2) arrays by dimension, or one such array, got "
            f"{type(value).__name__}"
        )
    elif value and all(_is_bar_of_gudhi(item) for item in value):
        top = max(dimension for dimension, _ in value)
        parts = [[bar for found, bar in value if found == k] for k in range(top + 1)]
    elif value and all(np.ndim(item) == 1 and len(item) == 2 for item in value):
        parts = [value]
    else:
        parts = list(value)
    return [_as_diagram(part, f"diagrams[{k}]") for k, part in enumerate(parts)]


def _is_bar_of_gudhi(item: Any) -> bool:
    return (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], (int, np.integer))
        and isinstance(item[1], (tuple, list, np.ndarray))
    )


def _as_diagram(value: Any, name: str) -> np.ndarray:
    diagram = as_numbers(value, name, 2)
    births, deaths = diagram.T
    for what, wrong in (
        ("NaN", np.isnan(diagram).any(1)),
        ("an infinite birth", ~np.isfinite(births)),
        ("a death before its birth", deaths < births),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{name}: {int(wrong.sum())} of {len(diagram)} bars have {what}, the first is row "
                f"{row}: ({births[row]:g}, {deaths[row]:g}); expected birth <= death, only deaths "
                "may be infinite. Leave these rows out or repair them"
            )
    return diagram


def as_labels(labels: Sequence[Any] | None, count: int, name: str) -> list[str] | None:
    """Labels as they are shown: characters that do not print as escapes, long ones cut.

    Raises:
        TypeError: one string instead of a list.
        ValueError: their number is not `count`.
    """
    if labels is None:
        return None
    if isinstance(labels, str):
        raise TypeError(f"{name}: expected a list of {count} labels, got one string")
    labels = list(labels)
    if len(labels) != count:
        raise ValueError(f"{name}: expected {count} labels, one for each point, got {len(labels)}")
    return [shorten(escape_invisible(str(label)), LONGEST_LABEL) for label in labels]


def limits(diagrams: Sequence[np.ndarray], least: float | None = None) -> tuple[float, float]:
    """From 0, or the least birth below it, to the last finite birth or death, or to `least` if that
    is more (to 1 if all are 0)."""
    ends = [0.0] if least is None else [0.0, least]
    finite = np.concatenate([ends, *(d[np.isfinite(d)] for d in diagrams)])
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1.0


def homology(dimension: int) -> str:
    return f"H{dimension}".translate(_SUBSCRIPT)


def note(axes: Axes, text: str) -> None:
    """Say in the middle of empty axes why they are empty."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def label_beside(
    axes: Axes, labels: Sequence[tuple[float, str, str]], gap: float, offset: float, **style: Any
) -> None:
    """Write (height, text, colour), the lowest first, to the right of the axes, where no curve is.

    Args:
        gap: heights nearer than this, in data units, are moved apart upwards.
        offset: in points, from the axes.
        style: of the text.
    """
    height = -math.inf
    for value, text, colour in labels:
        height = max(value, height + gap)
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(offset, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
            **style,
        )


def legend(
    owner: Axes | FigureBase, handles: Sequence[Any], names: Sequence[str], **how: Any
) -> Legend:
    """A legend that takes every name literally: `$` and a leading `_` mean nothing."""
    look: dict[str, Any] = {"frameon": False, "fontsize": "small", "handlelength": 2.2, **how}
    made = owner.legend(handles=handles, labels=[str(k) for k in range(len(names))], **look)
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    return made


def require_at_least(least: int, value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected an integer from {least} on, got {value!r}")
