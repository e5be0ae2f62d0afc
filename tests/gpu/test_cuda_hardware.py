"""The CUDA operators: what only hardware can tell."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cuda_checks import ALL_TYPES, HAVE_DEVICE
from cuda_host import METRICS

from tsloss_fast import (
    TSLoss,
    _ops_cuda,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAVE_DEVICE, reason="needs a CUDA device and a build with CUDA kernels"),
]


def test_no_call_waits_for_the_device() -> None:
    x = torch.randn(3, 50, 8, device="cuda", requires_grad=True)
    loss = TSLoss().cuda()
    loss(x).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loss(x).backward()
            h0_persistence(x.detach().bfloat16())
            h0_persistence(torch.zeros(600, 3, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_coincident_clouds_are_looked_for_by_the_first_call_alone() -> None:
    x = torch.zeros(2, 5, 3, device="cuda")
    with pytest.warns(UserWarning, match="coincide in 2 of 2"):
        TSLoss().cuda()(x)
    loss = TSLoss().cuda()
    loss(torch.randn(2, 5, 3, device="cuda"))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "shape", [(300, 20, 64), (3, 100, 400), (3, 200, 40), (1, 700, 16), (1, 9000, 3)]
)
def test_graphs_replay_to_the_last_bit(shape: tuple[int, ...]) -> None:
    static = torch.randn(shape, device="cuda", requires_grad=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            torch.autograd.grad(h0_persistence(static).deaths.sum(), static)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        deaths, edges = h0_persistence(static)
        (grad,) = torch.autograd.grad(deaths.sum(), static)
    for seed in range(3):
        torch.manual_seed(seed)
        fresh = torch.randn(shape, device="cuda", requires_grad=True)
        with torch.no_grad():
            static.copy_(fresh)
        graph.replay()
        wanted = h0_persistence(fresh)
        assert torch.equal(deaths, wanted.deaths)
        assert torch.equal(edges, wanted.edges)
        assert torch.equal(grad, torch.autograd.grad(wanted.deaths.sum(), fresh)[0])


def test_streams_do_not_meet() -> None:
    clouds = [torch.randn(4, 90, 30, device="cuda") for _ in range(4)]
    wanted = [h0_persistence(c).edges for c in clouds]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in clouds]
    for _ in range(20):
        got = []
        for cloud, stream in zip(clouds, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(h0_persistence(cloud).edges)
        torch.cuda.synchronize()
        for g, w in zip(got, wanted, strict=True):
            assert torch.equal(g, w)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_the_device_of_the_points_computes() -> None:
    x = torch.randn(3, 40, 8)
    for index in range(torch.cuda.device_count()):
        got = h0_persistence(x.to(f"cuda:{index}"))
        assert got.deaths.device.index == index
        assert torch.equal(got.edges.cpu(), h0_persistence(x).edges)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize(
    "n", [2, 5, 20, 44, 45, 65, 99, 100, 101, 129, 224, 225, 330, 512, 513, 1000, 2049]
)
@pytest.mark.parametrize("dim", [1, 3, 31, 33, 128, 129, 777])
def test_sizes_around_every_edge_on_the_device(n: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(n * dim)
    for dtype in ALL_TYPES if n <= 513 else ALL_TYPES[:2]:
        x = torch.randn(2, n, dim, generator=generator).to(dtype)
        got = h0_persistence(x.cuda())
        wanted = h0_persistence(x)
        assert torch.equal(got.edges.cpu(), wanted.edges)
        assert torch.equal(got.deaths.cpu(), wanted.deaths)


def test_random_clouds_on_the_device() -> None:
    """10,000 clouds of many kinds, edge for edge."""
    generator = torch.Generator().manual_seed(5)
    for k in range(100):
        n = int(torch.randint(2, 140, (), generator=generator))
        dim = int(torch.randint(1, 70, (), generator=generator))
        x = torch.randn(100, n, dim, generator=generator)
        x = (x, x.round(), x * 1e-20 + 1e3, (4 * x).round() / 4)[k % 4]
        metric = list(METRICS)[k // 4 % 4]
        lengths = torch.randint(0, n + 1, (100,), generator=generator)
        got = h0_persistence(x.cuda(), metric, lengths.cuda())
        wanted = h0_persistence(x, metric, lengths, check_finite=False)
        assert torch.equal(got.deaths.cpu().nan_to_num(-1), wanted.deaths.nan_to_num(-1)), (k, n)
        fine = ~wanted.deaths.isnan().any(1)
        assert torch.equal(got.edges.cpu()[fine], wanted.edges[fine]), (k, n, dim, metric)


@pytest.fixture(params=[0, 255])
def poison(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Fill all memory that the operators ask for: workspaces with one byte, results with NaN or
    the largest integer. The list gets the size of each workspace."""
    workspace, sizes = _ops_cuda._workspace, []

    def poisoned(*arguments: Any) -> torch.Tensor:
        memory = workspace(*arguments).fill_(request.param)
        sizes.append(memory.numel())
        return memory

    monkeypatch.setattr(_ops_cuda, "_workspace", poisoned)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield sizes
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", [(8, 20, 33), (8, 100, 33), (2, 300, 9), (1, 1500, 5)])
def test_junk_in_memory_changes_nothing(poison: list[int], shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for dtype in ALL_TYPES:
        on_cpu, on_device = (t.to(dtype).detach().requires_grad_() for t in (x, x.cuda()))
        wanted, got = h0_persistence(on_cpu), h0_persistence(on_device)
        assert torch.equal(got.edges.cpu(), wanted.edges)
        assert torch.equal(got.deaths.cpu(), wanted.deaths)
        (grad,) = torch.autograd.grad(got.deaths.sum(), on_device)
        (wanted_grad,) = torch.autograd.grad(wanted.deaths.sum(), on_cpu)
        tolerance = 32 * torch.finfo(dtype).eps * wanted_grad.abs().max().item()
        assert torch.allclose(grad.cpu(), wanted_grad, rtol=0, atol=tolerance)
        d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        got_of_matrix = h0_persistence_from_distances(d.cuda())
        assert torch.equal(got_of_matrix.edges.cpu(), h0_persistence_from_distances(d).edges)
    assert len(poison) == 3 * len(ALL_TYPES)


# Points whose trees both take more shared memory than the 48 KiB that a kernel has without asking
# for more: 53,680 bytes, and 204,160.
SMALL_TREE, LARGE_TREE = 110, 220


def test_two_threads_with_different_shared_memory_do_not_disturb_each_other() -> None:
    clouds = [torch.randn(n, 5, device="cuda") for n in (SMALL_TREE, LARGE_TREE)]
    wanted = [h0_persistence(x.cpu()).edges for x in clouds]
    with ThreadPoolExecutor(2) as pool:

        def compute(k: int) -> list[torch.Tensor]:
            with torch.cuda.stream(torch.cuda.Stream()):
                got = [h0_persistence(clouds[k]).edges for _ in range(200)]
                torch.cuda.current_stream().synchronize()
            return got

        torch.cuda.synchronize()
        for k, got in enumerate(pool.map(compute, range(2))):
            assert all(torch.equal(edges.cpu(), wanted[k]) for edges in got)


def test_one_graph_holds_a_large_and_then_a_small_cloud() -> None:
    clouds = [torch.randn(n, 5, device="cuda") for n in (LARGE_TREE, SMALL_TREE)]
    wanted = [h0_persistence(x.cpu()) for x in clouds]
    for x in clouds:
        h0_persistence(x)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = [h0_persistence(x) for x in clouds]
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        for g, w in zip(got, wanted, strict=True):
            assert torch.equal(g.edges.cpu(), w.edges)
            assert torch.equal(g.deaths.cpu(), w.deaths)


def test_large_clouds_on_the_device() -> None:
    for n, dim in ((8192, 16), (8193, 16), (65_536, 2)):
        x = torch.randn(n, dim, generator=torch.Generator().manual_seed(n))
        got, wanted = h0_persistence(x.cuda()), h0_persistence(x)
        assert torch.equal(got.edges.cpu(), wanted.edges)
        assert torch.equal(got.deaths.cpu(), wanted.deaths)


@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_clouds_of_different_sizes_on_the_device(dtype: torch.dtype) -> None:
    sizes = [3, 0, 700, 1, 45, 2, 100, 2049, 101, 1]
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(sum(sizes), 24, generator=generator).to(dtype).requires_grad_()
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    on_device = x.detach().cuda().requires_grad_()
    got, wanted = h0_persistence_varlen(on_device, offsets), h0_persistence_varlen(x, offsets)
    assert torch.equal(got.deaths.cpu(), wanted.deaths)
    assert torch.equal(got.edges.cpu(), wanted.edges)
    assert torch.equal(got.offsets.cpu(), wanted.offsets)
    got.deaths.sum().backward()
    wanted.deaths.sum().backward()
    assert on_device.grad is not None
    assert x.grad is not None
    scale = x.grad.abs().max().item()
    tolerance = 32 * torch.finfo(dtype).eps * scale
    assert torch.allclose(on_device.grad.cpu(), x.grad, rtol=0, atol=tolerance)
