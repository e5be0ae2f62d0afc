"""The filter of one process, block by block, without any other process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tsloss_fast import _core, h0_persistence

N = 100


def found(filter: Any, a: int, b: int) -> tuple[Tensor, Tensor]:
    count = filter.between(a, b)
    keys, edges = torch.empty(count, dtype=torch.float64), torch.empty(count, 2, dtype=torch.int64)
    filter.result(keys, edges)
    return keys, edges


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("dim", [3, 64])
def test_points_that_stand_in_both_blocks_have_no_edge_to_themselves(
    dim: int, robust: bool
) -> None:
    """The filter works on coordinates in 3 dimensions, and on codes in 64."""
    rows = torch.zeros(N, (dim + 15) // 16 * 16)
    rows[:, :dim] = torch.randn(N, dim, generator=torch.Generator().manual_seed(0))
    a, b = torch.arange(N - 1), torch.arange(1, N)
    keys, path = torch.empty(N - 1, dtype=torch.float64), torch.stack([a, b], 1)
    _core.exact_keys(0, robust, rows, a, b, keys)
    ascending = keys.argsort()
    keys, path = keys[ascending].contiguous(), path[ascending].contiguous()
    filter = _core.ShardFilter(0, 0, dim, float(rows.abs().max()), False, robust, 1)
    filter.set_forest(keys, path)
    ids = torch.arange(N)
    filter.load(0, rows, ids)
    filter.load(1, rows, ids)
    between_keys, between = found(filter, 0, 1)
    assert (between[:, 0] < between[:, 1]).all()
    keys, edges = torch.cat([keys, between_keys]), torch.cat([path, between])
    count = _core.spanning_forest(N, keys, edges)
    assert count == N - 1
    assert torch.equal(edges[:count], h0_persistence(rows[:, :dim]).edges)
