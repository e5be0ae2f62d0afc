"""The minimum spanning tree drawn twice: as the tree of merges, and on a map of the points.

Each function draws on the matplotlib `Axes` it is given as `ax`, or on those of a new figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.plots import style
from tsloss_fast.analysis.plots.arrays import DEATHS, POINTS, as_array, as_edges, as_labels
from tsloss_fast.barcode import single_linkage
from tsloss_fast.functional import H0Persistence

__all__ = ["plot_dendrogram", "plot_map"]

# A larger cloud is drawn with its last merges only.
MOST_LEAVES = 200
# Leaves that stand closer (points) would need labels too small to be read in print.
LEAST_ROOM = 6.0
# Where a label may lie, seen from its point: (right, up), with the alignment of its text.
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1))
ACROSS = {1: "left", 0: "center", -1: "right"}
UPWARDS = {1: "bottom", 0: "center", -1: "top"}


def plot_dendrogram(
    deaths: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    *,
    limit: float | None = None,
) -> Axes:
    """Draw the merge tree of 0-dimensional persistence, the dendrogram of single linkage: each bar
    is one horizontal line at the height of its death, which joins the components that merge.

    A cloud of more than 200 points is drawn with its last 199 merges: a component made before them
    is one leaf, labelled (number of points).

    Args:
        deaths: (N-1,) real numbers, ascending, in the units of the distance.
        edges: (N-1, 2) integers, their critical edges, as `h0_persistence` gives them.
        labels: N labels of the points; default: their indices, as far as there is room for them.
        limit: the last scale to draw, at least; for several dendrograms with one axis.

    Raises:
        TypeError: not numbers, no Axes.
        ValueError: NaN, infinite or descending deaths, edges that are no spanning tree, another
            shape, another number of labels.

    O(N log N).
    """
    heights = as_array(deaths, "deaths", None, DEATHS)
    count = len(heights) + 1
    pairs = as_edges(edges, count)
    if len(pairs) != len(heights):
        raise ValueError(f"edges: expected one for each of {len(heights)} deaths, got {len(pairs)}")
    names = as_labels(range(count) if labels is None else labels, count)
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
    cut = {"truncate_mode": "lastp", "p": MOST_LEAVES} if count > MOST_LEAVES else {}
    tree = dendrogram(linkage.numpy(), no_plot=True, labels=names, **cut)
    # scipy puts the leaves at 5, 15, 25, …
    strokes = np.stack([(np.asarray(tree["icoord"]) - 5) / 10, np.asarray(tree["dcoord"])], -1)
    axes.add_collection(
        LineCollection(list(strokes), colors=style.COLOURS[0], linewidths=1, clip_on=False)
    )
    leaves: list[str] = tree["ivl"]
    axes.set_xlim(-0.6, len(leaves) - 0.4)
    room = axes.get_window_extent().width * 72 / axes.figure.dpi / len(leaves)
    if room < LEAST_ROOM:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(leaves)} leaves")
        return axes
    axes.set_xticks(range(len(leaves)), leaves, parse_math=False, size=min(7.0, 0.85 * room))
    # A character is about 5 points wide. A turned label needs only its height.
    axes.tick_params(axis="x", labelrotation=90 * (5 * max(map(len, leaves)) > room))
    return axes


def plot_map(
    points: Any,
    edges: Any,
    ax: Axes | None = None,
    labels: Sequence[Any] | None = None,
    *,
    frame: Any = None,
) -> Axes:
    """Draw the points in their first two principal components (PC), joined by their spanning tree.

    The components are those of the points, or of the frame. The tree is that of the whole space:
    what is near on the map need not be joined, as two components are only a part of the variance,
    which the axes state. A label lies where it overlaps nothing, at any size of the figure. One
    without room is left out, and the map says how many there are.

    Args:
        points: (N, D) real numbers, one unit for both axes.
        edges: (M, 2) integers, pairs of points to join, as `h0_persistence` gives them.
        labels: N labels of the points.
        frame: (F, D) the points of all the maps that are compared: they set plane and limits.

    Raises:
        TypeError: not numbers, no Axes.
        ValueError: another shape or number, NaN or infinite coordinates, edges to no point.

    O((N + F)·D·min(N + F, D)).
    """
    cloud = as_array(points, "points", 0, POINTS)
    pairs = as_edges(edges, len(cloud))
    names = as_labels(labels, len(cloud))
    whole = cloud if frame is None else as_array(frame, "frame", cloud.shape[1], POINTS)
    axes = style.axes_or_new(ax, (style.COLUMN, 3.1))
    if not len(cloud):
        axes.set(xticks=[], yticks=[])
        style.note(axes, "no points")
        return axes
    centre, plane, shares = principal_plane(whole)
    places = (cloud - centre) @ plane
    axes.add_collection(
        LineCollection(list(places[pairs]), colors=style.INK, linewidths=0.8, alpha=0.7, zorder=2)
    )
    axes.plot(
        *places.T, "o", color=style.COLOURS[0], markersize=5 if len(cloud) <= 50 else 3,
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    # Room for labels. Limits that are set would hold against the common unit of both axes.
    axes.margins(0.14)
    axes.update_datalim((whole - centre) @ plane)
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=4)
    axes.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} % of variance)")
    axes.set_ylabel(f"PC 2 ({100 * shares[1]:.0f} % of variance)")
    labelled = [
        axes.annotate(
            name, (place[0], place[1]), xytext=(0, 0), textcoords="offset points",
            parse_math=False, fontsize="small", color=style.INK, zorder=5, in_layout=False,
        )
        for name, place in zip(names, places, strict=True) if name
    ]  # fmt: skip
    axes.add_artist(_LabelPlacer(axes, labelled, places, places[pairs]))
    return axes


class _LabelPlacer(Text):
    """The note of how many labels have no room. It is drawn before the labels, when the layout has
    given the axes their final size, and places them then."""

    def __init__(
        self, axes: Axes, labels: Sequence[Annotation], points: np.ndarray, edges: np.ndarray
    ) -> None:
        """Take labels that avoid points (N, 2), and where they can lines (M, 2, 2) too."""
        super().__init__(
            1, 1, transform=axes.transAxes, ha="right", va="top", fontsize="x-small",
            color=style.GREY, zorder=-1, in_layout=False,
        )  # fmt: skip
        along = np.linspace(0, 1, 25)[:, None]
        self.labels, self.points = labels, points
        self.samples = (edges[:, :1] * (1 - along) + edges[:, 1:] * along).reshape(-1, 2)

    def draw(self, renderer: Any) -> None:
        axes = self.axes
        assert axes is not None
        frame, unit = axes.get_window_extent(renderer), renderer.points_to_pixels(1.0)
        points, lines = map(axes.transData.transform, (self.points, self.samples))
        # Half of the mark of a point is 3 points of type wide.
        taken = [Bbox([place - 3 * unit, place + 3 * unit]) for place in points]
        for label in self.labels:
            boxes = {side: _lay(label, side, renderer) for side in SIDES}
            free = [
                side for side, box in boxes.items()
                if frame.count_contains(box.corners()) == 4 and not box.count_overlaps(taken)
            ]  # fmt: skip
            label.set_visible(bool(free))
            if free:
                best = min(free, key=lambda side: bool(boxes[side].count_contains(lines)))
                taken.append(_lay(label, best, renderer))
        missing = sum(not label.get_visible() for label in self.labels)
        text = f"no room for {missing} of {len(self.labels)} labels" if missing else ""
        self.set_text(text)
        super().draw(renderer)


def _lay(label: Annotation, side: tuple[int, int], renderer: Any) -> Bbox:
    """Lay a label on this side of its point, and return its box."""
    right, up = side
    # A label that is hidden has no size.
    label.set(visible=True, position=(4 * right, 4 * up), ha=ACROSS[right], va=UPWARDS[up])
    return label.get_window_extent(renderer)
