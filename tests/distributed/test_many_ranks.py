"""More ranks than there are processes here: as threads that hand each other messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import clusters, copies, gaussian, grid, rng
from tsloss_fast.benchmarks import ragged
from tsloss_fast.benchmarks.scaling.__main__ import main
from tsloss_fast.benchmarks.scaling.measure import simulate
from tsloss_fast.benchmarks.scaling.model import Model
from tsloss_fast.benchmarks.simulated import run

import tsloss_fast
from tsloss_fast.distributed.cloud import MemoryShard
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve

CLOUDS = {
    "gaussian": gaussian(700, 20),
    "high dimension": gaussian(400, 200),
    "clusters": clusters(4, 500, 60, seed=3, width=1e-3).astype(np.float32),
    "grid": grid(8, 3, seed=2).astype(np.float32),
    "copies": copies(60, 8, 10),
    "few": gaussian(5, 3),
}


def on_ranks(points: np.ndarray, starts: list[int], metric: str, rows: int) -> list[Any]:
    x, owners = torch.from_numpy(points), Owners(starts)

    def work(peers: Peers) -> Any:
        first, end = owners.range(peers.rank)

        def load() -> MemoryShard:
            return MemoryShard(x[first:end], metric, first, rows)

        return solve(load, owners, x.shape[1], x.dtype, metric, peers, torch.device("cpu"))

    return run(len(starts) - 1, work)[0]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 8, 13, 16])
@pytest.mark.parametrize("name", CLOUDS)
def test_every_rank_has_the_tree_of_one_process(name: str, size: int) -> None:
    points = CLOUDS[name]
    n = len(points)
    inner = rng(size).integers(0, n + 1, size - 1)
    for starts in ([n * r // size for r in range(size + 1)], [0, *sorted(inner.tolist()), n]):
        for metric in ("euclidean", "manhattan"):
            expected = tsloss_fast.h0_persistence(torch.from_numpy(points), metric)
            for deaths, edges in on_ranks(points, starts, metric, 48):
                assert torch.equal(deaths, expected.deaths)
                assert torch.equal(edges, expected.edges)


def test_the_model_counts_the_bytes_of_the_ring() -> None:
    n, d = 2400, 32
    for size in (2, 3, 4, 8):
        _, sent = simulate(size, n, d)
        assert sent["ring"] == pytest.approx(Model(n, d, size).ring_bytes(), rel=0.01)
        merged = sum(count for step, count in sent.items() if "merge" in step)
        assert merged <= Model(n, d, size).tree_bytes() + 1000


@pytest.mark.slow
def test_the_tables_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--points", "400", "--simulated", "400", "--block", "256", "--ranks", "1", "2"]
    out = tmp_path / "scaling.md"
    assert main([*small, "--repeats", "1", "--output", str(out)]) == 0
    page = out.read_text()
    for part in ("Measured", "Simulated", "Modelled", "| 512 |"):
        assert part in page
    assert page.strip() == capsys.readouterr().out.strip()
    assert ragged.main(["--quick", "--repeats", "1", "--threads", "1"]) == 0
    assert "16 × (2 to 64) × 32" in capsys.readouterr().out
