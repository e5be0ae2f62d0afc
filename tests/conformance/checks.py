"""What is asked, each input being one line of NumPy, so that a failure is reproduced by typing it.

What is right comes from long double distances and SciPy's minimum spanning tree (`oracles.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

from .adapter import Adapter, gradient_of

__all__ = ["CHECKS", "Check", "NotOffered", "evaluate"]


class NotOffered(Exception):
    """The implementation has no such thing."""


Judge = Callable[[Adapter, Any], str | None]


@dataclass(frozen=True)
class Check:
    """``judge(adapter, input)`` says what is wrong, or None."""

    name: str
    judge: Judge
    inputs: tuple[str, ...]

    def failure(self, adapter: Adapter) -> tuple[str, str] | None:
        """The first input that fails, and what is wrong with the answer."""
        for expression in self.inputs:
            try:
                wrong = self.judge(adapter, evaluate(expression))
            except NotOffered:
                raise
            except Exception as error:
                text = " ".join(str(error).split())
                wrong = f"{type(error).__name__}: {text}"
            if wrong is not None:
                return expression, wrong
        return None


def evaluate(expression: str) -> Any:
    """`np` and `torch` are at hand; `rng(seed)` is np.random.default_rng(seed).standard_normal."""

    def rng(seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal

    return eval(expression, {"np": np, "torch": torch, "rng": rng})


# ---- of points ----


def tensor(points: Any) -> Tensor:
    return points if isinstance(points, Tensor) else torch.from_numpy(points)


def known(points: Tensor) -> Array:
    """The points as NumPy has them, half types exactly widened."""
    array: Array = (points if points.dtype.itemsize > 2 else points.float()).numpy()
    return array


SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def lengths_wrong(deaths: Array, expected: Array, dtype: np.dtype[Any] = SINGLE) -> str | None:
    """Relative errors above 1e-6, or for DOUBLE above 1e-13."""
    if deaths.shape != expected.shape:
        return f"{len(deaths)} finite bars, expected {len(expected)}"
    if np.isnan(deaths).any():
        return "NaN among the deaths"
    error = np.abs(deaths.astype(np.longdouble) - expected)
    unit = np.longdouble(np.finfo(deaths.dtype).smallest_subnormal)
    excess = error / (RELATIVE[dtype] * expected + unit)
    if len(excess) and excess.max() > 1:
        k = int(excess.argmax())
        return f"death {k} of {len(deaths)} is {deaths[k]:.17g}, expected {float(expected[k]):.17g}"
    return None


def right(adapter: Adapter, points: Any) -> str | None:
    """All deaths, to six digits."""
    x = tensor(points)
    deaths, _ = adapter.points(x).sorted()
    return lengths_wrong(deaths, oracle_deaths(known(x)))


def right_in_double(adapter: Adapter, points: Any) -> str | None:
    """To thirteen digits."""
    deaths, _ = adapter.points(tensor(points)).sorted()
    return lengths_wrong(deaths, oracle_deaths(points), DOUBLE)


def right_tree(adapter: Adapter, points: Any) -> str | None:
    """The critical edges are a spanning tree, each as long as its bar."""
    x = tensor(points)
    deaths, edges = adapter.points(x).sorted()
    if edges is None:
        raise NotOffered
    n = len(x)
    if len(edges) != n - 1:
        return f"{len(edges)} edges, expected {n - 1}"
    forest = UnionFind(n)
    if not all(forest.join(int(i), int(j)) for i, j in edges):
        return "the edges hold a cycle"
    i, j = edges.T.astype(np.int64)
    return lengths_wrong(deaths, exact_distances(known(x))[i, j])


def refused(adapter: Adapter, points: Any) -> str | None:
    """An error that the caller sees, not a barcode."""
    try:
        deaths, _ = adapter.points(tensor(points)).sorted()
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
    expected = oracle_deaths(points)
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


def finite_gradient(adapter: Adapter, points: Any) -> str | None:
    """Where points coincide or lengths tie: finite, and it moves no centre of mass."""
    found = routed(adapter, points, np.ones(len(points) - 1))
    if not np.isfinite(found).all():
        return "not finite"
    drift = float(np.abs(found.sum(0)).max())
    return None if drift <= 1e-6 else f"it sums to {drift:.3g}"


# ---- of matrices ----


def right_of_matrix(adapter: Adapter, matrix: Any) -> str | None:
    if adapter.matrix is None:
        raise NotOffered
    deaths, _ = adapter.matrix(matrix).sorted()
    return lengths_wrong(deaths, scipy_tree(matrix.astype(np.longdouble)))


def matrix_refused(adapter: Adapter, matrix: Any) -> str | None:
    if adapter.matrix is None:
        raise NotOffered
    try:
        deaths, _ = adapter.matrix(matrix).sorted()
    except Exception:
        return None
    return f"no error; deaths {np.array2string(deaths[:4], precision=4)}"


CLUSTERS = "np.concatenate([c + 1e-{w} * rng({s})(({n}, {d})) for c in (-1e3, 1e3)])"

CHECKS = (
    Check(
        "no point, one point",
        right,
        ("np.zeros((0, 3))", "np.zeros((1, 3))", "np.ones((1, 3), np.float32)"),
    ),
    Check("two and three points", right, ("rng(0)((2, 5))", "rng(1)((3, 1))", "rng(2)((3, 64))")),
    Check("no dimension", right, ("np.zeros((4, 0))",)),
    Check(
        "sizes and dimensions",
        right,
        tuple(f"rng({n})(({n}, {d}))" for n in (7, 16, 33, 64, 100) for d in (1, 2, 17, 128)),
    ),
    Check(
        "float32",
        right,
        tuple(f"rng({n})(({n}, {d})).astype(np.float32)" for n in (9, 64) for d in (1, 33, 768)),
    ),
    Check(
        "half types, exactly widened",
        right,
        (
            "torch.from_numpy(rng(0)((40, 16))).half()",
            "torch.from_numpy(rng(1)((40, 16))).bfloat16()",
        ),
    ),
    Check(
        "float64, to thirteen digits",
        right_in_double,
        tuple(f"rng({n})(({n}, {d}))" for n in (9, 64) for d in (1, 33, 768)),
    ),
    Check("all points coincide", right, ("np.ones((6, 3))", "np.full((30, 64), 0.1)")),
    Check(
        "coincident points",
        right,
        ("np.repeat(rng(0)((5, 3)), 4, 0)", "np.tile(rng(1)((9, 33)), (3, 1))"),
    ),
    Check(
        "nearly coincident points",
        right,
        (
            "np.concatenate([rng(0)((20, 8))] * 2) + 1e-9 * rng(1)((40, 8))",
            "np.ones((30, 5)) + 2.0**-50 * np.random.default_rng(0).integers(0, 9, (30, 5))",
        ),
    ),
    Check(
        "far from the origin",
        right,
        ("1e6 + rng(0)((40, 16))", "1e9 + rng(1)((64, 3))", "-1e12 + rng(2)((30, 40))"),
    ),
    Check(
        "far from the origin, float32",
        right,
        ("(1e4 + rng(0)((40, 64))).astype(np.float32)",),
    ),
    Check(
        "two tight clusters far apart",
        right,
        tuple(CLUSTERS.format(w=w, s=w, n=20, d=d) for w in (3, 6) for d in (3, 64)),
    ),
    Check(
        "ties",
        right,
        (
            "np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)",
            "np.eye(40)",
            "np.random.default_rng(0).integers(0, 3, (60, 4)).astype(float)",
        ),
    ),
    Check(
        "critical edges: a tree, each as long as its bar",
        right_tree,
        (
            "rng(0)((50, 12))",
            "np.eye(20)",
            "np.repeat(rng(1)((6, 3)), 3, 0)",
            "1e6 + rng(2)((40, 16))",
        ),
    ),
    Check("tiny coordinates", right, tuple(f"1e-{e} * rng({e})((20, 5))" for e in (30, 160, 300))),
    Check("huge coordinates", right, tuple(f"1e{e} * rng({e})((20, 5))" for e in (30, 160, 300))),
    Check(
        "tiny and huge at once",
        right,
        ("rng(0)((20, 5)) * 10.0 ** np.linspace(-200, 200, 20)[:, None]",),
    ),
    Check(
        "tiny and huge, float32",
        right,
        tuple(f"(1e{e} * rng(3)((20, 5))).astype(np.float32)" for e in (-40, -25, 25, 37)),
    ),
    Check(
        "NaN is refused",
        refused,
        (
            "np.array([[0.0, 1], [np.nan, 2], [3, 4]])",
            "np.where(np.arange(800).reshape(40, 20) == 799, np.nan, 1.0)",
        ),
    ),
    Check(
        "infinity is refused",
        refused,
        ("np.array([[0.0, 1], [np.inf, 2], [3, 4]])", "np.array([[-np.inf], [0.0], [np.inf]])"),
    ),
    Check(
        "a stride is no matter, the input is kept",
        unchanged,
        (
            "rng(0)((64, 40))[::3, ::2]",
            "rng(1)((20, 30)).T",
            "torch.from_numpy(rng(2)((5, 8)))[:, 1:2].expand(5, 4)",
        ),
    ),
    Check(
        "any order of the points: the same deaths",
        same_for_all_orders,
        ("rng(0)((60, 9))", "1e3 + rng(1)((40, 33))", "np.eye(30)"),
    ),
    Check(
        "coordinates exchanged or reflected",
        same_for_all_isometries,
        ("rng(0)((60, 9))", "1e6 + rng(1)((40, 33))"),
    ),
    Check(
        "stability",
        stable,
        ("rng(0)((50, 6))", "np.eye(30)", "1e5 + rng(1)((40, 3))"),
    ),
    Check(
        "alone and in a batch: the same bits",
        alone_and_in_a_batch,
        ("rng(0)((5, 30, 17))", "np.repeat(rng(1)((1, 64, 3)), 2, 0)"),
    ),
    Check(
        "gradient without ties",
        right_gradient,
        ("rng(0)((30, 7))", "1e3 * rng(1)((50, 3))", "1e6 + rng(2)((40, 5))"),
    ),
    Check(
        "gradient at coincident points",
        finite_gradient,
        ("np.ones((5, 3))", "np.repeat(rng(0)((6, 4)), 3, 0)"),
    ),
    Check("gradient under ties", finite_gradient, ("np.eye(12)", "np.arange(9.0)[:, None]")),
    Check(
        "distance matrices",
        right_of_matrix,
        (
            "np.abs(np.subtract.outer(np.arange(20.0) ** 2, np.arange(20.0) ** 2))",
            "(lambda a: np.triu(a, 1) + np.triu(a, 1).T)(np.abs(rng(0)((40, 40))))",
        ),
    ),
    Check(
        "distances of 0 off the diagonal",
        right_of_matrix,
        ("np.ones((6, 6)) - np.kron(np.eye(3), np.ones((2, 2)))", "np.zeros((5, 5))"),
    ),
    Check(
        "an asymmetric matrix is refused",
        matrix_refused,
        ("np.array([[0.0, 1, 2], [3, 0, 1], [2, 1, 0]])",),
    ),
    Check(
        "a negative distance is refused",
        matrix_refused,
        ("np.array([[0.0, -1, 2], [-1, 0, 1], [2, 1, 0]])",),
    ),
    Check(
        "a diagonal that is not 0 is refused",
        matrix_refused,
        ("np.array([[5.0, 1, 2], [1, 5, 1], [2, 1, 5]])",),
    ),
    Check(
        "NaN in a matrix is refused",
        matrix_refused,
        ("np.array([[0.0, np.nan, 2], [np.nan, 0, 1], [2, 1, 0]])",),
    ),
)
