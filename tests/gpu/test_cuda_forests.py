"""The kernels of large clouds on the host executor: forests that grow together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FAMILIES, gaussian, grid
from cuda_checks import ALL_TYPES, SCHEDULES, on_cpu, same, some
from cuda_host import HostKernels
from native_builds import HAVE_SOURCES

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


FOREST = {"stored": {"small": 2}, "computed": {"small": 2, "stored": 0}}


@pytest.mark.parametrize("keys", FOREST)
@pytest.mark.parametrize("family", FAMILIES)
def test_forests_have_the_bars_of_the_cpu_core(
    kernels: HostKernels, family: str, keys: str
) -> None:
    count = 0
    for dtype in (np.float32, np.float64):
        for cloud in some(family, dtype, 3):
            if not 2 <= len(cloud.points) <= 140 or cloud.points.size > 4000:
                continue
            points = torch.from_numpy(cloud.points)[None]
            for metric in ("euclidean", "manhattan", "cosine"):
                got = kernels.forward(points, metric, **FOREST[keys])
                expected = on_cpu(points, metric)
                assert same(got.deaths, expected.deaths), f"{cloud.name}, {metric}"
                if got.findings[0, 0] == 0:
                    assert torch.equal(got.edges, expected.edges), f"{cloud.name}, {metric}"
            count += 1
    assert count >= 1


@pytest.mark.parametrize("keys", FOREST)
@pytest.mark.parametrize("n", [2, 3, 63, 64, 65, 257])
def test_forests_of_padded_batches_and_bad_clouds(kernels: HostKernels, n: int, keys: str) -> None:
    for dtype in ALL_TYPES:
        points = torch.from_numpy(gaussian(5 * n, 3, seed=n).reshape(5, n, 3)).to(dtype)
        lengths = [n, 0, 1, n - 1, n]
        points[3, n - 1] = torch.nan
        points[4, n // 2, 1] = torch.inf
        got = kernels.forward(points, "euclidean", lengths, **FOREST[keys])
        expected = on_cpu(points, "euclidean", lengths)
        assert same(got.deaths, expected.deaths)
        assert torch.equal(got.edges[:4], expected.edges[:4])
        assert got.findings.tolist() == [[0, -1, -1]] * 4 + [[1, n // 2, -1]]
        if dtype is torch.float64:
            break
    over = torch.zeros(1, n, 2)
    over[0, -1] = 3e38
    got = kernels.forward(over, **FOREST[keys])
    assert got.findings[0].tolist() == [3, 0, n - 1]
    assert got.deaths[0, -1] == torch.inf


@pytest.mark.parametrize("stored", [0, 8192])
def test_clouds_above_the_largest_of_one_block(kernels: HostKernels, stored: int) -> None:
    for points in (gaussian(513, 2), grid(23, 2, seed=1)):
        cloud = torch.from_numpy(points)[None]
        got = kernels.forward(cloud, stored=stored)
        expected = on_cpu(cloud, "euclidean")
        assert torch.equal(got.deaths, expected.deaths)
        assert torch.equal(got.edges, expected.edges)


@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
def test_no_schedule_changes_a_forest(kernels: HostKernels, order: str, seed: int) -> None:
    tied = torch.from_numpy(grid(9, 2, seed=1).astype(np.float32))
    points = torch.stack([tied, torch.from_numpy(gaussian(81, 2))])
    for keys, fill in (("stored", 0), ("computed", 255)):
        kernels.set_options(order, seed, preempt=50, resident=3, fill=fill)
        got = kernels.forward(points, **FOREST[keys])
        assert torch.equal(got.edges, on_cpu(points, "euclidean").edges)


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_warp_looks_at_a_point_with_few_atomics(
    kernels: HostKernels, metric: str, dtype: torch.dtype
) -> None:
    """All lanes of a warp have the same address: they join what they have found first."""
    points = torch.from_numpy(gaussian(64, 96, seed=3)).to(dtype)
    before = kernels.atomics()
    kernels.forward(points[None], metric, **FOREST["stored"])
    # The forest itself takes about five for a point.
    assert 64 <= kernels.atomics() - before <= 10 * 64
