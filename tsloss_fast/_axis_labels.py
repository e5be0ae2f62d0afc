"""Labels beside a pair of axes, at the heights of what they name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

__all__ = ["label_beside"]


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
