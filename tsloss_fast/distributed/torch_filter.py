"""The filter of pairs in plain torch, for devices the native core does not reach.

Squared distances of a tile of points come from a matrix product in single precision, about the mean
of the tile's columns, with a bound on their error; in the order of the forest the points of a tile
are near each other, so that tight clusters keep their digits. Pairs that the forest might not rule
out get their exact key: the same sums in double, in the same order, as the native core's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .cloud import LANES, Block, Cloud, Edges, stride_of

_TILE = 2048
_PAIR_BYTES = 64 << 20  # of the rows whose exact keys are computed at once
_NEAR = 4


@dataclass
class _Placed:
    """A block in the order of the forest: positions (K,) in the order of all points, ascending."""

    rows: Tensor
    ids: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class TorchFilter:
    """See csrc/cpu/shards/shards.h. Blocks may lie on any device; ``device`` does the work."""

    def __init__(self, cloud: Cloud, robust: bool, device: torch.device) -> None:
        self._cloud, self._robust, self._device = cloud, robust, device
        self._pairs = max(_PAIR_BYTES // (stride_of(cloud.dim) * 8), 1)
        self._blocks: dict[int, _Placed] = {}
        self._position: Tensor | None = None
        self._lost = torch.zeros((), dtype=torch.bool, device=device)
        # Scaled by a power of two, so that squares stay in the range of single precision.
        largest = torch.tensor(
            cloud.largest if cloud.largest > 0 else 1.0, dtype=torch.float64, device="cpu"
        )
        exponent = 1 - torch.frexp(largest).exponent.long()
        self._exponent = exponent.clamp(-2044, 2044).to(device)

    @property
    def lost_digits(self) -> bool:
        return bool(self._lost)

    def set_forest(self, points: int, forest: Edges) -> None:
        order, rank = _merge_order(forest, points)
        self._blocks.clear()
        self._position = torch.empty_like(order)
        self._position[order] = torch.arange(points, device="cpu")
        self._position = self._position.to(self._device)
        self._rank = rank.to(self._device)  # by position
        self._keys, self._ends = forest.keys.to(self._device), forest.ends.to(self._device)

    def load(self, slot: int, block: Block) -> None:
        ids, rows = block.ids.to(self._device), block.rows.to(self._device)
        if self._position is None:
            position = torch.arange(len(ids), device=self._device)
        else:
            position = self._position[ids]
            order = position.argsort()
            ids, rows, position = ids[order], rows[order], position[order]
        self._blocks[slot] = _Placed(rows, ids, position)

    # ---- exact keys ----

    def _key(self, x: Tensor, y: Tensor) -> Tensor:
        """Of rows (M, stride), as `refine` and `robust_length` of the core have it: sixteen sums,
        added up in pairs."""
        d = x.double() - y.double()
        if self._cloud.metric == "manhattan":
            return _lane_sum(d.abs())
        if not self._robust:
            return _lane_sum(d.square())
        if self._cloud.dtype is torch.float32:
            return _sqrt(_lane_sum(d.square()))
        largest = d.abs().amax(1)
        scaled = torch.where(largest > 0, largest, torch.ones_like(largest))
        exponent = torch.frexp(scaled).exponent.long() - 1
        length = _sqrt(_lane_sum(_scale(d, -exponent[:, None]).square()))
        return torch.where(largest > 0, _scale(length, exponent), largest)

    def _edges(self, a: _Placed, b: _Placed, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and ends of the pairs of places p of a and q of b."""
        keys = []
        for i, j in zip(p.split(self._pairs), q.split(self._pairs), strict=True):
            x, y = a.rows[i], b.rows[j]
            key = self._key(x, y)
            keys.append(key)
            self._lost |= ((key == 0) & (x != y).any(1)).any()
        key = torch.cat(keys) if keys else torch.empty(0, dtype=torch.float64, device=self._device)
        i, j = a.ids[p], b.ids[q]
        return key, torch.stack([torch.minimum(i, j), torch.maximum(i, j)], 1)

    def edges(self, block: Block, a: Tensor, b: Tensor) -> Edges:
        placed = _Placed(block.rows.to(self._device), block.ids.to(self._device), block.ids)
        keys, ends = self._edges(placed, placed, a.to(self._device), b.to(self._device))
        return Edges(keys.cpu(), ends.cpu())

    # ---- approximate distances ----

    def _squares(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (or Manhattan ones) of scaled rows, and how far they may be above the
        true ones."""
        x, y = (_scale(t.double(), self._exponent) for t in (x, y))
        dim = x.shape[1]
        unit = torch.finfo(torch.float32).eps
        if self._cloud.metric == "manhattan":
            near = torch.cdist(x.float(), y.float(), p=1)
            # Rounding of the coordinates, which are below 2, and of the sum.
            return near, near * (dim * unit) + dim * 4 * unit
        centre = y.mean(0)
        x, y = (x - centre).float(), (y - centre).float()
        xx, yy = x.square().sum(1), y.square().sum(1)
        with _full_precision():
            near = xx[:, None] + yy - 2 * (x @ y.T)
        # |fl(x.y) - x.y| <= D u |x| |y| and so on, twice over; and the rounding of x and y
        # themselves.
        slack = (xx[:, None] + yy) * ((dim + 16) * 2 * unit)
        return near, slack + torch.finfo(torch.float32).tiny * dim

    def near(self, slot_a: int, slot_b: int) -> Edges:
        a, b = self._blocks[slot_a], self._blocks[slot_b]
        if len(a) == 0 or len(b) == 0:
            return Edges.none()
        found_p, found_q = [], []
        for i in range(0, len(a), _TILE):
            x, ids = a.rows[i : i + _TILE], a.ids[i : i + _TILE]
            near = torch.cat(
                [self._squares(x, b.rows[j : j + _TILE])[0] for j in range(0, len(b), _TILE)], 1
            )
            near = torch.nan_to_num(near, nan=torch.inf)
            near = near.masked_fill(ids[:, None] == b.ids, torch.inf)
            best = near.topk(min(_NEAR, len(b)), largest=False).indices
            found_p.append(
                torch.arange(i, i + len(x), device=x.device).repeat_interleave(best.shape[1])
            )
            found_q.append(best.flatten())
        p, q = torch.cat(found_p), torch.cat(found_q)
        other = a.ids[p] != b.ids[q]
        return self._forest(*self._edges(a, b, p[other], q[other]))

    def _forest(self, keys: Tensor, ends: Tensor) -> Edges:
        return Edges(keys.cpu(), ends.cpu()).forest(self._cloud.points)

    def between(self, slot_a: int, slot_b: int) -> Edges:
        a, b = self._blocks[slot_a], self._blocks[slot_b]
        found = [Edges.none()]
        for i in range(0, len(a), _TILE):
            for j in range(i if a is b else 0, len(b), _TILE):
                self._tile(a, b, i, j, found)
                if sum(map(len, found)) > 4 * (len(a) + len(b)) + 4096:
                    found = [Edges.join(found).forest(self._cloud.points)]
        return Edges.join(found).forest(self._cloud.points)

    def _tile(self, a: _Placed, b: _Placed, i: int, j: int, found: list[Edges]) -> None:
        p, q = a.position[i : i + _TILE], b.position[j : j + _TILE]
        rank = self._largest_ranks(p, q)
        keep = p[:, None] != q if a is not b else p[:, None] < q
        if not self._robust:
            near, slack = self._squares(a.rows[i : i + _TILE], b.rows[j : j + _TILE])
            bound = _scale(self._keys, self._exponent)
            if self._cloud.metric != "manhattan":
                bound = _scale(bound, self._exponent)
            bound = bound[rank] * (1 + 1e-6)
            # Not a number: not ruled out.
            keep &= ~(near.double() - slack.double() > bound)
        rows, columns = torch.nonzero(keep, as_tuple=True)
        for x, y in zip(rows.split(self._pairs), columns.split(self._pairs), strict=True):
            keys, ends = self._edges(a, b, x + i, y + j)
            limit = rank[x, y]
            less = _before(keys, ends, self._keys[limit], self._ends[limit])
            found.append(Edges(keys[less].cpu(), ends[less].cpu()))

    def _largest_ranks(self, p: Tensor, q: Tensor) -> Tensor:
        """(K, L): the rank of the longest edge of the forest between positions p (K,) and q (L,),
        both ascending; 0 where they are the same."""
        both = torch.cat([p, q]).unique()
        # The largest rank up to each of them, from the one before.
        index = torch.searchsorted(both, torch.arange(len(self._rank), device=p.device))
        between = self._rank.new_zeros(len(both) + 1)
        between = between.scatter_reduce(0, index, self._rank, "amax")[: len(both)]
        at_p, at_q = torch.searchsorted(both, p), torch.searchsorted(both, q)
        table = _range_maxima(between)
        low = torch.minimum(at_p[:, None], at_q) + 1
        high = torch.maximum(at_p[:, None], at_q)
        length = (high - low + 1).clamp(min=1)
        level = (torch.frexp(length.double()).exponent - 1).long()
        first = table[level, low.clamp(max=len(both) - 1)]
        second = table[level, (high - (1 << level) + 1).clamp(min=0)]
        return torch.where(high >= low, torch.maximum(first, second), 0)


def _range_maxima(x: Tensor) -> Tensor:
    """(levels, M): the largest of x[k : k + 2**level]."""
    rows = [x]
    while 2 ** len(rows) <= len(x):
        half = 2 ** (len(rows) - 1)
        shifted = torch.cat([rows[-1][half:], rows[-1].new_zeros(half)])
        rows.append(torch.maximum(rows[-1], shifted))
    return torch.stack(rows)


def _before(key: Tensor, ends: Tensor, key2: Tensor, ends2: Tensor) -> Tensor:
    """Whether edges come before others, by (key, smaller index, larger index)."""
    (i, j), (i2, j2) = ends.unbind(1), ends2.unbind(1)
    return (key < key2) | ((key == key2) & ((i < i2) | ((i == i2) & (j < j2))))


def _sqrt(x: Tensor) -> Tensor:
    """Rounded to the nearest number, which torch's is on CUDA devices alone."""
    return x.sqrt() if x.is_cuda else torch.from_numpy(np.sqrt(x.numpy()))


def _lane_sum(terms: Tensor) -> Tensor:
    """(M, stride) -> (M,): one addition after another, as the core adds."""
    lanes = terms.new_zeros((terms.shape[0], LANES))
    for part in terms.split(LANES, 1):
        lanes = lanes + part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _merge_order(forest: Edges, points: int) -> tuple[Tensor, Tensor]:
    """The points (N,) in the order in which single linkage lines them up, and by position the rank
    of the edge by which the one before is met; see csrc/cpu/tree/forest.h."""
    order = torch.empty(points, dtype=torch.int32, device="cpu")
    rank = torch.empty_like(order)
    _core.merge_order(forest.ends, order, rank)
    return order.long(), rank.long()


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent in double, exactly; from -1022 to 1023."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _scale(x: Tensor, exponent: Tensor) -> Tensor:
    """x * 2**exponent, exactly if it is in range."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    return x * _power_of_two(half) * _power_of_two(exponent - half)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TensorFloat-32, whose error the bound does not cover."""
    matmul: Any = torch.backends.cuda.matmul
    # Newer versions of torch refuse to read the older name once the newer one was written.
    name, full = (
        ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    )
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)
