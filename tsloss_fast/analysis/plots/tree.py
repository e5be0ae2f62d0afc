"""The minimum spanning tree drawn twice: as the tree of merges, and on a map of the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.plots.axes import (
    COLOURS,
    GREY,
    INK,
    as_deaths,
    as_labels,
    as_numbers,
    axes_or_new,
    note,
    require_at_least,
)
from tsloss_fast.analysis.plots.labels import spread_labels
from tsloss_fast.barcode import single_linkage
from tsloss_fast.functional import H0Persistence

__all__ = ["plot_dendrogram", "plot_map", "principal_components"]

# Type smaller than this (points) cannot be read in print.
LEAST_TYPE = 4.0


def plot_dendrogram(
    deaths: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    *,
    max_leaves: int = 200,
) -> Axes:
    """Draw the merge tree of 0-dimensional persistence, the dendrogram of single linkage: each bar
    is one horizontal line at the height of its death, which joins the components that merge.

    Args:
        deaths: (N-1,) real numbers, ascending, in the units of the distance.
        edges: (N-1, 2) integers, their critical edges, as `h0_persistence` gives them.
        ax: where to draw; None makes a new figure.
        labels: N labels of the points; default: their indices, as far as there is room for them.
        max_leaves: of a larger cloud only the last max_leaves - 1 merges are drawn, and a component
            made before them is one leaf, labelled (number of points).

    Raises:
        TypeError: not numbers, no Axes, one string for labels.
        ValueError: NaN, infinite or descending deaths, edges that are no spanning tree, another
            shape, another number of labels, max_leaves < 2.

    O(N log N).
    """
    heights = as_deaths(deaths)
    count = len(heights) + 1
    pairs = as_edges(edges, count)
    if len(pairs) != len(heights):
        raise ValueError(
            f"edges: expected one edge for each of the {len(heights)} deaths, got {len(pairs)}"
        )
    shown = as_labels(labels, len(labels) if labels is not None and count == 1 else count, "labels")
    require_at_least(2, max_leaves, "max_leaves")
    axes = axes_or_new(ax, (3.5, 2.6))
    axes.set_ylabel("scale")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.05 * float(heights[-1]) if count > 1 and heights[-1] > 0 else 1)
    if count == 1:
        axes.set_xticks([])
        note(axes, "fewer than two points: no merges")
        return axes

    from scipy.cluster.hierarchy import dendrogram

    linkage = single_linkage(H0Persistence(torch.from_numpy(heights), torch.from_numpy(pairs)))
    # scipy recurses once a level, and single linkage chains: the cut also bounds the depth.
    cut = {"truncate_mode": "lastp", "p": max_leaves} if count > max_leaves else {}
    tree = dendrogram(linkage.numpy(), no_plot=True, labels=shown, **cut)
    leaves = len(tree["ivl"])
    # scipy puts the leaves at 5, 15, 25, …
    places = (np.asarray(tree["icoord"]) - 5) / 10
    strokes = np.stack([places, np.asarray(tree["dcoord"])], -1)
    axes.add_collection(
        LineCollection(list(strokes), colors=COLOURS[0], linewidths=1, clip_on=False)
    )
    axes.set_xlim(-0.6, leaves - 0.4)
    _name_leaves(axes, list(map(str, tree["ivl"])))
    return axes


def plot_map(
    points: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    context: Any = None,
    context_labels: Sequence[Any] | None = None,
) -> Axes:
    """Draw the points in their first two principal components, joined by their spanning tree.

    The components are those of points and context together. The tree is that of the whole space:
    what is near on the map need not be joined, as two components are only a part of the variance,
    which the axes state. Labels move to where they overlap nothing, whatever the size of the
    figure; those for which there is no room are left out, and the map says how many.

    Args:
        points: (N, D) real numbers, one unit for both axes.
        edges: (M, 2) integers, pairs of points to join, as `h0_persistence` gives them.
        ax: where to draw; None makes a new figure.
        labels: N labels of the points.
        context: (C, D) more points to show in grey, tokens of the vocabulary for example.
        context_labels: C labels of these.

    Raises:
        TypeError: not numbers, no Axes, one string for labels.
        ValueError: another shape or number, NaN or infinite coordinates, edges to no point.

    O((N + C)·D·min(N + C, D)).
    """
    cloud = _finite(points, "points")
    pairs = as_edges(edges, len(cloud))
    around = np.zeros((0, cloud.shape[1])) if context is None else _finite(context, "context")
    if len(around) and around.shape[1] != cloud.shape[1]:
        raise ValueError(
            f"context: expected as many columns as points have, {cloud.shape[1]}, got "
            f"{around.shape[1]}"
        )
    names = as_labels(labels, len(cloud), "labels")
    around_names = as_labels(context_labels, len(around), "context_labels")
    axes = axes_or_new(ax, (3.5, 3.2))
    if not len(cloud):
        axes.set_xticks([])
        axes.set_yticks([])
        note(axes, "no points")
        return axes
    everything = np.concatenate([cloud, around]) if len(around) else cloud
    places, shares = principal_components(everything)
    here, there = places[: len(cloud)], places[len(cloud) :]
    axes.plot(*there.T, "o", color=GREY, markersize=2.5, alpha=0.5, markeredgewidth=0, zorder=1)
    axes.add_collection(
        LineCollection(list(here[pairs]), colors=INK, linewidths=0.8, alpha=0.7, zorder=2)
    )
    axes.plot(
        *here.T, "o", color=COLOURS[0], markersize=5 if len(cloud) <= 50 else 3,
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    # Room for labels. Limits that are set would hold against the common unit of both axes.
    axes.margins(0.14)
    axes.set_aspect("equal", adjustable="datalim")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for number, axis in enumerate((axes.xaxis, axes.yaxis)):
        axis.set_label_text(f"component {number + 1} ({100 * shares[number]:.0f} % of variance)")
    spread_labels(
        axes,
        places,
        [*(names or [""] * len(cloud)), *(around_names or [])],
        len(cloud),
        here[pairs],
    )
    return axes


def principal_components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components (N, 2) of points (N, D), and their shares of the variance.

    What a cloud does not have (D < 2, points that coincide) is 0; see `principal_plane`.
    """
    # Differences of the largest numbers would overflow.
    size = float(np.abs(points).max(initial=0)) or 1.0
    centre, axes, shares = principal_plane(points / size)
    return size * ((points / size - centre) @ axes), shares


def as_edges(value: Any, count: int) -> np.ndarray:
    """Pairs (m, 2) int64 of points below `count`.

    Raises:
        TypeError: they are not numbers.
        ValueError: another shape, not integers, an index of no point.
    """
    pairs = as_numbers(value, "edges", 2)
    if not (pairs == np.floor(pairs)).all():
        raise ValueError("edges: expected integers, the indices of two points each")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= count):
        wrong = pairs[((pairs < 0) | (pairs >= count)).any(1)][0]
        raise ValueError(
            f"edges: ({wrong[0]:g}, {wrong[1]:g}) is no pair of the {count} points 0 to {count - 1}"
            + ("; of a padded batch take one cloud's own n - 1 edges" if pairs.min() == -1 else "")
        )
    return pairs.astype(np.int64)


def _finite(value: Any, name: str) -> np.ndarray:
    points = as_numbers(value, name, 0)
    wrong = ~np.isfinite(points).all(1)
    if wrong.any():
        raise ValueError(
            f"{name}: {int(wrong.sum())} of {len(points)} have NaN or infinite coordinates, the "
            f"first is point {int(np.flatnonzero(wrong)[0])}; leave them out"
        )
    return points


def _name_leaves(axes: Axes, names: Sequence[str]) -> None:
    """Labels under the leaves: upright if they fit, else turned, else none."""
    room = axes.get_window_extent().width * 72 / axes.figure.dpi / len(names)
    size = min(8.0, 0.85 * room)
    if size < LEAST_TYPE:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} leaves")
        return
    # A character is about 0.62 of its size wide.
    upright = max(map(len, names)) * 0.65 * size <= room
    axes.set_xticks(range(len(names)))
    axes.set_xticklabels(names, rotation=0 if upright else 90, fontsize=size, parse_math=False)
