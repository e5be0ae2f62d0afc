"""What a call costs each rank, from rates of processors and links; nothing here is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tsloss_fast.distributed.cloud import (
    stride_of,
)
from tsloss_fast.distributed.tree import sample_size

from ..report import duration

_EDGE_BYTES = 24


@dataclass
class Rates:
    """Of one rank: seconds a point and coordinate to prepare (load) and to encode, seconds a pair
    and coordinate to filter, seconds an edge and level for Kruskal's algorithm."""

    load: float
    encode: float
    pair: float
    near: float
    edge: float


@dataclass
class Model:
    """What one rank does and sends for N points of D coordinates on P ranks."""

    points: int
    dim: int
    ranks: int
    item: int = 4

    @property
    def own(self) -> float:
        return self.points / self.ranks

    @property
    def sample(self) -> int:
        return sample_size(self.points)

    def ring_bytes(self) -> float:
        steps = self.ranks // 2
        return self.own * steps * (stride_of(self.dim) * self.item + 8)

    def tree_bytes(self) -> float:
        """At most, of rank 0, which sends the most: N new edges down each level, three times."""
        levels = math.ceil(math.log2(self.ranks)) if self.ranks > 1 else 0
        return 3 * levels * self.points * _EDGE_BYTES

    def work_seconds(self, rates: Rates) -> dict[str, float]:
        n, d, p = self.own, self.dim, self.ranks
        levels = math.ceil(math.log2(p)) if p > 1 else 0
        visitors = n * (p - 1) / 2 if p > 1 else 0
        encoded = 3 * n + visitors + self.sample
        return {
            "prepare": n * d * rates.load,
            "encode": encoded * d * rates.encode,
            "sample": n * self.sample * d * rates.near,
            "own pairs": n * n / 2 * d * rates.pair,
            "ring": n * n * (p - 1) / 2 * d * rates.pair,
            "Kruskal": 3 * (levels + 2) * self.points * 2 * rates.edge,
        }


@dataclass
class Device:
    """A device and its links, as stated by its maker, and what of it is reckoned with."""

    name: str
    pair: float  # multiply-adds a second
    ring: float  # bytes a second from one to the next
    tree: float  # bytes a second between hosts


# Datasheets: H100 SXM 66.9 TFLOP/s in float32 without tensor cores (33.5e12 multiply-adds a
# second), NVLink 900 GB/s both ways; NDR InfiniBand 400 Gb/s a device. Of each, the part named is
# assumed.
ASSUMED_PART = 0.5
H100 = Device("H100, float32", 33.5e12, 450e9, 50e9)


def modelled(points: int, dim: int, ranks: int, rates: Rates, device: Device | None) -> list[str]:
    model = Model(points, dim, ranks)
    if device is None:  # this machine's rate, and links that it does not have
        rate, links = rates, H100
    else:
        links = device
        pair = 1 / (device.pair * ASSUMED_PART)
        # What a device does point by point is bound by its memory: 3.35 TB/s (H100 SXM).
        touch = 4 * 4 / (3.35e12 * ASSUMED_PART)
        rate = Rates(touch, touch, pair, pair, rates.edge)
    work = model.work_seconds(rate)
    bandwidth = (links.ring if ranks <= 8 else links.tree) * ASSUMED_PART
    ring = model.ring_bytes() / bandwidth
    tree = model.tree_bytes() / (links.tree * ASSUMED_PART)
    computed = sum(work.values()) - work["Kruskal"]
    total = max(computed, ring) + work["Kruskal"] + tree
    return [
        str(ranks),
        size_text(model.ring_bytes()),
        size_text(model.tree_bytes()),
        _time(computed),
        _time(ring),
        _time(work["Kruskal"] + tree),
        _time(total),
    ]


def size_text(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else duration(seconds)
