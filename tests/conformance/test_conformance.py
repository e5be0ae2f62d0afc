"""Ours passes everything; and each check can fail."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .adapter import Adapter, Answer, NotOffered
from .adapters import Ways, distances, ours, scipy_matrix
from .checks import CHECKS, Check, evaluate
from .run import ask, table

ADAPTERS = list(ours())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_ours_passes(adapter: Adapter, check: Check) -> None:
    outcome = ask(adapter, check)
    assert outcome.verdict == "pass", f"{outcome.wrong}\n{outcome.expression}"


def right(points: Tensor) -> Any:
    return Ways("baseline").points(points)


def lenient(points: Tensor) -> Answer:
    """By differences, whatever they are."""
    import tsloss_fast

    return Answer(*tsloss_fast.h0_persistence(points, check_finite=False))


def gram(points: Tensor) -> Answer:
    """|x|^2 + |y|^2 - 2 x.y in double."""
    x = points.double()
    square = x.square().sum(1)
    matrix = (square[:, None] + square - 2 * x @ x.T).clamp(min=0).sqrt().numpy()
    return lenient_matrix((matrix + matrix.T) / 2)


def lenient_matrix(matrix: Any) -> Answer:
    import tsloss_fast

    d = torch.from_numpy(np.maximum(matrix, matrix.T))
    d.fill_diagonal_(0)
    return Answer(
        *tsloss_fast.h0_persistence_from_distances(d.nan_to_num(0).abs(), check_finite=False)
    )


def in_half(points: Tensor) -> Answer:
    answer = right(points)
    return Answer(np.asarray(answer.deaths.half().float()), answer.edges)


def of_the_first_half(points: Tensor) -> Answer:
    return right(points[: (len(points) + 1) // 2])


def one_bar_more(points: Tensor) -> Answer:
    return Answer(np.append(right(points).deaths, 0.0))


def rounded(points: Tensor) -> Answer:
    answer = right(points.float())
    return Answer(answer.deaths, answer.edges)


def in_place(points: Tensor) -> Answer:
    answer = right(points)
    if points.stride(-1) != 0:
        points.mul_(2)
    return answer


def disordered(points: Tensor) -> Answer:
    answer = right(points)
    return Answer(answer.deaths, answer.edges.flip(0))


def wrong_gradient(points: Tensor, weights: Tensor) -> Tensor:
    return points * torch.inf


def times(factor: float, most_points: int = 0) -> Any:
    """The right gradient, times a factor for clouds of more points than that."""

    def gradient(points: Tensor, weights: Tensor) -> Tensor:
        found = Ways("baseline").gradient(points, weights)
        return factor * found if len(points) > most_points else found

    return gradient


def doubled(points: Tensor) -> list[Answer]:
    return [Answer(2 * right(cloud).deaths, right(cloud).edges) for cloud in points]


def larger(answer: Answer) -> Answer:
    """Wrong for more than a hundred points."""
    factor = 1.001 if len(answer.deaths) > 99 else 1.0
    return Answer(factor * answer.deaths, answer.edges)


def larger_points(points: Tensor) -> Answer:
    return larger(right(points))


def larger_matrix(matrix: Any) -> Answer:
    return larger(Ways("baseline").matrix(matrix))


def larger_batch(points: Tensor) -> list[Answer]:
    return [larger_points(cloud) for cloud in points]


def disordered_matrix(matrix: Any) -> Answer:
    answer = Ways("baseline").matrix(matrix)
    return Answer(answer.deaths, answer.edges.flip(0))


def rounded_diagonal(matrix: Any) -> Answer:
    """Takes a small number on the diagonal for a rounding error."""
    diagonal = np.diag(matrix)
    return Ways("baseline").matrix(matrix - np.diag(np.where(abs(diagonal) < 1e-3, diagonal, 0)))


def broken(name: str, points: Any = right, **rest: Any) -> Adapter:
    return Adapter(name, {}, points, **rest)


BROKEN = (
    broken("checks nothing", lenient, matrix=lenient_matrix),
    broken("Gram distances", gram),
    broken("drops what SciPy drops", lambda x: scipy_matrix(distances(x)), matrix=scipy_matrix),
    broken("half", in_half),
    broken("some points", of_the_first_half),
    broken("single", rounded),
    broken("one bar more", one_bar_more),
    broken("writes into its input", in_place),
    broken("edges in another order", disordered),
    broken("gradient", gradient=wrong_gradient),
    broken("batch", batch=doubled),
    broken("matrix", matrix=lambda m: Answer(np.zeros(len(m)))),
    broken("no gradient", gradient=times(0)),
    broken("gradient doubled", gradient=times(2)),
    broken("gradient negated", gradient=times(-1)),
    broken("gradient of many points", gradient=times(1.001, most_points=100)),
    broken("many points", larger_points),
    broken("many points in a batch", batch=larger_batch),
    broken("matrix of many points", matrix=larger_matrix),
    broken("edges of a matrix in another order", matrix=disordered_matrix),
    broken("small diagonal", matrix=rounded_diagonal),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_each_check_can_fail(check: Check) -> None:
    failed = [b.name for b in BROKEN if ask(b, check).verdict == "fail"]
    assert failed, "no broken implementation is found out"


TREE = "critical edges: a tree, each as long as its bar"
TREE_OF_MATRIX = "critical edges of a matrix: a tree, each as long as its bar"
GRADIENTS = ("gradient without ties", "gradient at coincident points", "gradient under ties")
FOUND_OUT_BY = {
    "checks nothing": ("NaN is refused", "a negative distance is refused"),
    "Gram distances": ("far from the origin",),
    "drops what SciPy drops": ("coincident points", "distances of 0 off the diagonal"),
    "half": ("float32",),
    "some points": ("sizes and dimensions",),
    "single": ("float64, to thirteen digits",),
    "one bar more": ("two and three points",),
    "writes into its input": ("a stride is no matter, the input is kept",),
    "edges in another order": (TREE,),
    "gradient": GRADIENTS,
    "batch": ("alone and in a batch: the same bits",),
    "matrix": ("distance matrices",),
    "no gradient": GRADIENTS,
    "gradient doubled": GRADIENTS,
    "gradient negated": GRADIENTS,
    "gradient of many points": GRADIENTS,
    "many points": ("hundreds of points", TREE),
    "many points in a batch": ("alone and in a batch: the same bits",),
    "matrix of many points": ("distance matrices", TREE_OF_MATRIX),
    "edges of a matrix in another order": (TREE_OF_MATRIX,),
    "small diagonal": ("a diagonal that is not 0 is refused",),
}


@pytest.mark.parametrize("adapter", BROKEN, ids=lambda adapter: adapter.name)
def test_each_broken_implementation_is_found_out(adapter: Adapter) -> None:
    named = {check.name: check for check in CHECKS}
    for name in FOUND_OUT_BY[adapter.name]:
        assert ask(adapter, named[name]).verdict == "fail", name


def test_every_input_is_what_its_line_says_each_time() -> None:
    for check in CHECKS:
        for expression in check.inputs:
            one, two = (torch.as_tensor(evaluate(expression)) for _ in range(2))
            assert torch.equal(one.nan_to_num(7.5), two.nan_to_num(7.5))
            assert "\n" not in expression


def test_what_is_not_offered_is_no_failure() -> None:
    bare = dataclasses.replace(ADAPTERS[0], matrix=None, batch=None)
    verdicts = {check.name: ask(bare, check).verdict for check in CHECKS}
    assert verdicts["distance matrices"] == "-"
    assert verdicts["alone and in a batch: the same bits"] == "-"
    assert verdicts["ties"] == "pass"


def not_of_none(points: Tensor) -> Answer:
    if len(points) == 0:
        raise NotOffered
    return right(points)


def test_an_input_that_is_not_offered_is_left_out_and_named() -> None:
    outcomes = [ask(broken("some numbers", not_of_none), check) for check in CHECKS]
    first = outcomes[0]
    assert first.verdict == "pass"
    assert first.left_out == ("np.zeros((0, 3))",)
    assert all(o.left_out == () for o in outcomes[1:])
    page = "\n".join(table(["some numbers"], [outcomes]))
    assert r"| no point, one point | pass\* |" in page
    assert "passed without `np.zeros((0, 3))`, which it does not offer" in page


def test_single_precision_returned_in_double_may_be_subnormal() -> None:
    (check,) = (c for c in CHECKS if c.name == "tiny and huge, float32")

    def single(points: Tensor) -> Answer:
        return Answer(right(points.float()).deaths.double())

    assert ask(broken("single", single), check).verdict == "pass"


@pytest.mark.slow
def test_the_command_prints_the_table_and_outlives_crashes(tmp_path: Path) -> None:
    pytest.importorskip("gudhi")
    out = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "create_from_array", "--output", str(out)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == len(CHECKS) + 2
    assert out.read_text(encoding="utf-8") in done.stdout
