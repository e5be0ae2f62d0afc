"""What can be read back from the artists of a figure."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

INF = float("inf")


def cloud(n: int = 12, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def segments(axes: Axes) -> list[np.ndarray]:
    found = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [np.asarray(segment) for lines in found for segment in lines.get_segments()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def drawn(axes: Axes) -> Figure:
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure
