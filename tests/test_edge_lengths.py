"""`edge_lengths` gives the lengths that SciPy gives, and refuses what it cannot read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from clouds import gaussian, layouts, rng
from oracles import METRICS, RELATIVE, Array
from scipy.spatial.distance import cdist
from torch import Tensor
from wrong_arguments import assert_refused

from tsloss_fast import edge_lengths

every_metric = pytest.mark.parametrize("metric", METRICS)
SCIPY = {"manhattan": "cityblock"}
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
# Both orders of the ends, a repeated edge, an edge from a point to itself, and padding.
EDGES = torch.tensor([[0, 1], [1, 0], [3, 2], [3, 2], [4, 4], [-1, -1], [0, 5], [-1, -1]])
POINTS = torch.from_numpy(gaussian(6, 3, dtype=np.float64))
BATCH = POINTS.expand(3, 6, 3)


def by_scipy(points: Array, edges: Array, metric: str) -> Array:
    wide = points.astype(np.float64)
    distances = cdist(wide, wide, SCIPY.get(metric, metric))
    return np.where(edges[:, 0] < 0, 0.0, distances[edges[:, 0], edges[:, 1]])


@every_metric
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_are_those_of_scipy_for_all_pairs_in_both_orders(
    metric: str, dtype: type[np.floating]
) -> None:
    for n, d in ((1, 2), (2, 1), (9, 3), (33, 17), (40, 768)):
        points = (3 + gaussian(n, d, dtype=np.float64)).astype(dtype)
        edges = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)
        edges = rng(n).permutation(np.concatenate([edges, np.full((5, 2), -1)]))
        lengths = edge_lengths(torch.from_numpy(points), torch.from_numpy(edges), metric)
        assert lengths.dtype == torch.from_numpy(points).dtype
        # SciPy takes 1 - cos, which loses digits where vectors are nearly parallel.
        slack = 8 * np.finfo(dtype).eps if metric == "cosine" else 0.0
        expected = by_scipy(points, edges, metric)
        np.testing.assert_allclose(lengths, expected, RELATIVE[np.dtype(dtype)], slack)
        assert not lengths[torch.from_numpy(edges[:, 0] == edges[:, 1])].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    x = POINTS.to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    lengths, expected = edge_lengths(x, EDGES), edge_lengths(wide, EDGES)
    assert lengths.dtype == torch.float32
    assert torch.equal(lengths, expected)
    lengths.sum().backward()
    expected.sum().backward()
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("integer", INTEGERS)
def test_edges_may_be_of_any_integer_type(integer: str) -> None:
    dtype = getattr(torch, integer)
    edges = EDGES[EDGES[:, 0] >= 0] if integer.startswith("u") else EDGES
    assert torch.equal(edge_lengths(POINTS, edges.to(dtype)), edge_lengths(POINTS, edges))
    edges, points = edges.numpy().astype(integer), POINTS.float().numpy()
    lengths = edge_lengths(points, edges, "manhattan")
    assert isinstance(lengths, np.ndarray)
    assert lengths.dtype == np.float32
    expected = by_scipy(points, edges.astype(int), "manhattan")
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)


def test_points_and_edges_may_have_any_strides() -> None:
    expected = edge_lengths(POINTS, EDGES)
    wide = torch.full((2 * len(EDGES), 3), 99)
    wide[::2, ::2] = EDGES
    for name, points in layouts(POINTS).items():
        for edges in (EDGES, EDGES.T.contiguous().T, wide[::2, ::2]):
            assert torch.equal(edge_lengths(points, edges), expected), name
    assert torch.equal(
        edge_lengths(POINTS.expand(4, 6, 3), EDGES.expand(4, 8, 2)), expected.expand(4, 8)
    )


@pytest.mark.parametrize(
    ("points", "edges"),
    [
        ((0, 3), (0, 2)),
        ((4, 3), (0, 2)),
        ((0, 5, 3), (0, 4, 2)),
        ((4, 0), (3, 2)),
        ((1, 2), (3, 2)),
    ],
)
def test_empty_shapes_give_lengths_zero_and_a_gradient(
    points: tuple[int, ...], edges: tuple[int, ...]
) -> None:
    for metric in ("euclidean", "sqeuclidean", "manhattan"):
        x = torch.ones(points, requires_grad=True)
        lengths = edge_lengths(x, torch.zeros(edges, dtype=torch.int64), metric)
        assert lengths.shape == edges[:-1]
        assert not lengths.any()
        (grad,) = torch.autograd.grad(lengths.sum(), x)
        assert grad.shape == points
        assert not grad.any()


def test_on_the_meta_device_lengths_have_a_shape() -> None:
    x = torch.empty(2, 6, 3, device="meta")
    lengths = edge_lengths(x, torch.zeros(2, 4, 2, dtype=torch.int64, device="meta"))
    assert lengths.shape == (2, 4)
    assert lengths.device.type == "meta"


def edges_of(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


# What is called, the error, and the words that its message must have (regular expressions).
WRONG: dict[str, tuple[Callable[[], object], type[Exception], list[str]]] = {
    "a list of points": (lambda: edge_lengths([[0.0]], EDGES), TypeError, ["points", "list"]),
    "integer points": (lambda: edge_lengths(POINTS.long(), EDGES), TypeError, ["points", "int64"]),
    "no edges": (lambda: edge_lengths(POINTS, None), TypeError, ["edges", "NoneType"]),
    "float edges": (lambda: edge_lengths(POINTS, EDGES.float()), TypeError, ["edges", "float32"]),
    "boolean edges": (lambda: edge_lengths(POINTS, EDGES > 0), TypeError, ["edges", "bool"]),
    "points of one dimension": (
        lambda: edge_lengths(torch.zeros(5), edges_of(4, 2)),
        ValueError,
        ["points", r"\(5,\)"],
    ),
    "one edge alone": (lambda: edge_lengths(POINTS, edges_of(2)), ValueError, ["edges", r"\(2,\)"]),
    "edges with three ends": (
        lambda: edge_lengths(POINTS, edges_of(4, 3)),
        ValueError,
        ["edges", r"\(4, 3\)"],
    ),
    "edges of one cloud for a batch": (
        lambda: edge_lengths(BATCH, edges_of(4, 2)),
        ValueError,
        ["edges", r"\(4, 2\)", "3"],
    ),
    "edges of another batch": (
        lambda: edge_lengths(BATCH, edges_of(2, 4, 2)),
        ValueError,
        ["edges", r"\(2, 4, 2\)", "3"],
    ),
    "an unknown metric": (
        lambda: edge_lengths(POINTS, EDGES, "chebyshev"),
        ValueError,
        ["chebyshev", "euclidean"],
    ),
    "an index of N": (
        lambda: edge_lengths(POINTS, torch.tensor([[0, 6]])),
        ValueError,
        ["edges", r"\b6\b"],
    ),
    "an index above N": (
        lambda: edge_lengths(POINTS, torch.tensor([[41, 1]])),
        ValueError,
        ["edges", r"\b41\b", r"\b6\b"],
    ),
    "an index below -1": (
        lambda: edge_lengths(BATCH, EDGES.where(EDGES != 5, -7).expand(3, 8, 2)),
        ValueError,
        ["edges", r"-7\b", r"\b6\b"],
    ),
    "an index in a cloud without points": (
        lambda: edge_lengths(torch.zeros(0, 3), edges_of(1, 2)),
        ValueError,
        ["edges", r"\b0\b"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_refused_with_its_essential_words(what: str) -> None:
    assert_refused(*WRONG[what])
