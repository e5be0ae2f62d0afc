"""The CUDA kernels on the host executor: against the CPU core edge for edge, and against SciPy."""

from __future__ import annotations

import threading

import numpy as np
import oracles
import pytest
import torch
from clouds import FAMILIES, clusters, copies, gaussian, grid, star
from cuda_checks import ALL_TYPES, HALVES, SCHEDULES, on_cpu, same, some
from cuda_host import METRICS, HostKernels, Outcome
from native_builds import HAVE_SOURCES

from tsloss_fast import _ops

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


def check(
    kernels: HostKernels, points: torch.Tensor, metric: str, what: str = "", fused: int = 100
) -> Outcome:
    """One batch, forward and backward, against the CPU core."""
    got = kernels.forward(points, metric, fused=fused)
    expected = on_cpu(points, metric)
    good = got.findings[:, 0] == 0
    assert same(got.deaths, expected.deaths), what
    assert torch.equal(got.edges[good], expected.edges[good]), what
    g = torch.randn(got.deaths.shape, generator=torch.Generator().manual_seed(0)).to(
        got.deaths.dtype
    )
    gradient = kernels.backward(g, points, got.deaths, got.edges, metric)
    if fused == 0:  # the same edges of a vertex, in the same order
        listed = kernels.backward(g, points, got.deaths, got.edges, metric, small=0)
        assert same(listed, gradient), what
    wide = points.to(got.deaths.dtype)
    wanted = _ops.h0_backward(g, wide, got.deaths, got.edges, None, metric)
    if points.numel() == 0:
        assert gradient.shape == points.shape
        return got
    eps = torch.finfo(points.dtype).eps
    size = wanted.abs().nan_to_num().amax((1, 2), keepdim=True).clamp_min(1e-300).double()
    gap = (gradient.double() - wanted.to(points.dtype).double()).abs()
    # Infinite or NaN in both, or close.
    close = (gap <= 32 * eps * size) | (gradient.double() == wanted.to(points.dtype).double())
    # Beyond the largest number, NaN or infinity is a matter of the order of a sum.
    close |= ~gradient.isfinite() & ~wanted.isfinite()
    assert bool(close[good].all()), what
    return got


# Small clouds that are read once by the block of their tree, or whose keys other blocks store.
either_way = pytest.mark.parametrize("fused", [100, 0])


@either_way
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_catalogue_has_the_bars_of_the_cpu_core(
    kernels: HostKernels, family: str, dtype: type, fused: int
) -> None:
    count = 0
    for cloud in some(family, dtype, 14):
        points = torch.from_numpy(cloud.points)[None]
        for metric in ("euclidean", "manhattan", "sqeuclidean", "cosine"):
            if metric in ("sqeuclidean", "cosine") and count % 4:
                continue
            check(kernels, points, metric, f"{cloud.name}, {metric}", fused)
        count += 1
    assert count >= 6


@either_way
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("metric", METRICS)
def test_half_types_have_the_bars_of_their_float32_values(
    kernels: HostKernels, metric: str, dtype: torch.dtype, fused: int
) -> None:
    for n, d in ((2, 3), (9, 1), (9, 264), (33, 40), (65, 17)):
        points = torch.from_numpy(gaussian(n, d)).to(dtype)
        got = check(kernels, points[None], metric, f"{n}x{d}", fused)
        assert got.deaths.dtype is torch.float32
    integers = torch.from_numpy(grid(5, 2, seed=1) + 1).to(dtype)
    check(kernels, integers[None], metric, "grid", fused)


@either_way
@pytest.mark.parametrize("n", [0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("dim", [0, 1, 31, 32, 33])
def test_sizes_around_every_edge(kernels: HostKernels, n: int, dim: int, fused: int) -> None:
    points = torch.from_numpy(gaussian(2 * n, dim).reshape(2, n, dim))
    check(kernels, points, "euclidean", fused=fused)


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("n", [*range(2, 26), 36, 37, 40, 41, 44, 45, 64, 99, 100, 101])
def test_clouds_that_are_read_once(kernels: HostKernels, n: int, dtype: torch.dtype) -> None:
    """Every way to share the pairs and coordinates of a small cloud among threads."""
    for dim, processors in ((4, 1), (48, 1), (136, 1), (7, 1), (77, 40)):
        points = torch.from_numpy(gaussian(2 * n, dim, seed=n).reshape(2, n, dim)).to(dtype)
        lengths = [n, max(n - 3, 1)]
        got = kernels.forward(points, lengths=lengths, processors=processors)
        expected = on_cpu(points, "euclidean", lengths)
        assert torch.equal(got.deaths, expected.deaths)
        assert torch.equal(got.edges, expected.edges)


@pytest.mark.parametrize("processors", [1, 40])
def test_points_need_not_begin_at_a_multiple_of_16_bytes(
    kernels: HostKernels, processors: int
) -> None:
    for dtype in ALL_TYPES:
        for shift in (1, 2):
            memory = torch.from_numpy(gaussian(1, 9 * 144 + 2, seed=1))[0].to(dtype)
            points = memory[shift:][: 9 * 144].view(1, 9, 144)
            got = kernels.forward(points, processors=processors)
            assert torch.equal(got.edges, on_cpu(points, "euclidean").edges)


@pytest.mark.parametrize("processors", [1, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_whose_squares_leave_the_range_are_scaled(
    kernels: HostKernels, dtype: torch.dtype, processors: int
) -> None:
    points = torch.from_numpy(gaussian(20, 70, seed=1))[None].to(dtype)
    for power in (-120, -60, 30, 60, 115) if dtype is torch.float32 else (-900, -300, 300, 900):
        scaled = points * 2.0**power
        got = kernels.forward(scaled, processors=processors)
        assert torch.equal(got.edges, on_cpu(points, "euclidean").edges)
        assert torch.equal(got.deaths, on_cpu(scaled, "euclidean").deaths)


@either_way
@pytest.mark.parametrize("dim", [127, 128, 129, 255, 256, 257, 600])
@pytest.mark.parametrize("processors", [1, 4, 200])
def test_the_coordinates_are_cut_for_the_device(
    kernels: HostKernels, dim: int, processors: int, fused: int
) -> None:
    points = torch.from_numpy(gaussian(20, dim, seed=4))[None]
    for metric in METRICS:
        got = kernels.forward(points, metric, processors=processors, fused=fused)
        assert same(got.deaths, on_cpu(points, metric).deaths)
        assert torch.equal(got.edges, on_cpu(points, metric).edges)


def test_sums_of_many_slices_are_added_by_a_kernel_of_their_own(kernels: HostKernels) -> None:
    points = torch.from_numpy(gaussian(66, 1100, seed=4))[None]
    points = torch.cat([points, points.flip(1)])
    got = kernels.forward(points, lengths=[66, 50], processors=80)
    expected = on_cpu(points, "euclidean", [66, 50])
    assert torch.equal(got.deaths, expected.deaths)
    assert torch.equal(got.edges, expected.edges)


def test_distances_that_shared_memory_cannot_hold_stay_where_they_are(
    kernels: HostKernels,
) -> None:
    points = torch.from_numpy(gaussian(60, 5))[None]
    runs = [kernels.forward(points, shared=shared, fused=0) for shared in (4000, 100_000)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


@either_way
@pytest.mark.parametrize("metric", METRICS)
def test_padding_is_never_looked_at(kernels: HostKernels, metric: str, fused: int) -> None:
    lengths = [0, 1, 2, 17, 40]
    points = torch.from_numpy(gaussian(200, 6, seed=2).reshape(5, 40, 6))
    for cloud, valid in enumerate(lengths):
        points[cloud, valid:] = torch.nan
    got = kernels.forward(points, metric, lengths, fused=fused)
    expected = on_cpu(points, metric, lengths)
    assert same(got.deaths, expected.deaths)
    assert torch.equal(got.edges, expected.edges)
    assert (got.findings[:, 0] == 0).all()
    gradient = kernels.backward(torch.ones_like(got.deaths), points, got.deaths, got.edges, metric)
    for cloud, valid in enumerate(lengths):
        assert (gradient[cloud, valid:] == 0).all()
        assert gradient[cloud, :valid].isfinite().all()


@either_way
def test_lengths_out_of_range_are_clamped_where_nobody_can_look(
    kernels: HostKernels, fused: int
) -> None:
    points = torch.from_numpy(gaussian(20, 3).reshape(2, 10, 3))
    got = kernels.forward(points, lengths=[-5, 10**12], fused=fused)
    assert (got.edges[0] == -1).all()
    assert torch.equal(got.edges[1], on_cpu(points, "euclidean").edges[1])


@either_way
def test_a_bad_cloud_is_named_and_touches_no_other(kernels: HostKernels, fused: int) -> None:
    points = torch.from_numpy(gaussian(60, 4).reshape(4, 15, 4))
    clean = kernels.forward(points, fused=fused)
    bad = points.clone()
    bad[1, 7, 2] = torch.inf
    bad[1, 9, 0] = torch.nan
    bad[3] = 0
    bad[3, 4] = 3e38
    got = kernels.forward(bad, fused=fused)
    assert got.findings[:, 0].tolist() == [0, 1, 0, 3]
    assert got.findings[1].tolist() == [1, 7, -1]
    assert got.findings[3, 1:].tolist() == got.edges[3, -1].tolist()
    assert got.deaths[1].isnan().all()
    assert got.deaths[3, -1] == torch.inf
    oracles.assert_spanning_tree(got.edges[1].numpy(), 15)
    for cloud in (0, 2):
        assert torch.equal(got.deaths[cloud], clean.deaths[cloud])
        assert torch.equal(got.edges[cloud], clean.edges[cloud])
    gradient = kernels.backward(
        torch.ones_like(got.deaths), bad, got.deaths, got.edges, "euclidean"
    )
    assert gradient[1].isnan().all()
    assert gradient[0].isfinite().all()
    bad = points.clone()
    bad[2, 3] = 0
    assert kernels.forward(bad, "cosine", fused=fused).findings.tolist()[2] == [2, 3, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_too_large_or_too_small_for_a_quotient_have_the_gradient_of_the_cpu(
    kernels: HostKernels, dtype: torch.dtype
) -> None:
    limits = torch.finfo(dtype)
    for size in (limits.max, limits.max / 4, limits.tiny, limits.smallest_normal / 1024):
        points = torch.zeros(1, 5, 2, dtype=dtype)
        points[0, 1:, 0] = torch.tensor([1, 0.5, -1, 0.25], dtype=torch.float64) * size
        points[0, 3, 1] = -size
        got = kernels.forward(points)
        g = torch.tensor([[1, -2, limits.max / 8, 3]], dtype=dtype)
        gradient = kernels.backward(g, points, got.deaths, got.edges, "euclidean")
        wanted = _ops.h0_backward(g, points, got.deaths, got.edges, None, "euclidean")
        assert torch.allclose(gradient, wanted, rtol=8 * limits.eps, atol=0, equal_nan=True), size


def test_scipy_agrees(kernels: HostKernels) -> None:
    made = [gaussian(40, 7), clusters(3, 50, 5, 1, 1e-2), star(20, seed=1), copies(10, 4, 2)]
    for points in made:
        for dtype in (np.float32, np.float64):
            cloud = points.astype(dtype)
            for metric in METRICS:
                if metric == "cosine" and (cloud == 0).all(1).any():
                    continue
                got = kernels.forward(torch.from_numpy(cloud)[None], metric)
                distances = oracles.exact_distances(cloud, metric)
                oracles.assert_lengths(got.deaths[0].numpy(), oracles.scipy_tree(distances), metric)


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
def test_no_schedule_and_no_junk_changes_a_bit(
    kernels: HostKernels, order: str, seed: int, fill: int
) -> None:
    tied = torch.from_numpy(grid(6, 2, seed=1).astype(np.float32))
    loose = torch.from_numpy(gaussian(36, 2))
    points = torch.stack([tied, loose])
    for resident in (1, 3):
        kernels.set_options(order, seed, preempt=50, resident=resident, fill=fill)
        for fused in (100, 0):
            check(kernels, points, "euclidean", fused=fused)
            check(kernels, points + 10, "cosine", fused=fused)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
@pytest.mark.parametrize(
    "plan",
    [{}, {"fused": 0}, {"fused": 0, "small": 2}, {"fused": 0, "small": 2, "stored": 2}],
    ids=["one block", "stored keys", "forest", "computed keys"],
)
def test_points_that_are_written_to_meanwhile_have_a_tree_all_the_same(
    kernels: HostKernels, plan: dict[str, int], metric: str
) -> None:
    points = torch.randn(1, 40, 8)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            points.normal_()
            points[0, ::3].fill_(torch.nan)
            points[0, ::3].fill_(1.0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(6):
            got = kernels.forward(points, metric, **plan)
            oracles.assert_spanning_tree(got.edges[0].numpy(), 40)
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize("small", [0, 512])
def test_edges_that_are_written_to_meanwhile_are_no_way_out_of_memory(
    kernels: HostKernels, small: int
) -> None:
    points = torch.randn(1, 60, 8)
    got = kernels.forward(points)
    right, grad = got.edges.clone(), torch.ones_like(got.deaths)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            got.edges.fill_(0)
            got.edges.copy_(right)
            got.edges[0, 20:].fill_(2**40)
            got.edges.copy_(right)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(6):
            kernels.backward(grad, points, got.deaths, got.edges, "euclidean", small=small)
    finally:
        done.set()
        writer.join()
