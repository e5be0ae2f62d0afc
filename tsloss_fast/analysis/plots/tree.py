"""The minimum spanning tree drawn twice: as the tree of merges, and on a map of the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator

from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.plots import arrays, style
from tsloss_fast.barcode import single_linkage
from tsloss_fast.functional import H0Persistence

__all__ = ["plot_dendrogram", "plot_map"]

# Type smaller than this (points) cannot be read in print.
LEAST_TYPE = 5.0
# Where a label may lie, seen from its point: the nearest ring first, and there to the right first.
ANGLES = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225])
RINGS = np.repeat([4.0, 9.0, 18.0], len(ANGLES))[:, None]  # points of type
AROUND = np.tile(np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1), (3, 1))
MARKER = 3.0  # points of type, half the width of a point's mark


def plot_dendrogram(
    deaths: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    *,
    max_leaves: int = 200,
    limit: float | None = None,
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
        limit: the last scale to draw, at least; for several dendrograms with one axis.

    Raises:
        TypeError: not numbers, no Axes, one string for labels.
        ValueError: NaN, infinite or descending deaths, edges that are no spanning tree, another
            shape, another number of labels, max_leaves < 2.

    O(N log N).
    """
    heights = arrays.as_deaths(deaths)
    count = len(heights) + 1
    pairs = arrays.as_edges(edges, count)
    if len(pairs) != len(heights):
        raise ValueError(
            f"edges: expected one edge for each of the {len(heights)} deaths, got {len(pairs)}"
        )
    if labels is None:
        labels = range(count)
    names = arrays.as_labels(labels, len(labels) if count == 1 else count, "labels")
    arrays.require_at_least(2, max_leaves, "max_leaves")
    axes = style.axes_or_new(ax, (style.COLUMN, 2.6))
    axes.set_ylabel("scale")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.05 * max([limit or 0.0, *heights[-1:]]) or 1)
    if count == 1:
        axes.set_xticks([])
        style.note(axes, "fewer than two points: no merges")
        return axes

    from scipy.cluster.hierarchy import dendrogram

    linkage = single_linkage(H0Persistence(torch.from_numpy(heights), torch.from_numpy(pairs)))
    # scipy recurses once a level, and single linkage chains: the cut also bounds the depth.
    cut = {"truncate_mode": "lastp", "p": max_leaves} if count > max_leaves else {}
    tree = dendrogram(linkage.numpy(), no_plot=True, labels=names, **cut)
    # scipy puts the leaves at 5, 15, 25, …
    strokes = np.stack([(np.asarray(tree["icoord"]) - 5) / 10, np.asarray(tree["dcoord"])], -1)
    axes.add_collection(
        LineCollection(list(strokes), colors=style.COLOURS[0], linewidths=1, clip_on=False)
    )
    leaves: list[str] = tree["ivl"]
    axes.set_xlim(-0.6, len(leaves) - 0.4)
    room = axes.get_window_extent().width * 72 / axes.figure.dpi / len(leaves)
    size = min(8.0, 0.85 * room)
    if size < LEAST_TYPE:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(leaves)} leaves")
        return axes
    # A character is about 0.65 of its size wide.
    turned = max(map(len, leaves)) * 0.65 * size > room
    axes.set_xticks(range(len(leaves)))
    axes.set_xticklabels(leaves, rotation=90 * turned, fontsize=size, parse_math=False)
    return axes


def plot_map(
    points: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    context: Any = None,
    context_labels: Sequence[Any] | None = None,
    *,
    frame: Any = None,
) -> Axes:
    """Draw the points in their first two principal components, joined by their spanning tree.

    The components are those of points and context together, or of the frame. The tree is that of
    the whole space: what is near on the map need not be joined, as two components are only a part
    of the variance, which the axes state. Labels move to where they overlap nothing, at any size
    of the figure. A label without room is left out, and the map says how many there are.

    Args:
        points: (N, D) real numbers, one unit for both axes.
        edges: (M, 2) integers, pairs of points to join, as `h0_persistence` gives them.
        ax: where to draw; None makes a new figure.
        labels: N labels of the points.
        context: (C, D) more points to show in grey, tokens of the vocabulary for example.
        context_labels: C labels of these.
        frame: (F, D) the points of all the maps that are compared: they set plane and limits.

    Raises:
        TypeError: not numbers, no Axes, one string for labels.
        ValueError: another shape or number, NaN or infinite coordinates, edges to no point.

    O((N + C + F)·D·min(N + C + F, D)).
    """
    cloud = arrays.as_points(points, "points")
    pairs = arrays.as_edges(edges, len(cloud))
    others = {"context": context, "frame": frame}
    for name, value in others.items():
        more = arrays.as_points([] if value is None else value, name)
        others[name] = more if len(more) else cloud[:0]
        if others[name].shape[1] != cloud.shape[1]:
            raise ValueError(
                f"{name}: expected as many columns as points have, {cloud.shape[1]}, got "
                f"{more.shape[1]}"
            )
    around, whole = others.values()
    names = arrays.as_labels(labels, len(cloud), "labels")
    around_names = arrays.as_labels(context_labels, len(around), "context_labels")
    axes = style.axes_or_new(ax, (style.COLUMN, 3.1))
    if not len(cloud):
        axes.set(xticks=[], yticks=[])
        style.note(axes, "no points")
        return axes
    drawn = np.concatenate([cloud, around])
    whole = whole if len(whole) else drawn
    centre, plane, shares = principal_plane(whole)
    places = (drawn - centre) @ plane
    here, there = places[: len(cloud)], places[len(cloud) :]
    look: dict[str, Any] = {"markersize": 2.5, "markeredgewidth": 0, "alpha": 0.5}
    axes.plot(*there.T, "o", color=style.GREY, zorder=1, **look)
    axes.add_collection(
        LineCollection(list(here[pairs]), colors=style.INK, linewidths=0.8, alpha=0.7, zorder=2)
    )
    axes.plot(
        *here.T, "o", color=style.COLOURS[0], markersize=5 if len(cloud) <= 50 else 3,
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    # Room for labels. Limits that are set would hold against the common unit of both axes.
    axes.margins(0.14)
    axes.update_datalim((whole - centre) @ plane)
    axes.set_aspect("equal", adjustable="datalim")
    # A narrow panel has room for its labels on two lines only.
    space, most = ("\n", 3) if axes.bbox.width < 2 * axes.figure.dpi else (" ", 4)
    for axis, number, share in zip((axes.xaxis, axes.yaxis), (1, 2), shares, strict=True):
        axis.set_major_locator(MaxNLocator(most))
        axis.set_label_text(f"component {number}{space}({100 * share:.0f} % of variance)")
    labelled = [
        axes.annotate(
            text, (place[0], place[1]), xytext=(0, 0), textcoords="offset points", ha="center",
            va="center", parse_math=False, fontsize="small" if first else "x-small",
            color=style.INK if first else style.GREY, zorder=4 + first, in_layout=False,
            arrowprops={"arrowstyle": "-", "color": style.GREY, "linewidth": 0.5, "shrinkB": 2},
        )
        for group, texts, first in ((here, names, True), (there, around_names, False))
        for place, text in zip(group, texts, strict=True) if text
    ]  # fmt: skip
    axes.add_artist(_LabelPlacer(axes, labelled, places, here[pairs]))
    return axes


class _LabelPlacer(Text):
    """The note of how many labels have no room. It is drawn before the labels, when the layout has
    given the axes their final size, and places them then."""

    def __init__(
        self, axes: Axes, labels: Sequence[Annotation], points: np.ndarray, edges: np.ndarray
    ) -> None:
        """Take labels that avoid points (N, 2), and where they can lines (M, 2, 2) too."""
        super().__init__(
            1, 1, transform=axes.transAxes, ha="right", va="bottom", fontsize="x-small",
            color=style.GREY, zorder=-1, in_layout=False,
        )  # fmt: skip
        along = np.linspace(0, 1, 25)[:, None]
        self.labels, self.points = labels, points
        self.samples = (edges[:, :1] * (1 - along) + edges[:, 1:] * along).reshape(-1, 2)

    def draw(self, renderer: Any) -> None:
        axes = self.axes
        assert axes is not None
        unit = renderer.points_to_pixels(1.0)
        points, lines = map(axes.transData.transform, (self.points, self.samples))
        frame = axes.get_window_extent(renderer)
        taken = np.zeros((0, 2, 2))
        for label in self.labels:
            # A label that is hidden has no size.
            label.set_visible(True)
            size = Text.get_window_extent(label, renderer)
            half = np.array([size.width, size.height]) / 2
            offsets = AROUND * (RINGS * unit + half)
            centres = axes.transData.transform(label.xy) + offsets
            low, high = centres - half, centres + half
            free = ((low >= frame.min) & (high <= frame.max)).all(1)
            free &= ~_meet(low - MARKER * unit, high + MARKER * unit, points, points)
            free &= ~_meet(low, high, taken[:, 0], taken[:, 1])
            label.set_visible(bool(free.any()))
            if free.any():
                clear = free & ~_meet(low, high, lines, lines)
                best = int(np.argmax(clear if clear.any() else free))
                label.set_position(tuple(offsets[best] / unit))
                # A label beside its point needs no line that leads to it.
                assert label.arrow_patch is not None
                label.arrow_patch.set_visible(best >= len(ANGLES))
                taken = np.concatenate([taken, [[low[best], high[best]]]])
        missing = len(self.labels) - len(taken)
        text = f"no room for {missing} of {len(self.labels)} labels" if missing else ""
        self.set_text(text)
        super().draw(renderer)


def _meet(low: np.ndarray, high: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """Return which of the boxes (B, 2) to (B, 2) meet any of the others."""
    each = (low[:, None] <= highs) & (high[:, None] >= lows)
    return np.asarray(np.any(each.all(-1), axis=1))
