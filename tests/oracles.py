"""Independent references: exact distances, five single-linkage algorithms, formulas in NumPy.

Nothing here uses the package under test. Distances are taken by direct difference in a wider
type than the input (float64 for float32, long double for float64), so an oracle's own error is
far below the tolerances it is used to judge.
"""

from __future__ import annotations

from collections.abc import Callable

import gudhi
import numpy as np
import pytest
import scipy.cluster.hierarchy
import torch
from numpy.typing import NDArray
from ripser import ripser
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import KDTree
from scipy.spatial.distance import squareform

Array = NDArray[np.floating]
METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")
RELATIVE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-13}

# For gradcheck: its own tolerance of 1e-3 would let a gradient pass that is off by a thousandth.
TIGHT = {"rtol": 1e-5, "atol": 1e-7}

needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="float64 cannot be judged without a wider type"
)


def exact_distances(points: Array, metric: str = "euclidean") -> Array:
    """(N, N) distances, accurate to far below the last bit of the points' own type."""
    wide = np.float64 if points.dtype == np.float32 and metric != "cosine" else np.longdouble
    x = points.astype(wide)
    n, d = x.shape
    if d == 0:
        return np.zeros((n, n), wide)
    if metric == "cosine":
        x = x / np.sqrt((x * x).sum(1, keepdims=True))
    out = np.empty((n, n), wide)
    for i in range(n):
        difference = x - x[i]
        if metric == "manhattan":
            out[i] = np.abs(difference).sum(1)
        else:
            out[i] = (difference * difference).sum(1)
    if metric == "euclidean":
        return np.sqrt(out)
    # |u - v|^2 = 2 - 2 cos for unit vectors, without the cancellation of 1 - cos.
    return out / 2 if metric == "cosine" else out


class UnionFind:
    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> bool:
        a, b = self.find(i), self.find(j)
        self.parent[a] = b
        return a != b


def kruskal(distances: Array) -> tuple[Array, NDArray[np.int64]]:
    """Deaths and edges of the one tree that is minimal under the order (length, i, j)."""
    n = len(distances)
    i, j = np.triu_indices(n, 1)
    length = distances[i, j]
    forest = UnionFind(n)
    chosen = []
    for k in np.lexsort((j, i, length)).tolist():
        if forest.join(int(i[k]), int(j[k])):
            chosen.append(k)
            if len(chosen) == n - 1:
                break
    edges = np.stack([i[chosen], j[chosen]], -1).astype(np.int64).reshape(-1, 2)
    return length[chosen], edges


def ranked(distances: Array) -> tuple[Array, NDArray[np.int64]]:
    """The distinct lengths, and the distances replaced by their rank from 1.

    Ranks have the same minimum spanning trees; they neither vanish (SciPy's sparse routines drop
    zero edges silently) nor round (ripser computes in float32, exact for integers below 2^24).
    """
    n = len(distances)
    i, j = np.triu_indices(n, 1)
    lengths, inverse = np.unique(distances[i, j], return_inverse=True)
    ranks = np.zeros((n, n), np.int64)
    ranks[i, j] = ranks[j, i] = inverse.reshape(-1) + 1
    return lengths, ranks


def scipy_tree(distances: Array) -> Array:
    lengths, ranks = ranked(distances)
    return lengths[np.sort(minimum_spanning_tree(ranks).data.astype(np.int64)) - 1]


def ripser_ranks(distances: Array) -> Array:
    lengths, ranks = ranked(distances)
    bars = ripser(ranks.astype(np.float32), distance_matrix=True, maxdim=0)["dgms"][0]
    deaths = np.sort(bars[np.isfinite(bars[:, 1]), 1])
    return lengths[deaths.astype(np.int64) - 1]


def in_float64(solve: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Give `solve` the lengths themselves, or their ranks where float64 would round them."""

    def deaths(distances: Array) -> Array:
        lengths, ranks = ranked(distances)
        if np.any((lengths > 0) & (lengths < np.finfo(np.float64).tiny)):
            return lengths[solve(ranks.astype(np.float64)).astype(np.int64) - 1]
        return solve(distances.astype(np.float64))

    return deaths


def scipy_linkage(distances: Array) -> Array:
    condensed = squareform(distances, checks=False)
    return np.sort(scipy.cluster.hierarchy.linkage(condensed, "single")[:, 2])


def gudhi_rips(distances: Array) -> Array:
    tree = gudhi.SimplexTree.create_from_array(distances)
    tree.compute_persistence(min_persistence=-1.0)
    deaths = tree.persistence_intervals_in_dimension(0)[:, 1]
    return np.sort(deaths[np.isfinite(deaths)])


ORACLES: dict[str, Callable[[Array], Array]] = {
    "tie-ordered Kruskal": lambda distances: kruskal(distances)[0],
    "SciPy minimum spanning tree": scipy_tree,
    "SciPy single linkage": in_float64(scipy_linkage),
    "GUDHI": in_float64(gudhi_rips),
    "ripser": ripser_ranks,
}


def oracle_deaths(points: Array, metric: str = "euclidean") -> Array:
    """Ascending deaths of one cloud in the wide type."""
    if len(points) < 2:
        return np.zeros(0, np.longdouble)
    return scipy_tree(exact_distances(points, metric))


def neighbour_distances(points: Array, metric: str = "euclidean") -> Array:
    """The distance (N,) of each point to its nearest other point, by SciPy's tree in float64."""
    x = points.astype(np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = KDTree(x).query(x, k=2, p=1 if metric == "manhattan" else 2)[0][:, 1]
    # |u - v|^2 = 2 - 2 cos for unit vectors.
    return {"sqeuclidean": nearest**2, "cosine": nearest**2 / 2}.get(metric, nearest)


def neighbour_spread(points: Array, metric: str = "euclidean") -> float:
    """The variance of the distances to the nearest other points over their squared mean."""
    if len(points) < 2:
        return 0.0
    n = neighbour_distances(points, metric)
    return float(np.var(n / n.mean())) if n.any() else 0.0


def tolerance(expected: Array, dtype: np.dtype, metric: str = "euclidean") -> Array:
    """How far from `expected` a computed length may be.

    A relative bound, and half a unit in the last place where the length is subnormal in `dtype`.
    The cosine distance of nearly parallel vectors is the small difference of numbers near 1: it
    gets two rounding errors of 1 beside.
    """
    info = np.finfo(dtype)
    slack = 2 * info.eps if metric == "cosine" else 0.0
    half_unit = np.longdouble(info.smallest_subnormal) / 2
    # NumPy 1 would round the scalar to the array's type.
    return np.asarray(RELATIVE[dtype] * expected.astype(np.longdouble) + half_unit + slack)


def assert_lengths(got: Array, expected: Array, metric: str = "euclidean", what: str = "") -> None:
    """Every length of `got` agrees with the oracle's; one beyond the largest float is infinite."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    assert not np.isnan(got).any(), f"{what}: NaN among the lengths"
    overflow = expected > np.longdouble(np.finfo(got.dtype).max)
    assert (np.isinf(got) == overflow).all(), f"{what}: infinite where it need not be"
    wide, expected = got[~overflow].astype(np.longdouble), expected[~overflow]
    excess = np.abs(wide - expected) / tolerance(expected, got.dtype, metric)
    if len(excess):
        k = int(excess.argmax())
        assert excess[k] <= 1, (
            f"{what}: length {k} of {len(excess)} is {wide[k]}, expected {expected[k]}: "
            f"{float(excess[k]):.3g} times the tolerance away"
        )


def assert_spanning_tree(edges: NDArray[np.int64], n: int, what: str = "") -> None:
    assert edges.shape == (max(n - 1, 0), 2), f"{what}: edges of shape {edges.shape}"
    assert edges.dtype == np.int64
    if n < 2:
        return
    assert (edges[:, 0] < edges[:, 1]).all(), f"{what}: an edge is not ordered"
    assert edges.min() >= 0, f"{what}: an edge leaves the cloud"
    assert edges.max() < n, f"{what}: an edge leaves the cloud"
    forest = UnionFind(n)
    assert all(forest.join(int(i), int(j)) for i, j in edges), f"{what}: the edges hold a cycle"


def assert_barcode(
    points: Array,
    deaths: Array,
    edges: NDArray[np.int64],
    expected: Array,
    metric: str = "euclidean",
    what: str = "",
    distances: Array | None = None,
) -> None:
    """The deaths are the oracle's, ascending, and are the lengths of a spanning tree's edges.

    Together these say that the tree is minimal, also where near ties make it ambiguous.
    """
    assert deaths.dtype == points.dtype, f"{what}: deaths of type {deaths.dtype}"
    assert_lengths(deaths, expected, metric, f"{what}: deaths")
    assert (np.diff(deaths[np.isfinite(deaths)]) >= 0).all(), f"{what}: deaths not ascending"
    assert_spanning_tree(edges, len(points), what)
    if distances is None:
        distances = exact_distances(points, metric)
    assert_lengths(deaths, distances[edges[:, 0], edges[:, 1]], metric, f"{what}: edge lengths")


def edge_gradient(points: Array, edges: NDArray[np.int64], g: Array, metric: str) -> Array:
    """The exact formula: each death sends its gradient to the two ends of its critical edge."""
    wide = np.float64 if points.dtype == np.float32 else np.longdouble
    x, g = points.astype(wide), g.astype(wide)
    out = np.zeros_like(x)
    for (i, j), gk in zip(edges, g, strict=True):
        a, b = x[i], x[j]
        delta = a - b
        if metric == "cosine":
            na, nb = np.sqrt((a * a).sum()), np.sqrt((b * b).sum())
            u, v = a / na, b / nb
            cos = (u * v).sum()
            at_i, at_j = -(v - cos * u) / na, -(u - cos * v) / nb
        elif metric == "manhattan":
            at_i, at_j = np.sign(delta), -np.sign(delta)
        elif metric == "sqeuclidean":
            at_i, at_j = 2 * delta, -2 * delta
        else:
            length = np.sqrt((delta * delta).sum())
            at_i = delta / length if length > 0 else np.zeros_like(delta)
            at_j = -at_i
        out[i] += gk * at_i
        out[j] += gk * at_j
    return out


def bits(tensor: torch.Tensor) -> bytes:
    """The memory of a tensor: equal exactly when every bit is (signed zeros and NaN included)."""
    return tensor.detach().contiguous().numpy().tobytes()


def same_bits(a: object, b: object) -> bool:
    """Whether two barcodes (deaths, edges) agree in every bit."""
    return all(x.shape == y.shape and bits(x) == bits(y) for x, y in zip(a, b, strict=True))
