"""Arrays that are drawn: NumPy's, torch's or lists become float64, or are refused in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tsloss_fast._terminal import escape_invisible, shorten

LONGEST_LABEL = 24
# A function that finds the wrong rows of an array, and the words for the first one.
Rule = tuple[Callable[[np.ndarray], Any], str]

POINTS: Rule = (lambda x: ~np.isfinite(x).all(1), "has NaN or infinite coordinates; leave it out")
DEATHS: Rule = (
    lambda x: ~np.isfinite(x) | (np.diff(x, prepend=0) < 0),
    "is not finite, or less than 0 or the one before; expected what h0_persistence gives: deaths "
    "in ascending order, without the infinite bar",
)
BARS: Rule = (
    lambda x: ~(np.isfinite(x[:, 0]) & (x[:, 0] <= x[:, 1])),
    "has NaN, an infinite birth or a death before its birth; leave such bars out",
)
STEPS: Rule = (
    lambda x: ~((np.diff(x, prepend=-np.inf) > 0) & np.isfinite(x)),
    "is not a finite number above the one before; sort the steps, and values alike",
)


def as_array(
    value: Any, name: str, columns: int | None = None, rule: Rule | None = None
) -> np.ndarray:
    """Return a tensor (any device, gradient or not), array or list as float64.

    Args:
        value: what the user gave.
        name: of the argument, for the messages.
        columns: None for shape (n,), 0 for any (n, d), else (n, columns).
        rule: what its rows must not be.

    Raises:
        TypeError: it holds something else than real numbers.
        ValueError: it has another shape, or breaks the rule.
    """
    shape = "(n,)" if columns is None else f"(n, {columns or 'd'})"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        value = value.double() if value.is_floating_point() else value
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected shape {shape}, got rows of unequal lengths") from error
    if found.ndim and not len(found):
        return np.zeros(0 if columns is None else (0, columns))
    if found.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got {found.dtype}")
    if found.ndim != (1 if columns is None else 2) or (columns and found.shape[1] != columns):
        raise ValueError(f"{name}: expected shape {shape}, got {found.shape}")
    found = found.astype(np.float64)
    if rule and (wrong := rule[0](found)).any():
        first = int(wrong.argmax())
        shown = shorten(str(found[first].tolist()), 40)
        raise ValueError(f"{name}: number {first} of {len(found)}, {shown}, {rule[1]}")
    return found


def as_edges(value: Any, count: int) -> np.ndarray:
    """Return pairs (m, 2) int64 of points below `count`, or refuse them as `as_array` does."""
    rule: Rule = (
        lambda x: ((x < 0) | (x >= count) | (x != np.floor(x))).any(1),
        f"is no pair of integers from 0 to {count - 1}; of a padded batch take a cloud's own edges",
    )
    return as_array(value, "edges", 2, rule).astype(np.int64)


def as_diagrams(value: Any) -> list[np.ndarray]:
    """Return persistence diagrams by dimension, (n, 2) each: birth, death.

    Takes a list by dimension (`ripser(points)["dgms"]`, persim, several of GUDHI's
    `persistence_intervals_in_dimension`), one diagram, or GUDHI's list of
    (dimension, (birth, death)).

    Raises:
        TypeError, ValueError: as `as_array`; no list; bars that break the rule `BARS`.
    """
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = [value]
    elif not isinstance(value, (list, tuple)):
        what = type(value).__name__
        raise TypeError(f"diagrams: expected a list of (n, 2) arrays by dimension, got {what}")
    elif value and all(isinstance(bar, tuple) and isinstance(bar[-1], tuple) for bar in value):
        top = max(dimension for dimension, _ in value)
        value = [[bar for found, bar in value if found == k] for k in range(top + 1)]
    return [as_array(part, f"diagrams[{k}]", 2, BARS) for k, part in enumerate(value)]


def as_labels(labels: Sequence[Any] | None, count: int) -> list[str]:
    """Return the labels as text to draw, in which characters that do not print are escaped and
    long labels are cut. Without labels they are empty.

    Raises:
        ValueError: not a list of `count` labels.
    """
    labels = [""] * count if labels is None else labels
    if isinstance(labels, str) or len(labels) != count:
        what = "one string" if isinstance(labels, str) else len(labels)
        raise ValueError(f"labels: expected {count} labels, one for each point, got {what}")
    return [shorten(escape_invisible(str(label)), LONGEST_LABEL) for label in labels]
