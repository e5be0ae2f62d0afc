"""Labels of points that overlap neither each other nor a point, placed anew whenever drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text

from tsloss_fast.analysis.plots.axes import GREY, INK

__all__ = ["spread_labels"]

# Where a label may lie, seen from its point: to the right first, then around, then farther away.
ANGLES = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 293, 113, 247])
DISTANCES = (4.0, 7.0, 12.0, 18.0, 26.0)  # points
# Farther than this a thin line leads from the label to its point.
LEADER = 8.0
# What a line of the tree through a label costs, in steps of distance.
CROSSING = 1.5
MARKER = 3.0
SAMPLES = np.linspace(0, 1, 25)[:, None]


def spread_labels(
    axes: Axes, places: np.ndarray, names: Sequence[str], important: int, strokes: np.ndarray
) -> None:
    """Label the points at `places` (N, 2), in the axes' data.

    Args:
        axes: where they are drawn.
        places: (N, 2), at least one for each name.
        names: what to write; the empty string writes nothing.
        important: how many of the first names come first, in ink; the others are grey and small.
        strokes: (M, 2, 2) lines that labels avoid where they can.
    """
    labels: list[tuple[int, Annotation]] = []
    for index, name in enumerate(names):
        if not name:
            continue
        first = index < important
        label = axes.annotate(
            name,
            tuple(places[index]),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize="x-small" if first else "xx-small",
            color=INK if first else GREY,
            zorder=5 if first else 4,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0,
                        "shrinkB": 2},
        )  # fmt: skip
        label.set_parse_math(False)
        # The layout makes room for axes, not for what lies within them.
        label.set_in_layout(False)
        labels.append((index, label))
    if labels:
        left_out = axes.text(
            1, 1, "", transform=axes.transAxes, ha="right", va="bottom", fontsize="xx-small",
            color=GREY,
        )  # fmt: skip
        left_out.set_in_layout(False)
        axes.add_artist(_Spread(places, labels, strokes, left_out))


class _Spread(Artist):
    """Draws nothing: moves the labels, as it is drawn before them and knows the final size."""

    def __init__(
        self,
        places: np.ndarray,
        labels: Sequence[tuple[int, Annotation]],
        strokes: np.ndarray,
        left_out: Text,
    ) -> None:
        super().__init__()
        self.set_zorder(-1)
        self.set_in_layout(False)
        self.places, self.labels, self.strokes = places, labels, strokes
        self.left_out = left_out

    def draw(self, renderer: Any) -> None:
        axes = self.axes
        assert axes is not None
        # Pixels of a point, the unit of type.
        unit = renderer.points_to_pixels(1.0)
        points = axes.transData.transform(self.places)
        lines = axes.transData.transform(self.strokes.reshape(-1, 2)).reshape(-1, 2, 2)
        samples = (lines[:, None, 0] * (1 - SAMPLES) + lines[:, None, 1] * SAMPLES).reshape(-1, 2)
        frame = axes.get_window_extent(renderer)
        taken = np.zeros((0, 4))
        missing = 0
        for index, label in self.labels:
            label.set_visible(True)
            box = Text.get_window_extent(label, renderer)
            half = np.array([box.width, box.height]) / 2
            best = self._best(points, index, half, unit, taken, samples, frame)
            if best is None:
                label.set_visible(False)
                missing += 1
                continue
            offset, distance = best
            label.set_position(tuple(offset / unit))
            assert label.arrow_patch is not None
            label.arrow_patch.set_visible(distance > LEADER)
            centre = points[index] + offset
            taken = np.vstack([taken, [*(centre - half), *(centre + half)]])
        text = f"no room for {missing} of {len(self.labels)} labels" if missing else ""
        self.left_out.set_text(text)

    def _best(
        self,
        points: np.ndarray,
        index: int,
        half: np.ndarray,
        unit: float,
        taken: np.ndarray,
        samples: np.ndarray,
        frame: Any,
    ) -> tuple[np.ndarray, float] | None:
        """The cheapest offset (pixels) that is free, and its distance (points)."""
        around = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)
        distances = np.repeat(DISTANCES, len(ANGLES))
        around = np.tile(around, (len(DISTANCES), 1))
        offsets = around * (distances[:, None] * unit + half)
        low, high = points[index] + offsets - half, points[index] + offsets + half
        free = (low >= [frame.x0, frame.y0]).all(1) & (high <= [frame.x1, frame.y1]).all(1)
        margin = MARKER * unit
        free &= ~_inside(points, low - margin, high + margin).any(1)
        below = (taken[None, :, :2] < high[:, None]).all(-1)
        above = (taken[None, :, 2:] > low[:, None]).all(-1)
        free &= ~(below & above).any(1)
        if not free.any():
            return None
        crossed = _inside(samples, low, high).any(1)
        cost = np.repeat(np.arange(len(DISTANCES)), len(ANGLES)) + CROSSING * crossed
        cost = np.where(free, cost, np.inf)
        chosen = int(cost.argmin())
        return offsets[chosen], float(distances[chosen])


def _inside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which of points (P, 2) lie in which of the boxes (B, 2) to (B, 2): (B, P)."""
    return np.asarray(((points >= low[:, None]) & (points <= high[:, None])).all(-1))
