"""Which pairs of two blocks of points could be in the tree: by the native core on the CPU, or in
plain torch on other devices."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .. import _core
from .._batch import METRICS
from .cloud import Block, Cloud, Edges, empty_edges


class Filter(Protocol):
    """Blocks stand in numbered slots; see csrc/cpu/shards/shards.h."""

    @property
    def lost_digits(self) -> bool: ...

    def set_forest(self, points: int, forest: Edges) -> None: ...

    def load(self, slot: int, block: Block) -> None: ...

    def near(self, a: int, b: int) -> Edges: ...

    def between(self, a: int, b: int) -> Edges: ...

    def edges(self, block: Block, a: Tensor, b: Tensor) -> Edges: ...


def make_filter(cloud: Cloud, robust: bool, device: torch.device) -> Filter:
    if device.type == "cpu":
        return NativeFilter(cloud, robust)
    from .torch_filter import TorchFilter

    return TorchFilter(cloud, robust, device)


class NativeFilter:
    def __init__(self, cloud: Cloud, robust: bool) -> None:
        self._metric, self._robust = cloud.metric, robust
        self._core = _core.ShardFilter(
            cloud.code,
            METRICS[cloud.metric],
            cloud.dim,
            cloud.largest,
            cloud.lattice,
            robust,
            torch.get_num_threads(),
        )
        self._blocks: dict[int, Block] = {}  # keeps their memory

    @property
    def lost_digits(self) -> bool:
        return self._core.lost_digits

    def set_forest(self, points: int, forest: Edges) -> None:
        assert len(forest) == points - 1
        self._blocks.clear()
        self._core.set_forest(forest.keys, forest.ends)

    def load(self, slot: int, block: Block) -> None:
        self._core.load(slot, block.rows, block.ids)
        self._blocks[slot] = block

    def near(self, a: int, b: int) -> Edges:
        return self._result(self._core.near(a, b))

    def between(self, a: int, b: int) -> Edges:
        return self._result(self._core.between(a, b))

    def _result(self, count: int) -> Edges:
        found = empty_edges(count)
        self._core.result(found.keys, found.ends)
        return found

    def edges(self, block: Block, a: Tensor, b: Tensor) -> Edges:
        """Those between the points at a (M,) and b (M,) of a block."""
        keys = torch.empty(len(a), dtype=torch.float64, device="cpu")
        a, b = a.contiguous(), b.contiguous()
        _core.exact_keys(METRICS[self._metric], self._robust, block.rows, a, b, keys)
        i, j = block.ids[a], block.ids[b]
        return Edges(keys, torch.stack([torch.minimum(i, j), torch.maximum(i, j)], 1))
