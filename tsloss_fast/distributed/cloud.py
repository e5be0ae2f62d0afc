"""The points of one process, as the search for the tree wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import _core
from .._batch import METRICS

LANES = 16
_BLOCK_MULTIPLE = 48  # of the core's tiles
_BLOCKS = 8
_LEAST_BLOCK = 1024


@dataclass
class Cloud:
    """What all processes know of the cloud."""

    points: int
    dim: int
    dtype: torch.dtype  # of the rows
    metric: str
    largest: float
    lattice: bool
    sizes: list[list[int]]  # different points of each block of each process

    @property
    def code(self) -> int:
        """The type of the rows, as csrc/tsloss.h has it."""
        return 1 if self.dtype is torch.float64 else 0

    @property
    def counts(self) -> list[int]:
        return [sum(blocks) for blocks in self.sizes]


@dataclass
class Edges:
    """Keys (M,) float64 and edges (M, 2) int64, on the CPU."""

    keys: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def none() -> Edges:
        return empty_edges(0)

    @staticmethod
    def join(parts: list[Edges]) -> Edges:
        return Edges(torch.cat([p.keys for p in parts]), torch.cat([p.ends for p in parts]))

    def forest(self, points: int) -> Edges:
        """The minimum spanning forest of these edges, ascending."""
        keys, ends = self.keys.clone(), self.ends.clone()
        count = _core.spanning_forest(points, keys, ends)
        return Edges(keys[:count].clone(), ends[:count].clone())

    def without(self, other: Edges, points: int) -> Edges:
        """Those that do not stand in `other`."""
        return self._where(~torch.isin(self._codes(points), other._codes(points)))

    def _codes(self, points: int) -> Tensor:
        return self.ends[:, 0] * points + self.ends[:, 1]

    def _where(self, mask: Tensor) -> Edges:
        return Edges(self.keys[mask], self.ends[mask])


def empty_edges(count: int) -> Edges:
    """Memory for that many edges, to be written by the core: always on the CPU."""
    return Edges(
        torch.empty(count, dtype=torch.float64, device="cpu"),
        torch.empty((count, 2), dtype=torch.int64, device="cpu"),
    )


@dataclass
class Block:
    """Different points of a cloud: rows (K, stride), padded with zeros, and their numbers (K,)."""

    rows: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int) -> Block:
        return Block(self.rows[begin:end], self.ids[begin:end])

    def to(self, device: torch.device) -> Block:
        return Block(self.rows.to(device), self.ids.to(device))


def stride_of(dim: int) -> int:
    return (max(dim, 1) + LANES - 1) // LANES * LANES


def empty_block(count: int, dim: int, dtype: torch.dtype) -> Block:
    """Memory for that many points, to be written by the core: always on the CPU."""
    return Block(
        torch.empty((count, stride_of(dim)), dtype=dtype, device="cpu"),
        torch.empty(count, dtype=torch.int64, device="cpu"),
    )


def row_dtype(dtype: torch.dtype, metric: str) -> torch.dtype:
    """What rows are computed in: unit vectors would lose half the digits in single precision."""
    return torch.float64 if metric == "cosine" else dtype


def rows_of_block(most: int, dim: int, dtype: torch.dtype, metric: str, block_bytes: int) -> int:
    """How many points a block has, if no process has more than `most`: several blocks, where a pair
    of processes shares the work on their points and the forest improves between them."""
    fit = max(block_bytes // (stride_of(dim) * row_dtype(dtype, metric).itemsize), 1)
    few = max(-(-most // _BLOCKS), min(-(-most // 2), _LEAST_BLOCK), 1)
    return -(-min(fit, few) // _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE


@dataclass
class Loaded:
    """Points as the search wants them.

    ``block`` has the different ones, ``joined`` the copies: edges of length 0 to the first of each.
    ``problem`` and ``bad``: what is wrong, as the core says it, and with which point; 0 if nothing.
    """

    block: Block
    joined: Edges
    problem: int
    bad: int
    largest: float
    lattice: bool


def load(points: Tensor, metric: str, first: int) -> Loaded:
    """Points (n, D) on the CPU, whose numbers in the cloud begin with `first`."""
    points = points.contiguous()
    n, dim = points.shape
    block = empty_block(n, dim, row_dtype(points.dtype, metric))
    joined = torch.empty((max(n - 1, 0), 2), dtype=torch.int64, device="cpu")
    problem, bad, count, largest, lattice = _core.load_shard(
        METRICS[metric], points, block.rows, block.ids, joined, torch.get_num_threads()
    )
    ends = joined[: n - count] + first
    return Loaded(
        Block(block.rows[:count], block.ids[:count] + first),
        Edges(torch.zeros(len(ends), dtype=torch.float64, device="cpu"), ends),
        problem,
        bad + first,
        largest,
        lattice,
    )


class Shard(Protocol):
    """The points of one process, in blocks."""

    resident: bool  # in memory, where blocks may stay
    sizes: list[int]  # different points of each block
    joined: Edges
    problem: int
    bad: int
    largest: float
    lattice: bool

    def block(self, c: int) -> Block: ...

    def sample(self, count: int, seed: int) -> Block:
        """Some of the points, the same for the same seed."""
        ...


class MemoryShard:
    """Points (n, D) in memory, of which it keeps a copy."""

    resident = True

    def __init__(self, points: Tensor, metric: str, first: int, rows: int) -> None:
        loaded = load(points, metric, first)
        self._block, self._rows = loaded.block, rows
        self.joined, self.problem, self.bad = loaded.joined, loaded.problem, loaded.bad
        self.largest, self.lattice = loaded.largest, loaded.lattice
        count = len(loaded.block)
        self.sizes = [min(rows, count - at) for at in range(0, count, rows)]

    def block(self, c: int) -> Block:
        return self._block.part(c * self._rows, (c + 1) * self._rows)

    def sample(self, count: int, seed: int) -> Block:
        drawn = draw(len(self._block), count, seed)
        return Block(self._block.rows[drawn], self._block.ids[drawn])


def draw(size: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(size, generator=generator, device="cpu")[:count].sort()[0]
