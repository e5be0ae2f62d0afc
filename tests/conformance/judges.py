"""Judges: each says what is wrong with an answer, or None."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from oracles import (
    RELATIVE,
    Array,
    UnionFind,
    edge_gradient,
    exact_distances,
    kruskal,
    oracle_deaths,
    scipy_tree,
)
from torch import Tensor

from .adapter import Adapter, Answer, NotOffered, gradient_of

Judge = Callable[[Adapter, Any], str | None]


# ---- of points ----


def tensor(points: Any) -> Tensor:
    return points if isinstance(points, Tensor) else torch.from_numpy(points)


def known(points: Tensor) -> Array:
    """The points as NumPy has them, half types exactly widened."""
    array: Array = (points if points.dtype.itemsize > 2 else points.float()).numpy()
    return array


SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def expected_deaths(points: Array) -> Array:
    """The right deaths, computed once for all implementations that are asked."""
    return _expected_deaths(points.tobytes(), points.dtype, points.shape)


@functools.lru_cache(maxsize=256)
def _expected_deaths(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return oracle_deaths(np.frombuffer(data, dtype).reshape(shape))


def lengths_wrong(
    deaths: Array,
    expected: Array,
    given: np.dtype[Any] = DOUBLE,
    precision: np.dtype[Any] = SINGLE,
) -> str | None:
    """Relative errors above 1e-6, or for DOUBLE above 1e-13.

    Besides, one subnormal unit of the type of the input or of the deaths, whichever is larger: an
    implementation may compute in single precision for such input and return double.
    """
    if deaths.shape != expected.shape:
        return f"{len(deaths)} finite bars, expected {len(expected)}"
    if np.isnan(deaths).any():
        return "NaN among the deaths"
    error = np.abs(deaths.astype(np.longdouble) - expected)
    units = (np.finfo(dtype).smallest_subnormal for dtype in (given, deaths.dtype))
    excess = error / (RELATIVE[precision] * expected + max(map(np.longdouble, units)))
    if len(excess) and excess.max() > 1:
        k = int(excess.argmax())
        return f"death {k} of {len(deaths)} is {deaths[k]:.17g}, expected {float(expected[k]):.17g}"
    return None


def right(adapter: Adapter, points: Any) -> str | None:
    """All deaths, to six digits."""
    x = tensor(points)
    deaths, _ = adapter.points(x).sorted()
    return lengths_wrong(deaths, expected_deaths(known(x)), known(x).dtype)


def right_in_double(adapter: Adapter, points: Any) -> str | None:
    """To thirteen digits."""
    deaths, _ = adapter.points(tensor(points)).sorted()
    return lengths_wrong(deaths, expected_deaths(points), DOUBLE, DOUBLE)


def right_tree(adapter: Adapter, points: Any) -> str | None:
    """The critical edges are a spanning tree, each as long as its bar."""
    x = tensor(points)
    return tree_wrong(adapter.points(x), exact_distances(known(x)), known(x).dtype)


def tree_wrong(answer: Answer, distances: Array, given: np.dtype[Any]) -> str | None:
    deaths, edges = answer.sorted()
    if edges is None:
        raise NotOffered
    n = len(distances)
    if len(edges) != n - 1:
        return f"{len(edges)} edges, expected {n - 1}"
    forest = UnionFind(n)
    if not all(forest.join(int(i), int(j)) for i, j in edges):
        return "the edges hold a cycle"
    i, j = edges.T.astype(np.int64)
    return lengths_wrong(deaths, distances[i, j], given)


def refused(adapter: Adapter, points: Any) -> str | None:
    """An error that the caller sees, not a barcode."""
    try:
        deaths, _ = adapter.points(tensor(points)).sorted()
    except NotOffered:
        raise
    except Exception:
        return None
    return f"no error; {len(deaths)} finite bars, the longest {max(deaths, default=0.0)}"


def same_for_all_orders(adapter: Adapter, points: Any) -> str | None:
    first, _ = adapter.points(tensor(points)).sorted()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(points))
        other, _ = adapter.points(tensor(points[order])).sorted()
        if first.shape != other.shape or (first != other).any():
            return (
                f"other deaths for points[np.random.default_rng({seed}).permutation(len(points))]"
            )
    return None


def same_for_all_isometries(adapter: Adapter, points: Any) -> str | None:
    """Coordinates exchanged and reflected, which no rounding disturbs."""
    first, _ = adapter.points(tensor(points)).sorted()
    expected = expected_deaths(points)
    for name, moved in (("points[:, ::-1]", points[:, ::-1]), ("-points", -points)):
        other, _ = adapter.points(tensor(np.ascontiguousarray(moved))).sorted()
        wrong = lengths_wrong(other, expected)
        if wrong or first.shape != other.shape:
            return f"{name}: {wrong}"
    return None


def stable(adapter: Adapter, points: Any) -> str | None:
    """Cohen-Steiner, Edelsbrunner and Harer: the bottleneck distance of the diagrams is at most
    twice the largest move of a point. Of equally many bars born at 0 it is at most, and here taken
    as, the largest difference of the sorted deaths, for which the bound holds too."""
    first, _ = adapter.points(tensor(points)).sorted()
    for seed, size in ((0, 1e-6), (1, 1e-2), (2, 10.0)):
        step = np.random.default_rng(seed).standard_normal(points.shape)
        step *= size / np.linalg.norm(step, axis=1, keepdims=True)
        other, _ = adapter.points(tensor(points + step)).sorted()
        if first.shape != other.shape:
            return f"{len(first)} bars, then {len(other)}"
        moved = np.abs(first - other).max()
        if not moved <= 2 * size + 1e-6 * first.max():  # six digits, as elsewhere
            return f"points moved by {size}, a death by {moved}"
    return None


def unchanged(adapter: Adapter, points: Any) -> str | None:
    x = tensor(points)
    before = x.clone()
    wrong = right(adapter, x)
    return wrong if torch.equal(x, before) else "the input was changed"


def alone_and_in_a_batch(adapter: Adapter, points: Any) -> str | None:
    if adapter.batch is None:
        raise NotOffered
    for b, answer in enumerate(adapter.batch(tensor(points))):
        alone = adapter.points(tensor(points[b]))
        for x, y in zip(answer.sorted(), alone.sorted(), strict=True):
            if not np.array_equal(x, y):
                return f"cloud {b} has another barcode alone"
    return None


# ---- gradients ----


def routed(adapter: Adapter, points: Any, weights: Array) -> Array:
    gradient = gradient_of(adapter, tensor(points), torch.from_numpy(weights))
    if gradient is None:
        raise NotOffered
    return gradient.numpy()


def right_gradient(adapter: Adapter, points: Any) -> str | None:
    """Without ties there is one tree, and the gradient is that of its lengths."""
    weights = np.linspace(-1, 2, len(points) - 1)
    found = routed(adapter, points, weights)
    _, edges = kruskal(exact_distances(points))
    expected = edge_gradient(points, edges, weights, "euclidean")
    error = float(np.abs(found - expected).max())
    return None if error <= 1e-6 else f"off by {error:.3g}"


def gradient_of_some_tree(adapter: Adapter, points: Any) -> str | None:
    """Where lengths tie, several trees are minimal: the gradient is that of one of them.

    The length of a minimum spanning tree is a minimum over all trees, so in no direction it grows
    faster than the gradient of a minimal one says. Along the points themselves it grows by itself
    (Euler's theorem on homogeneous functions), and when all points move alike, not at all.
    """
    found = routed(adapter, points, np.ones(len(points) - 1))
    if not np.isfinite(found).all():
        return "not finite"
    drift = float(np.abs(found.sum(0)).max())
    if not drift <= 1e-6:
        return f"it sums to {drift:.3g}"
    length = float(expected_deaths(points).sum())
    scaled = float((found * points).sum())
    if not abs(scaled - length) <= 1e-6 * length:
        return f"its product with the points is {scaled:.6g}, expected {length:.6g}"
    size = 1e-6
    for seed in range(4):
        step = np.random.default_rng(seed).standard_normal(points.shape)
        step *= size / np.linalg.norm(step)
        for moved, sign in ((points + step, 1), (points - step, -1)):
            grown = float(expected_deaths(moved).sum()) - length
            said = sign * float((found * step).sum())
            if not grown <= said + 1e-3 * size:
                return f"the sum of the deaths grows by {grown:.3g}, and not by {said:.3g} at most"
    return None


def gradient_of_copies(adapter: Adapter, points: Any) -> str | None:
    """Where points coincide, but no two other lengths: any of the copies may be the end of an edge,
    so the sum over the copies is the gradient of the cloud without them. A bar of length 0 has no
    gradient; its ends may get any that is not longer than its weight."""
    weights = np.linspace(-1, 2, len(points) - 1)
    found = routed(adapter, points, weights)
    if not np.isfinite(found).all():
        return "not finite"
    distinct, which = np.unique(points, axis=0, return_inverse=True)
    together = np.zeros_like(distinct)
    np.add.at(together, which.reshape(-1), found)
    _, edges = kruskal(exact_distances(distinct))
    last = weights[len(weights) - len(edges) :]
    expected = edge_gradient(distinct, edges, last, "euclidean")
    error = float(np.abs(together - expected).max())
    if not error <= 1e-6:
        return f"summed over the copies, off by {error:.3g}"
    size, most = np.linalg.norm(found, axis=1).sum(), 2 * np.abs(weights).sum()
    return None if size <= most * (1 + 1e-6) else f"of size {size:.3g}, at most {most:.3g}"


# ---- of matrices ----


def right_of_matrix(adapter: Adapter, matrix: Any) -> str | None:
    if adapter.matrix is None:
        raise NotOffered
    deaths, _ = adapter.matrix(matrix).sorted()
    return lengths_wrong(deaths, scipy_tree(matrix.astype(np.longdouble)))


def right_tree_of_matrix(adapter: Adapter, matrix: Any) -> str | None:
    """The critical edges of a matrix are a spanning tree, each as long as its bar."""
    if adapter.matrix is None:
        raise NotOffered
    return tree_wrong(adapter.matrix(matrix), matrix.astype(np.longdouble), DOUBLE)


def matrix_refused(adapter: Adapter, matrix: Any) -> str | None:
    if adapter.matrix is None:
        raise NotOffered
    try:
        deaths, _ = adapter.matrix(matrix).sorted()
    except NotOffered:
        raise
    except Exception:
        return None
    return f"no error; deaths {np.array2string(deaths[:4], precision=4)}"
