"""What is asked, each input being one line of NumPy, so that a failure is reproduced by typing it.

What is right comes from long double distances and SciPy's minimum spanning tree (`oracles.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .adapter import Adapter, NotOffered
from .judges import (
    Judge,
    alone_and_in_a_batch,
    gradient_of_copies,
    gradient_of_some_tree,
    matrix_refused,
    refused,
    right,
    right_gradient,
    right_in_double,
    right_of_matrix,
    right_tree,
    right_tree_of_matrix,
    same_for_all_isometries,
    same_for_all_orders,
    stable,
    unchanged,
)


@dataclass(frozen=True)
class Outcome:
    """The answer to a check.

    ``verdict``: "pass", "fail" or "-" (not offered). ``expression`` and ``wrong``: the input that
    failed, and the fault of its result. ``left_out``: inputs that the implementation does not
    offer.
    """

    verdict: str
    expression: str = ""
    wrong: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """``judge(adapter, input)`` says what is wrong, or None."""

    name: str
    judge: Judge
    inputs: tuple[str, ...]

    def ask(self, adapter: Adapter) -> Outcome:
        """The verdict, with the first input that fails, or the inputs that are not offered."""
        left_out = []
        for expression in self.inputs:
            try:
                wrong = self.judge(adapter, evaluate(expression))
            except NotOffered:
                left_out.append(expression)
                continue
            except Exception as error:
                text = " ".join(str(error).split())
                wrong = f"{type(error).__name__}: {text}"
            if wrong is not None:
                return Outcome("fail", expression, wrong)
        offered = len(left_out) < len(self.inputs)
        return Outcome("pass" if offered else "-", left_out=tuple(left_out) if offered else ())


def evaluate(expression: str) -> Any:
    """`np` and `torch` are at hand; `rng(seed)` is np.random.default_rng(seed).standard_normal."""

    def rng(seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal

    return eval(expression, {"np": np, "torch": torch, "rng": rng})


SYMMETRIC = "(lambda a: np.triu(a, 1) + np.triu(a, 1).T)(np.abs(rng({s})(({n}, {n}))))"
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
        "hundreds of points",
        right,
        (
            "rng(0)((101, 3))",
            "rng(1)((150, 40))",
            "rng(2)((600, 8))",
            "rng(5)((1500, 3)).astype(np.float32)",
        ),
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
        (
            *(CLUSTERS.format(w=w, s=w, n=20, d=d) for w in (3, 6) for d in (3, 64)),
            CLUSTERS.format(w=3, s=4, n=300, d=16),
        ),
    ),
    Check(
        "ties",
        right,
        (
            "np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)",
            "np.eye(40)",
            "np.random.default_rng(0).integers(0, 3, (60, 4)).astype(float)",
            "np.random.default_rng(3).integers(0, 4, (700, 5)).astype(float)",
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
            "rng(3)((300, 6))",
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
        ("rng(0)((60, 9))", "1e3 + rng(1)((40, 33))", "np.eye(30)", "rng(2)((300, 5))"),
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
        ("rng(0)((5, 30, 17))", "np.repeat(rng(1)((1, 64, 3)), 2, 0)", "rng(2)((3, 150, 4))"),
    ),
    Check(
        "gradient without ties",
        right_gradient,
        ("rng(0)((30, 7))", "1e3 * rng(1)((50, 3))", "1e6 + rng(2)((40, 5))", "rng(3)((200, 4))"),
    ),
    Check(
        "gradient at coincident points",
        gradient_of_copies,
        (
            "np.ones((5, 3))",
            "np.repeat(rng(0)((6, 4)), 3, 0)",
            "np.tile(rng(1)((60, 3)), (2, 1))",
        ),
    ),
    Check(
        "gradient under ties",
        gradient_of_some_tree,
        (
            "np.eye(12)",
            "np.arange(9.0).reshape(-1, 1)",
            "np.stack(np.meshgrid(np.arange(4.0), 2 * np.arange(3.0)), -1).reshape(-1, 2)",
            "np.arange(110.0).reshape(-1, 1)",
        ),
    ),
    Check(
        "distance matrices",
        right_of_matrix,
        (
            "np.abs(np.subtract.outer(np.arange(20.0) ** 2, np.arange(20.0) ** 2))",
            SYMMETRIC.format(s=0, n=40),
            SYMMETRIC.format(s=1, n=300),
        ),
    ),
    Check(
        "critical edges of a matrix: a tree, each as long as its bar",
        right_tree_of_matrix,
        (
            SYMMETRIC.format(s=0, n=40),
            "np.ones((6, 6)) - np.eye(6)",
            "np.ones((6, 6)) - np.kron(np.eye(3), np.ones((2, 2)))",
            SYMMETRIC.format(s=2, n=200),
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
        (
            "np.array([[0.0, 1, 2], [3, 0, 1], [2, 1, 0]])",
            "np.ones((150, 150)) - np.eye(150) + 1e-3 * np.eye(150, k=149)",
        ),
    ),
    Check(
        "a negative distance is refused",
        matrix_refused,
        ("np.array([[0.0, -1, 2], [-1, 0, 1], [2, 1, 0]])",),
    ),
    Check(
        "a diagonal that is not 0 is refused",
        matrix_refused,
        (
            "np.array([[5.0, 1, 2], [1, 5, 1], [2, 1, 5]])",
            "np.ones((3, 3)) - (1 - 1e-6) * np.eye(3)",
            "np.ones((40, 40)) - np.diag(np.arange(40) < 39) + 1e-12 * np.eye(40)",
        ),
    ),
    Check(
        "NaN in a matrix is refused",
        matrix_refused,
        ("np.array([[0.0, np.nan, 2], [np.nan, 0, 1], [2, 1, 0]])",),
    ),
)
