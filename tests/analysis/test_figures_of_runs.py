"""Curves over the steps and maps of clouds: what is drawn is what the arrays say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from artists import INF, cloud, drawn, segments, texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tsloss_fast import h0_persistence
from tsloss_fast.analysis.plots.plots import (
    plot_map,
    plot_series,
)
from tsloss_fast.analysis.plots.tree import principal_components


def test_series_are_drawn_as_given_and_the_control_grey_and_dashed() -> None:
    steps = [0, 10, 20]
    axes = plot_series(
        {"run": (steps, [3.0, 2, 1]), "_control $": (steps, [3.0, 2.5, 2.5])},
        control="_control $", ylabel="loss",
    )  # fmt: skip
    run, control = axes.lines
    assert list(run.get_ydata()) == [3, 2, 1]
    assert list(control.get_ydata()) == [3, 2.5, 2.5]
    assert run.get_linestyle() == "-"
    assert control.get_linestyle() == "--"
    assert control.get_color() == "#6b6b6b"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["run", "_control $"]
    assert axes.get_ylim()[0] == axes.get_xlim()[0] == 0
    assert axes.get_ylabel() == "loss"


def test_nan_is_a_gap_and_infinity_an_arrowhead() -> None:
    values = np.full(100, np.nan)
    values[[3, 50, 51]] = 1, 2, 3
    values[60] = INF
    axes = plot_series({"a": (range(100), values)})
    line, alone, arrow = axes.lines
    assert np.flatnonzero(np.isfinite(line.get_ydata())).tolist() == [3, 50, 51]
    assert list(alone.get_xdata()) == [3]
    assert (arrow.get_marker(), list(arrow.get_xdata())) == ("^", [60])
    assert axes.get_ylim()[1] < 4


def test_values_below_zero_and_a_limit_are_in_sight() -> None:
    low = plot_series({"a": ([0, 1], [-2.0, 1.0])})
    assert low.get_ylim()[0] < -2
    assert plot_series({"a": ([0, 1], [0.25, 0.5])}, limit=1).get_ylim() == (0, 1.03)


def test_eighteen_runs_can_be_told_apart_and_more_are_refused() -> None:
    series = {f"run {k}": ([0, 1], [k, k]) for k in range(18)}
    axes = plot_series(series)
    looks = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(looks) == 18
    with pytest.raises(ValueError, match=r"19 runs cannot be told apart .* at most 18"):
        plot_series(series | {"one more": ([0], [1])})


def test_the_map_is_pca_with_the_edges_of_the_tree() -> None:
    points = cloud(15, 6)
    edges = h0_persistence(points).edges
    axes = plot_map(points, edges)
    (here,) = (line for line in axes.lines if len(line.get_xdata()))
    places = np.asarray(here.get_xydata())
    drawn_edges = np.array(segments(axes))
    np.testing.assert_array_equal(drawn_edges, places[edges])
    # Two components keep as many of the squared distances as any plane can.
    centred = points - points.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose((places**2).sum(0), singular[:2] ** 2, rtol=1e-10)
    share = round(100 * singular[0] ** 2 / (singular**2).sum())
    assert axes.get_xlabel() == f"component 1 ({share} % of variance)"
    figure = drawn(axes)
    unit = axes.transData.transform([[0, 0], [1, 1]])
    assert np.ptp(unit, 0)[0] == pytest.approx(np.ptp(unit, 0)[1])
    assert figure is axes.figure


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (6, 2)])
def test_principal_components_do_not_depend_on_order_or_place(shape: tuple[int, int]) -> None:
    points = cloud(*shape)
    places, shares = principal_components(points)
    again, _ = principal_components(points[::-1] + 7)
    np.testing.assert_allclose(again[::-1], places, atol=1e-12)
    assert 0 < shares[1] <= shares[0] <= shares.sum() <= 1 + 1e-12
    huge, _ = principal_components(points * 1e300)
    np.testing.assert_allclose(huge / 1e300, places, atol=1e-12)


def test_context_is_part_of_the_map_and_of_its_components() -> None:
    points, context = cloud(6, 4), cloud(50, 4, seed=1) * [9, 1, 1, 1]
    axes = plot_map(points, [], context=context, context_labels=[f"c{k}" for k in range(50)])
    around, here = (np.asarray(line.get_xydata()) for line in axes.lines)
    expected, _ = principal_components(np.concatenate([points, context]))
    np.testing.assert_array_equal(np.concatenate([here, around]), expected)


def extent(axes: Axes, label: Any) -> Bbox:
    """The box of a label without its line."""
    size = Text.get_window_extent(label)
    unit = axes.figure.dpi / 72
    x, y = axes.transData.transform(label.xy) + unit * np.array(label.get_position())
    return Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)


@pytest.mark.parametrize("size", [(3.5, 3.2), (2.0, 2.0)])
def test_labels_of_the_map_overlap_neither_each_other_nor_a_point(
    size: tuple[float, float],
) -> None:
    points = np.concatenate([cloud(12, 3) * 0.1, cloud(12, 3) + 3])
    figure = Figure(figsize=size)
    axes = plot_map(
        points, h0_persistence(points).edges, figure.subplots(), [f"token{k}" for k in range(24)]
    )
    figure.draw_without_rendering()
    labels = [t for t in axes.texts if t.get_visible() and t.get_text().startswith("token")]
    missing = 24 - len(labels)
    note = f"no room for {missing} of 24 labels"
    assert (note in texts(axes)) == (missing > 0)
    assert len(labels) >= 8
    boxes = [extent(axes, label) for label in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)
    places = axes.transData.transform(principal_components(points)[0])
    for box in boxes:
        assert not any(box.contains(*place) for place in places)
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)
