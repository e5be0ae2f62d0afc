"""What cannot be computed is refused on every process, in the same words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import Processes

from tsloss_fast import distributed

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


def bad_point(rank: int) -> None:
    x = torch.zeros(5, 3)
    x[:, 0] = torch.arange(5)
    if rank == 1:
        x[2, 1] = float("nan")
        x[4, 1] = float("inf")
    distributed.h0_persistence(x)


def test_a_bad_point_is_named_on_every_process(group: Processes) -> None:
    for error in group.errors(bad_point):
        assert isinstance(error, ValueError)
        assert str(error) == "points: point 7 of the cloud contains NaN or infinity; remove it"


def overflows(rank: int) -> None:
    distributed.h0_persistence(torch.tensor([[3e38 * (1 - 2 * rank)]]))


def test_an_overflow_is_an_error_on_every_process(pair: Processes) -> None:
    for error in pair.errors(overflows):
        assert isinstance(error, ValueError)
        assert "points 0 and 1 of the cloud is above the largest" in str(error)


def zero_vector(rank: int) -> None:
    distributed.h0_persistence(torch.full((2, 2), float(1 - rank)), metric="cosine")


def test_a_zero_vector_under_cosine(pair: Processes) -> None:
    for error in pair.errors(zero_vector):
        assert isinstance(error, ValueError)
        assert "point 2 of the cloud is the zero vector" in str(error)
        assert str(error).endswith("; remove it or use another metric")


def with_own(rank: int, others: dict[str, Any], mine: dict[str, Any]) -> None:
    distributed.h0_persistence(**(mine if rank == 1 else others))


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ({"points": torch.zeros(2, 4)}, ["3 columns", "4 columns"]),
        ({"points": torch.zeros(2, 3).double()}, ["torch.float32", "torch.float64"]),
        ({"metric": "manhattan"}, ["metric 'euclidean'", "metric 'manhattan'"]),
        ({"block_bytes": 100}, ["block_bytes 67108864", "block_bytes 100"]),
        ({"points": torch.zeros(0, 3, requires_grad=True)}, ["no gradient", "a gradient"]),
    ],
)
def test_arguments_that_do_not_fit_together(
    pair: Processes, mine: dict[str, Any], words: list[str]
) -> None:
    usual = {"points": torch.zeros(2, 3)}
    for error in pair.errors(with_own, usual, {**usual, **mine}):
        assert isinstance(error, ValueError)
        for word in (*words, "rank 1"):
            assert word in str(error)


@pytest.mark.parametrize(
    ("mine", "kind", "words"),
    [
        ({"points": [[1.0]]}, TypeError, "expected a torch.Tensor"),
        ({"points": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "expected float16"),
        ({"points": torch.zeros(2, 3, 3)}, ValueError, "expected shape (n, D)"),
        ({"metric": "chebyshev"}, ValueError, "expected one of"),
        ({"block_bytes": 0}, ValueError, "block_bytes"),
    ],
)
def test_an_error_of_one_process_reaches_the_others(
    pair: Processes, mine: dict[str, Any], kind: type, words: str
) -> None:
    usual = {"points": torch.zeros(2, 3)}
    there, here = pair.errors(with_own, usual, {**usual, **mine})
    assert isinstance(here, kind)
    assert words in str(here)
    assert isinstance(there, distributed.PeerError)
    assert there.rank == 1
    assert words in str(there)


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        distributed.h0_persistence(torch.zeros(2, 2))


def twice(rank: int) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        distributed.h0_persistence(x).deaths.sum(), x, create_graph=True
    )
    gradient.sum().backward()


def test_a_second_derivative_is_refused(pair: Processes) -> None:
    for error in pair.errors(twice):
        assert isinstance(error, RuntimeError)
        assert "second derivatives are not supported" in str(error)
