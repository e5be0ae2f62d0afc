"""Points that stay in a file: each block is read when it is needed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cloud import Block, Edges, Loaded, draw, load


class MappedShard:
    """The points from `first` to `end` of a table, in blocks of `rows`.

    read(a, b) gives the points (b - a, D) in float32 or float64, however they are stored. All are
    read once when the object is made, then again at every visit.
    """

    resident = False

    def __init__(
        self,
        read: Callable[[int, int], Tensor],
        metric: str,
        first: int,
        end: int,
        rows: int,
    ) -> None:
        self._read, self._metric = read, metric
        self._ranges = [(a, min(a + rows, end)) for a in range(first, end, rows)]
        self._kept: dict[int, Block] = {}
        self.sizes: list[int] = []
        joined = [Edges.none()]
        self.problem, self.bad = 0, -1
        self.largest, self.lattice = 0.0, True
        for c in range(len(self._ranges)):
            loaded = self._load(c)
            if loaded.problem:
                self.problem, self.bad = loaded.problem, loaded.bad
                break
            self.sizes.append(len(loaded.block))
            joined.append(loaded.joined)
            self.largest = max(self.largest, loaded.largest)
            self.lattice = self.lattice and loaded.lattice
        self.joined = Edges.join(joined)

    def _load(self, c: int) -> Loaded:
        a, b = self._ranges[c]
        return load(self._read(a, b), self._metric, a)

    def block(self, c: int) -> Block:
        if c not in self._kept:
            self._kept.clear()  # those in use are held by the filter
            self._kept[c] = self._load(c).block
        return self._kept[c]

    def sample(self, count: int, seed: int) -> Block:
        drawn = draw(sum(self.sizes), count, seed)
        parts, before = [], 0
        for c, size in enumerate(self.sizes):
            own = drawn[(drawn >= before) & (drawn < before + size)] - before
            before += size
            if len(own):
                block = self.block(c)
                parts.append(Block(block.rows[own], block.ids[own]))
        if not parts:
            return self.block(0).part(0, 0) if self.sizes else _empty(self._read)
        return Block(torch.cat([p.rows for p in parts]), torch.cat([p.ids for p in parts]))


def _empty(read: Callable[[int, int], Tensor]) -> Block:
    return Block(
        load(read(0, 0), "euclidean", 0).block.rows, torch.empty(0, dtype=torch.int64, device="cpu")
    )
