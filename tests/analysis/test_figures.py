"""What the figures show is what the arrays say: read back from the artists that are drawn."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tsloss_fast import barcode, h0_persistence
from tsloss_fast.analysis import (
    plot_barcode,
    plot_components,
    plot_dendrogram,
    plot_diagram,
    plot_map,
    plot_series,
)
from tsloss_fast.analysis.plane import principal_plane

INF, NAN = float("inf"), float("nan")
NO_EDGES = np.zeros((0, 2), dtype=np.int64)


def cloud(n: int = 12, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def segments(axes: Axes) -> list[np.ndarray]:
    found = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [np.asarray(segment) for lines in found for segment in lines.get_segments()]


def texts(axes: Axes) -> list[str]:
    axes.figure.draw_without_rendering()
    return [text.get_text() for text in axes.texts if text.get_text()]


def bars(axes: Axes) -> np.ndarray:
    """Birth and death of each bar that is drawn, and the edge for an arrow."""
    return np.array([[s[0, 0], s[1, 0]] for s in segments(axes)]).reshape(-1, 2)


def marks(axes: Axes, marker: str) -> np.ndarray:
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return np.concatenate([np.zeros((0, 2)), *(np.asarray(line.get_xydata()) for line in lines)])


def test_a_barcode_has_each_bar_from_birth_to_death_and_an_arrow_for_infinity() -> None:
    h0, h1 = np.array([[0, 2.0], [0, INF], [0, 1.0]]), np.array([[1.5, 1.5], [0.5, 2.5]])
    axes = plot_barcode([h0, h1])
    edge = axes.get_xlim()[1]
    assert bars(axes).tolist() == [[0, 1], [0, 2], [0, edge], [0.5, 2.5], [1.5, 1.5]]
    # A bar of length 0 has a mark, or it would not be seen.
    assert marks(axes, "|")[:, 0].tolist() == [1.5]
    assert axes.get_xlim()[0] == 0
    assert edge > 2.5
    heights = [segment[0, 1] for segment in segments(axes)]
    assert heights == sorted(heights)
    assert marks(axes, ">").tolist() == [[edge, heights[2]]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["H₀\n3 bars", "H₁\n2 bars"]


def test_diagrams_of_ripser_and_gudhi_are_drawn_alike() -> None:
    gudhi = pytest.importorskip("gudhi")
    ripser = pytest.importorskip("ripser")
    points = cloud(30, 2)
    dgms = ripser.ripser(points)["dgms"]
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    tree.compute_persistence()
    by_dimension = [tree.persistence_intervals_in_dimension(k) for k in (0, 1)]
    assert len(dgms[1]) > 1
    reference = bars(plot_barcode(by_dimension))
    for other in (dgms, tree.persistence(), [torch.tensor(np.array(d)) for d in by_dimension]):
        np.testing.assert_allclose(bars(plot_barcode(other)), reference, rtol=1e-5)
    # And one diagram is a list of one.
    assert (bars(plot_barcode(dgms[1])) == bars(plot_barcode([dgms[1]]))).all()
    points_drawn = [marks(plot_diagram(d), "s") for d in (by_dimension, dgms)]
    np.testing.assert_allclose(points_drawn[0], by_dimension[1], rtol=1e-12)
    assert len(points_drawn[1]) == len(dgms[1])


def test_of_many_bars_the_longest_are_drawn_and_the_label_says_so() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1.0, 501))
    axes = plot_barcode(np.stack([np.zeros(500), lengths], -1))
    assert bars(axes)[:, 1].tolist() == list(range(301, 501))
    assert [t.get_text() for t in axes.get_yticklabels()] == ["H₀\n200 longest\nof 500"]


def test_a_diagram_has_the_diagonal_and_infinity_on_a_line_of_its_own() -> None:
    axes = plot_diagram([np.array([[0, 2.0], [0, INF]]), np.array([[1.0, 3.0]])])
    diagonal, line = axes.lines[:2]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    infinity = float(line.get_ydata()[0])
    assert 3 < infinity < axes.get_ylim()[1]
    assert marks(axes, "o").tolist() == [[0, 2], [0, infinity]]
    assert marks(axes, "s").tolist() == [[1, 3]]
    assert axes.get_aspect() == 1
    ticks = {
        t.get_text(): y for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }
    assert ticks["∞"] == infinity
    assert max(value for name, value in ticks.items() if name != "∞") <= 3
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] == 0


@pytest.mark.parametrize("n", [2, 3, 12, 30])
def test_the_dendrogram_merges_at_the_deaths(n: int) -> None:
    h0 = h0_persistence(torch.tensor(cloud(n), requires_grad=True))
    axes = plot_dendrogram(h0.deaths, h0.edges)
    merges = segments(axes)
    assert all(merge[1, 1] == merge[2, 1] for merge in merges)
    heights = sorted(float(merge[1, 1]) for merge in merges)
    assert heights == h0.deaths.tolist()
    # Feet stand on the leaves, or on the merges below.
    feet = [float(y) for merge in merges for y in (merge[0, 1], merge[3, 1])]
    assert sorted(feet) == sorted([0.0] * n + heights[:-1])
    assert axes.get_ylim()[0] == 0
    assert sorted(t.get_text() for t in axes.get_xticklabels()) == sorted(map(str, range(n)))


def test_leaves_have_the_labels_of_their_points() -> None:
    # 0 and 2 merge first, then 1 joins them, and 3 last.
    axes = plot_dendrogram([1.0, 2, 3], [[0, 2], [0, 1], [2, 3]], labels=["a", "b", "$c$", "d\n"])
    shown = [text.get_text() for text in axes.get_xticklabels()]
    first = min(segments(axes), key=lambda merge: merge[1, 1])
    assert {shown[round(first[0, 0])], shown[round(first[3, 0])]} == {"a", "$c$"}
    assert set(shown) == {"a", "b", "$c$", "d\\n"}
    assert not axes.get_xticklabels()[0].get_parse_math()


def test_of_a_large_chain_the_last_merges_are_drawn() -> None:
    points = torch.arange(4000.0, dtype=torch.float64)[:, None] ** 1.5
    h0 = h0_persistence(points)
    heights = sorted(merge[1, 1] for merge in segments(plot_dendrogram(*h0)))
    assert heights == h0.deaths[-199:].tolist()


def test_components_are_the_betti_curve() -> None:
    deaths = torch.tensor([0.0, 0.0, 1.0, 2.5, 2.5, 4.0], dtype=torch.float64)
    axes = plot_components(deaths)
    (line,) = axes.lines
    x, y = np.array(line.get_xdata()), np.array(line.get_ydata())
    scales = np.array([0, 0.5, 1, 2, 2.5, 3, 4, 4.1])
    # Steps hold from each scale to the next.
    assert line.get_drawstyle() == "steps-post"
    shown = [int(y[np.flatnonzero(x <= s)[-1]]) for s in scales]
    assert shown == barcode.betti_curve(deaths, torch.tensor(scales)).tolist()
    # Points that coincide are never seen apart.
    assert y.max() == shown[0] == 5
    assert axes.get_xlim() == (0, x[-1])
    assert axes.get_ylim()[0] == 0
    plot_components([9.0], axes, limit=10)
    assert axes.get_xlim()[1] > 10


def test_series_are_drawn_as_given_and_the_control_grey_and_dashed() -> None:
    series = {"run": ([0, 10], [3.0, 2]), "_control $": ([0, 10], [3.0, 2.5])}
    axes = plot_series(series, control="_control $", ylabel="loss")
    run, control = (line for line in axes.lines if line.get_marker() == "None")
    assert (list(run.get_ydata()), list(control.get_ydata())) == ([3, 2], [3, 2.5])
    assert (run.get_linestyle(), control.get_linestyle()) == ("-", "--")
    assert control.get_color() == "#6b6b6b"
    legend = axes.get_legend()
    assert legend is not None
    shown = [(text.get_text(), text.get_parse_math()) for text in legend.get_texts()]
    assert shown == [("run", False), ("_control $", False)]
    assert axes.get_ylim()[0] == axes.get_xlim()[0] == 0
    assert axes.get_ylabel() == "loss"


def test_what_is_not_finite_is_a_gap_and_values_below_zero_are_in_sight() -> None:
    values = np.full(100, np.nan)
    values[[3, 50, 51, 60]] = 1, -2, 3, INF
    axes = plot_series({"a": (range(100), values)})
    line, alone = axes.lines[:2]
    assert np.flatnonzero(np.isfinite(line.get_ydata())).tolist() == [3, 50, 51]
    assert list(alone.get_xdata()) == [3]
    assert axes.get_ylim()[0] < -2 < 3 < axes.get_ylim()[1] < 4


def test_eighteen_runs_and_nine_controls_can_be_told_apart_and_more_are_refused() -> None:
    runs = {f"run {k}": ([0, 1], [k, k]) for k in range(18)}
    controls = {f"control {k}": ([0, 1], [k, k]) for k in range(9)}
    lines = plot_series(runs | controls, control=[*controls]).lines
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines[::2]}) == 27
    assert {line.get_linestyle() for line in lines[36::2]} == {"--"}
    with pytest.raises(ValueError, match=r"19 runs cannot be told apart .* at most 18"):
        plot_series(runs | {"one more": ([0], [1])})


def test_the_map_is_pca_with_the_edges_of_the_tree() -> None:
    points = cloud(15, 6)
    edges = h0_persistence(points).edges
    axes = plot_map(points, edges)
    places = marks(axes, "o")
    np.testing.assert_array_equal(segments(axes), places[edges])
    # Two components keep as many of the squared distances as any plane can.
    centred = points - points.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose((places**2).sum(0), singular[:2] ** 2, rtol=1e-10)
    share = round(100 * singular[0] ** 2 / (singular**2).sum())
    assert axes.get_xlabel() == f"PC 1 ({share} % of variance)"
    axes.figure.draw_without_rendering()
    unit = np.ptp(axes.transData.transform([[0, 0], [1, 1]]), 0)
    assert unit[0] == pytest.approx(unit[1])


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (6, 2)])
def test_maps_do_not_depend_on_order_or_place(shape: tuple[int, int]) -> None:
    points = cloud(*shape)
    places = marks(plot_map(points, NO_EDGES), "o")
    again = marks(plot_map(1e150 * (points[::-1] + 7), NO_EDGES), "o")
    np.testing.assert_allclose(again[::-1] / 1e150, places, atol=1e-12)


def test_maps_of_one_frame_share_their_plane_and_their_limits() -> None:
    points, others = cloud(6, 4), cloud(9, 4, seed=1) * [9, 1, 1, 1]
    both = np.concatenate([points, others])
    left, right = Figure(figsize=(6, 3)).subplots(1, 2)
    for axes, part in ((left, points), (right, others)):
        plot_map(part, NO_EDGES, axes, frame=both)
        np.testing.assert_array_equal(marks(axes, "o"), in_plane(part, both))
    left.figure.draw_without_rendering()
    assert left.viewLim.extents == pytest.approx(right.viewLim.extents, rel=1e-12)


def in_plane(points: np.ndarray, spanning: np.ndarray) -> np.ndarray:
    centre, directions, _ = principal_plane(spanning)
    return np.asarray((points - centre) @ directions)


def test_labels_of_the_map_overlap_neither_each_other_nor_a_point() -> None:
    points = np.concatenate([cloud(12, 3) * 0.1, cloud(12, 3) + 3])
    figure = Figure(figsize=(3.5, 3.2))
    axes = plot_map(
        points, h0_persistence(points).edges, figure.subplots(), [f"token{k}" for k in range(24)]
    )
    figure.draw_without_rendering()
    labels = [t for t in axes.texts if t.get_visible() and t.get_text().startswith("token")]
    missing = 24 - len(labels)
    assert f"no room for {missing} of 24 labels" in texts(axes)
    assert len(labels) >= 8
    boxes = [label.get_window_extent() for label in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)
    places = axes.transData.transform(in_plane(points, points))
    for box in boxes:
        assert not any(box.contains(*place) for place in places)
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)


@pytest.mark.parametrize(
    ("axes", "note"),
    [
        (lambda: plot_barcode([]), "no bars"),
        (lambda: plot_barcode([np.zeros((0, 2)), []]), "no bars"),
        (lambda: plot_diagram(np.zeros((0, 2))), "no bars"),
        (lambda: plot_dendrogram([], NO_EDGES), "fewer than two points: no merges"),
        (lambda: plot_dendrogram([], [], labels=["a"]), "fewer than two points: no merges"),
        (lambda: plot_map(np.zeros((0, 3)), NO_EDGES), "no points"),
        (lambda: plot_series({}), "no values"),
        (lambda: plot_series({"a": ([0, 1], [np.nan, np.nan])}), "no values"),
    ],
)
def test_where_there_is_nothing_the_figure_says_so(axes: Any, note: str) -> None:
    assert texts(axes()) == [note]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("n", "d"), [(1, 0), (2, 1), (3, 3)])
def test_one_point_two_points_and_coincident_points_are_drawn(n: int, d: int) -> None:
    h0 = h0_persistence(np.zeros((n, d)))
    for axes in (
        plot_dendrogram(*h0),
        plot_components(h0.deaths),
        plot_map(np.zeros((n, d)), h0.edges, labels=range(n)),
        plot_barcode([np.stack([0 * h0.deaths, h0.deaths], -1)]),
        plot_diagram([np.array([[0, INF]] * n)]),
    ):
        axes.figure.draw_without_rendering()
        assert axes.get_xlim()[0] < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < axes.get_ylim()[1]


def test_it_draws_on_the_axes_given_and_makes_no_pyplot_figure() -> None:
    ax = Figure().add_subplot()
    assert plot_barcode([np.array([[0, 1.0]])], ax) is ax
    assert plot_components([1.0], ax) is ax
    script = (
        "import io, sys, numpy as np\n"
        "from tsloss_fast.analysis import plot_dendrogram, plot_map\n"
        "plot_dendrogram([1.0], [[0, 1]])\n"
        "plot_map(np.eye(2), [[0, 1]]).figure.savefig(io.BytesIO())\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: plot_barcode([[[0, NAN]]]),
            ValueError,
            r"diagrams\[0\]: number 0 of 1, .*has NaN",
        ),
        (lambda: plot_barcode([[[1.0, 0.5]]]), ValueError, "a death before its birth"),
        (lambda: plot_diagram([[[-INF, 0.5]]]), ValueError, "an infinite birth"),
        (lambda: plot_barcode([(0.5, 1.0)]), ValueError, r"diagrams\[0\]: expected shape \(n, 2\)"),
        (lambda: plot_barcode("bars"), TypeError, "expected a list of .* got str"),
        (lambda: plot_barcode([], "axes"), TypeError, "ax: expected matplotlib Axes.*got str"),
        (lambda: plot_components([1.0, NAN]), ValueError, "deaths: number 1 of 2, nan, is not fin"),
        (lambda: plot_components([2.0, 1.0]), ValueError, "1.0, .*less than .* the one before"),
        (lambda: plot_components([-1.0]), ValueError, "-1.0, .*less than 0"),
        (lambda: plot_components([[1.0]]), ValueError, r"deaths: expected shape \(n,\)"),
        (lambda: plot_components(["a"]), TypeError, "deaths: expected real numbers"),
        (lambda: plot_dendrogram([1.0], []), ValueError, "one for each of 1 deaths, got 0"),
        (lambda: plot_dendrogram([1.0, 2], [[0, 1], [1, 0]]), ValueError, "cycle"),
        (lambda: plot_dendrogram([1.0], [[0, 7]]), ValueError, "0.0, 7.0.*integers from 0 to 1"),
        (lambda: plot_dendrogram([1.0], [[0, 0.5]]), ValueError, "pair of integers"),
        (lambda: plot_dendrogram([0.0], [[-1, -1]]), ValueError, "padded batch"),
        (lambda: plot_dendrogram([1.0], [[0, 1]], labels="ab"), ValueError, "got one string"),
        (lambda: plot_map([[NAN, 0]], []), ValueError, "points: number 0 of 1, .*NaN or infinite"),
        (lambda: plot_map(np.eye(3), [], frame=np.eye(2)), ValueError, r"frame: .*\(n, 3\)"),
        (lambda: plot_map(np.eye(3), [], labels=["a"]), ValueError, "expected 3 labels"),
        (lambda: plot_series([1]), TypeError, "expected {name: .*got list"),
        (lambda: plot_series({"a": 1}), TypeError, "expected a pair"),
        (lambda: plot_series({"a": ([0], [1, 2])}), ValueError, "2 values and 1 steps"),
        (lambda: plot_series({"a": ([1, 1], [1, 2])}), ValueError, "above the one before"),
        (lambda: plot_series({"a": ([0], [1])}, control="b"), ValueError, "b is not among"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_clear_words(
    call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
