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

from .adapter import Adapter, Answer
from .adapters import Ways, distances, ours, scipy_matrix
from .checks import CHECKS, Check, evaluate
from .run import ask

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


def doubled(points: Tensor) -> list[Answer]:
    return [Answer(2 * right(cloud).deaths, right(cloud).edges) for cloud in points]


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
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_each_check_can_fail(check: Check) -> None:
    failed = [b.name for b in BROKEN if ask(b, check).verdict == "fail"]
    assert failed, "no broken implementation is found out"


def test_each_broken_implementation_is_found_out() -> None:
    for adapter in BROKEN:
        verdicts = [ask(adapter, check).verdict for check in CHECKS]
        assert "fail" in verdicts, adapter.name


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
