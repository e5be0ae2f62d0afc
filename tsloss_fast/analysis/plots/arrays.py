"""Arrays that are drawn: NumPy's, torch's or lists become float64, or are refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tsloss_fast._terminal import escape_invisible, shorten

LONGEST_LABEL = 24


def as_numbers(value: Any, name: str, columns: int | None = None) -> np.ndarray:
    """Return a tensor (any device, gradient or not), array or list as float64.

    Args:
        value: what the user gave.
        name: of the argument, for the messages.
        columns: None for shape (n,), 0 for any (n, d), else (n, columns).

    Raises:
        TypeError: it holds something else than real numbers.
        ValueError: it has another shape.
    """
    shape = "(n,)" if columns is None else f"(n, {columns or 'd'})"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        value = value.double() if value.is_floating_point() else value
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name}: expected an array of shape {shape}, got rows of unequal lengths"
        ) from error
    if found.ndim and not len(found):
        return np.zeros(0 if columns is None else (0, columns))
    if found.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got {found.dtype}")
    if found.ndim != (1 if columns is None else 2) or (columns and found.shape[1] != columns):
        raise ValueError(f"{name}: expected shape {shape}, got {found.shape}")
    return found.astype(np.float64)


def as_deaths(value: Any) -> np.ndarray:
    """Return the finite deaths of one cloud, (n,) in ascending order.

    Raises:
        TypeError, ValueError: as `as_numbers`; a NaN, infinite or negative death, another order.
    """
    deaths = as_numbers(value, "deaths")
    finite = np.isfinite(deaths)
    advice = "expected finite deaths as h0_persistence gives them (the infinite bar is implied)"
    _refuse("deaths", ~finite, "are not finite", deaths, advice)
    _refuse("deaths", deaths < 0, "are negative", deaths, "expected numbers from 0 on")
    descends = np.diff(deaths, prepend=0) < 0
    advice = "expected ascending order, as h0_persistence gives it; sort them (and edges alike)"
    _refuse("deaths", descends, "are less than the one before", deaths, advice)
    return deaths


def as_edges(value: Any, count: int) -> np.ndarray:
    """Return pairs (m, 2) int64 of points below `count`.

    Raises:
        TypeError, ValueError: as `as_numbers`; not integers, an index of no point.
    """
    pairs = as_numbers(value, "edges", 2)
    wrong = ((pairs < 0) | (pairs >= count) | (pairs != np.floor(pairs))).any(1)
    advice = f"expected pairs of integers from 0 to {count - 1}"
    if (pairs == -1).any():
        advice += "; of a padded batch take one cloud's own n - 1 edges"
    _refuse("edges", wrong, f"join no two of the {count} points", pairs, advice)
    return pairs.astype(np.int64)


def as_points(value: Any, name: str) -> np.ndarray:
    """Return finite points (n, d).

    Raises:
        TypeError, ValueError: as `as_numbers`; NaN or infinite coordinates.
    """
    points = as_numbers(value, name, 0)
    wrong = ~np.isfinite(points).all(1)
    _refuse(name, wrong, "have NaN or infinite coordinates", points, "leave them out")
    return points


def as_diagrams(value: Any) -> list[np.ndarray]:
    """Return persistence diagrams by dimension, (n, 2) each: birth, death.

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
    elif value and all(isinstance(i, tuple) and [*map(np.ndim, i)] == [0, 1] for i in value):
        top = max(dimension for dimension, _ in value)
        parts = [[bar for found, bar in value if found == k] for k in range(top + 1)]
    elif value and all(np.ndim(item) == 1 and len(item) == 2 for item in value):
        parts = [value]
    else:
        parts = list(value)
    return [_as_diagram(part, f"diagrams[{k}]") for k, part in enumerate(parts)]


def _as_diagram(value: Any, name: str) -> np.ndarray:
    bars = as_numbers(value, name, 2)
    births, deaths = bars.T
    advice = (
        "expected birth <= death, of which only deaths may be infinite; leave these bars out or "
        "repair them"
    )
    _refuse(name, np.isnan(bars).any(1), "have NaN", bars, advice)
    _refuse(name, ~np.isfinite(births), "have an infinite birth", bars, advice)
    _refuse(name, deaths < births, "have a death before their birth", bars, advice)
    return bars


def _refuse(name: str, wrong: np.ndarray, what: str, rows: np.ndarray, advice: str) -> None:
    if wrong.any():
        first = int(wrong.argmax())
        shown = shorten(str(rows[first].tolist()), 40)
        raise ValueError(
            f"{name}: {wrong.sum()} of {len(wrong)} {what}, the first is number {first}: {shown}; "
            f"{advice}"
        )


def as_labels(labels: Sequence[Any] | None, count: int, name: str) -> list[str]:
    """Return the labels as text to draw, in which characters that do not print are escaped and
    long labels are cut. Without labels they are empty.

    Raises:
        TypeError: one string instead of a list.
        ValueError: their number is not `count`.
    """
    if labels is None:
        return [""] * count
    if isinstance(labels, str):
        raise TypeError(f"{name}: expected a list of {count} labels, got one string")
    labels = list(labels)
    if len(labels) != count:
        raise ValueError(f"{name}: expected {count} labels, one for each point, got {len(labels)}")
    return [shorten(escape_invisible(str(label)), LONGEST_LABEL) for label in labels]


def require_at_least(least: int, value: Any, name: str) -> None:
    """Raise ValueError unless the value is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected an integer from {least} on, got {value!r}")
