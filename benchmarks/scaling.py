"""One cloud over many processes: measured on this machine, and modelled for more.

Run as ``python -m tsloss_fast.benchmarks.scaling``. Three parts:

- measured: processes over gloo on this machine's cores, one thread each;
- simulated: many ranks as threads of one process, whose messages are counted and whose processor
  times are taken one by one, beside what the model says of the same;
- modelled: a million points of 4,096 coordinates on 8, 64 and 512 devices, from a rate per device
  and stated bandwidths.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

import tsloss_fast
from tsloss_fast import _core
from tsloss_fast.distributed import h0_persistence
from tsloss_fast.distributed.cloud import (
    Block,
    Edges,
    MemoryShard,
    rows_of_block,
    stride_of,
)
from tsloss_fast.distributed.filters import NativeFilter
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve
from tsloss_fast.distributed.tree import Cloud, sample_size

from .machine import machine
from .measure import load_average
from .report import duration
from .simulated import run
from .suite import print_and_write

_DIM = 768
_EDGE_BYTES = 24
_WARM = 64


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

    def sample_bytes(self) -> float:
        row = stride_of(self.dim) * self.item + 8
        return self.sample * (self.ranks - 1) / self.ranks * row

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


def gaussian(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_rates(n: int, d: int, repeats: int) -> Rates:
    """One thread of this machine."""
    points = gaussian(n, d)
    halves = [gaussian(n, d, 1), gaussian(n, d, 2)]

    def seconds(work: Callable[[], object]) -> float:
        return median_seconds(work, repeats)

    load = seconds(lambda: MemoryShard(points, "euclidean", 0, n)) / (n * d)
    cloud = Cloud(2 * n, d, torch.float32, "euclidean", 6.0, False, [[n], [n]])
    blocks = []
    for k, half in enumerate(halves):
        loaded = MemoryShard(half, "euclidean", 0, n).block(0)
        blocks.append(Block(loaded.rows, loaded.ids + k * n))
    tree = _tree_of(torch.cat(halves))
    search = NativeFilter(cloud, False)
    search.set_forest(2 * n, tree)
    encode = seconds(lambda: search.load(0, blocks[0])) / (n * d)
    search.load(1, blocks[1])
    pair = seconds(lambda: search.between(0, 1)) / (n * n * d)
    near = seconds(lambda: search.near(0, 1)) / (n * n * d)
    twice = Edges.join([tree, tree])
    edge = seconds(lambda: twice.forest(2 * n)) / len(twice)
    return Rates(load, encode, pair, near, edge)


def _tree_of(points: torch.Tensor) -> Edges:
    h0 = tsloss_fast.h0_persistence(points)
    return Edges(h0.deaths.double() ** 2, h0.edges).forest(len(points))


def _one_rank(rank: int, size: int, port: int, n: int, d: int, repeats: int, path: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    points = gaussian(n, d)[n * rank // size : n * (rank + 1) // size].clone()
    h0_persistence(points[:_WARM])
    times = []
    for _ in range(repeats):
        torch.distributed.barrier()
        start = time.perf_counter()
        h0_persistence(points)
        times.append(time.perf_counter() - start)
    if rank == 0:
        Path(path).write_text(str(statistics.median(times)))
    torch.distributed.destroy_process_group()


def measure_processes(size: int, n: int, d: int, repeats: int, folder: Path) -> float:
    """Seconds of a call in `size` processes of one thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = folder / f"{size}.txt"
    mp.spawn(_one_rank, (size, port, n, d, repeats, str(path)), nprocs=size)  # type: ignore[no-untyped-call]
    return float(path.read_text())


def simulate(size: int, n: int, d: int) -> tuple[float, dict[str, int]]:
    """The mean processor seconds of a rank, and the bytes the busiest sender sent, by step."""
    points = gaussian(n, d)
    owners = Owners([n * r // size for r in range(size + 1)])
    rows = rows_of_block(max(owners.sizes), d, torch.float32, "euclidean", 64 << 20)

    def work(peers: Peers) -> Any:
        first, end = owners.range(peers.rank)

        def load() -> MemoryShard:
            return MemoryShard(points[first:end], "euclidean", first, rows)

        device = torch.device("cpu")
        return solve(load, owners, d, torch.float32, "euclidean", peers, device)

    _, traffic = run(size, work)
    busiest = max(traffic, key=lambda t: t.total)
    return statistics.mean(t.seconds for t in traffic), busiest.bytes


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
_ASSUMED_PART = 0.5
_H100 = Device("H100, float32", 33.5e12, 450e9, 50e9)


def _modelled(points: int, dim: int, ranks: int, rates: Rates, device: Device | None) -> list[str]:
    model = Model(points, dim, ranks)
    if device is None:  # this machine's rate, and links that it does not have
        rate, links = rates, _H100
    else:
        links = device
        pair = 1 / (device.pair * _ASSUMED_PART)
        # What a device does point by point is bound by its memory: 3.35 TB/s (H100 SXM).
        touch = 4 * 4 / (3.35e12 * _ASSUMED_PART)
        rate = Rates(touch, touch, pair, pair, rates.edge)
    work = model.work_seconds(rate)
    bandwidth = (links.ring if ranks <= 8 else links.tree) * _ASSUMED_PART
    ring = model.ring_bytes() / bandwidth
    tree = model.tree_bytes() / (links.tree * _ASSUMED_PART)
    computed = sum(work.values()) - work["Kruskal"]
    total = max(computed, ring) + work["Kruskal"] + tree
    return [
        str(ranks),
        _bytes(model.ring_bytes()),
        _bytes(model.tree_bytes()),
        _time(computed),
        _time(ring),
        _time(work["Kruskal"] + tree),
        _time(total),
    ]


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else duration(seconds)


def _table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _lines(options: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(1)
    n, d = options.points, _DIM
    load = load_average()
    yield "# One cloud over many processes\n"
    yield (
        f"`python -m tsloss_fast.benchmarks.scaling`: {machine()['processor']}, "
        f"{_core.isa()}, torch {torch.__version__}, load {load:.2f} before. Gaussian "
        f"points, float32, blocks of 64 MB, one thread a process; medians of {options.repeats}.\n"
    )
    yield "## Measured\n"
    whole = gaussian(n, d)
    alone = median_seconds(lambda: tsloss_fast.h0_persistence(whole), options.repeats)
    rows = [["`tsloss_fast.h0_persistence`", "1", duration(alone), "1.00"]]
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            seconds = measure_processes(size, n, d, options.repeats, Path(folder))
            rows.append(
                [
                    "`distributed.h0_persistence`",
                    str(size),
                    duration(seconds),
                    f"{alone / seconds:.2f}",
                ]
            )
    yield f"{n:,} points of {d} coordinates, over gloo on this machine's cores.\n"
    yield from _table(["call", "processes", "time", "speed beside one process alone"], rows)

    yield "## Simulated\n"
    yield (
        "Ranks as threads of one process: the bytes that the busiest sender sent in the ring are "
        "counted, the processor time is that of the mean rank. The model has the rates of one "
        "thread, measured just before: "
    )
    rates = measure_rates(options.block, d, options.repeats)
    yield (
        f"{1e-9 / rates.pair:.0f} G multiply-adds a second in the filter (what is kept and "
        f"gets its exact key included), {1e-9 / rates.near:.0f} G for the sample, "
        f"{1e9 * rates.encode:.2f} ns a coordinate to encode, {1e9 * rates.load:.2f} ns to "
        "prepare, "
        f"{1e9 * rates.edge:.0f} ns an edge in Kruskal's algorithm.\n"
    )
    rows = []
    for size in options.ranks:
        mean, sent = simulate(size, options.simulated, d)
        model = Model(options.simulated, d, size)
        expected = sum(model.work_seconds(rates).values())
        counted = sent.get("ring", 0)
        rows.append(
            [
                str(size),
                duration(mean),
                duration(expected),
                f"{mean / expected:.2f}",
                _bytes(counted),
                _bytes(model.ring_bytes()),
                _bytes(sum(sent.values()) - counted),
            ]
        )
    yield f"{options.simulated:,} points of {d} coordinates.\n"
    header = [
        "ranks",
        "work of a rank",
        "model",
        "ratio",
        "ring, counted",
        "ring, model",
        "all else, counted",
    ]
    yield from _table(header, rows)

    yield "## Modelled\n"
    points, dim = 10**6, 4096
    header = [
        "ranks",
        "sent in the ring",
        "sent in the trees, at most",
        "work",
        "ring",
        "Kruskal and trees",
        "time",
    ]
    part = f"{100 * _ASSUMED_PART:.0f} %"
    yield f"{points:,} points of {dim:,} coordinates, one call. Time: the longer of work and ring,"
    yield "which run side by side, and what comes after. Nothing here was run.\n"
    yield (
        f"With the float32 rate of an {_H100.name.split(',')[0]} ({_H100.pair:.2e} multiply-adds a "
        f"second), of which {part} is assumed, and {part} of NVLink (450 GB/s one way, to 8 ranks) "
        "or of 400 Gb/s a device; Kruskal's algorithm on the host:\n"
    )
    yield from _table(header, [_modelled(points, dim, p, rates, _H100) for p in (8, 64, 512)])
    yield "With one thread of this machine's processor a rank, and the same links:\n"
    yield from _table(header, [_modelled(points, dim, p, rates, None) for p in (8, 64, 512)])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.scaling",
        description="Measure one cloud over several processes, and model it for more.",
    )
    parser.add_argument("--points", type=int, default=16384, help="of the measured cloud (16384)")
    parser.add_argument("--simulated", type=int, default=12288, help="of the simulated (12288)")
    parser.add_argument("--block", type=int, default=4096, help="points a side for rates (4096)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="simulated")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (3)")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    options = parser.parse_args(argv)
    if min(options.points, options.simulated, options.block, options.repeats, *options.ranks) < 1:
        parser.error("expected numbers above 0")
    print_and_write(parser, _lines(options), options.output, "scaling.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
