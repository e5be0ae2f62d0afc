"""One cloud in real processes, and in simulated ranks whose messages are counted."""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

import tsloss_fast
from tsloss_fast.distributed import h0_persistence
from tsloss_fast.distributed.cloud import (
    Block,
    Cloud,
    Edges,
    MemoryShard,
    rows_of_block,
)
from tsloss_fast.distributed.filters import NativeFilter
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve

from ..simulated import run
from .model import Rates

_WARM = 64


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
