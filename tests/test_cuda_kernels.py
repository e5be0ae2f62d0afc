"""The CUDA kernels on the host executor: against the CPU core edge for edge, against SciPy, under
every schedule, under sanitizers, and with each barrier taken away."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cuda_host
import numpy as np
import oracles
import pytest
import torch
from clouds import FAMILIES, Cloud, clusters, copies, gaussian, grid, star
from cuda_host import METRICS, ORDERS, HostKernels, Outcome

from tsloss_fast import _ops, h0_persistence, h0_persistence_from_distances

pytestmark = pytest.mark.skipif(not cuda_host.HAVE_SOURCES, reason="needs the source tree and g++")

SCHEDULES = [*((order, 1) for order in ORDERS), ("random", 2), ("random", 3)]
HALVES = (torch.float16, torch.bfloat16)
ALL_TYPES = (torch.float32, torch.float64, *HALVES)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return HostKernels(cuda_host.build(tmp_path_factory.mktemp("library"), "library"))


@pytest.fixture(autouse=True)
def usual_options(request: pytest.FixtureRequest) -> None:
    if "kernels" in request.fixturenames:
        request.getfixturevalue("kernels").set_options()


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


def on_cpu(
    points: torch.Tensor, metric: str, lengths: list[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    if points.dtype in HALVES:
        points = points.float()
    return h0_persistence(points, metric, lengths=lengths, check_finite=False)


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
    wanted = _ops.h0_backward(g, wide, got.deaths, got.edges, metric)
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


def some(family: str, dtype: type, keep: int) -> Iterator[Cloud]:
    """Evenly spaced clouds of a family that the executor can hold in reasonable time."""
    all_of = [c for c in FAMILIES[family](dtype) if c.points.size <= 8000 and len(c.points) <= 210]
    yield from all_of[:: max(1, len(all_of) // keep)]


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


def matrices(n: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.from_numpy(gaussian(2 * n, 3, seed=seed).reshape(2, n, 3)).to(dtype)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("small", [2, 512])
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 65, 130])
def test_distance_matrices(kernels: HostKernels, n: int, small: int) -> None:
    for dtype in (torch.float32, torch.float64):
        d = matrices(n, dtype)
        largest = torch.finfo(dtype).max / 16
        noise = 1e-6 if dtype is torch.float32 else 1e-11
        for m in (d, d.triu() + d.tril() * (1 + noise), d.round(), d * largest, d / largest):
            got = kernels.from_distances(m, small=small)
            expected = h0_persistence_from_distances(m)
            assert torch.equal(got.deaths, expected.deaths)
            assert torch.equal(got.edges, expected.edges)
            assert (got.findings[:, 0] == 0).all()


@pytest.mark.parametrize("small", [2, 512])
def test_what_is_wrong_with_a_matrix(kernels: HostKernels, small: int) -> None:
    d = matrices(70, torch.float32)
    for value, i, j, found in (
        (torch.nan, 40, 3, [1, 40, 3]),
        (-torch.inf, 3, 40, [1, 3, 40]),
        (0.5, 5, 5, [5, 5, 5]),
        (-1.0, 60, 1, [4, 60, 1]),
        (99.0, 1, 60, [6, 1, 60]),
        (99.0, 60, 1, [6, 1, 60]),
    ):
        bad = d.clone()
        bad[1, i, j] = value
        got = kernels.from_distances(bad, small=small)
        assert got.findings.tolist() == [[0, -1, -1], found]
        assert got.deaths[1].isnan().all()
        assert torch.equal(got.deaths[0], h0_persistence_from_distances(d).deaths[0])
        with pytest.raises(ValueError, match=rf"entry \({found[1]}, {found[2]}\) of cloud 1"):
            h0_persistence_from_distances(bad)
        # NaN comes first, and the padding is never looked at.
        bad[1, 69, 68] = torch.nan
        got = kernels.from_distances(bad, small=small)
        assert got.findings[1].tolist() == [1, *((i, j) if not np.isfinite(value) else (69, 68))]
        assert kernels.from_distances(bad, [70, 0], small=small).findings[1, 0] == 0


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
        wanted = _ops.h0_backward(g, points, got.deaths, got.edges, "euclidean")
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


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = ["plain", "address", "thread", "coverage"]
    with ThreadPoolExecutor(2) as pool:
        built = pool.map(cuda_host.build, [tmp_path_factory.mktemp(kind) for kind in kinds], kinds)
    return dict(zip(kinds, built, strict=True))


def run(
    program: Path,
    order: str = "random",
    seed: int = 1,
    preempt: int = 0,
    drop: str = "",
    case: int = -1,
    fill: int = 255,
) -> tuple[int, str]:
    arguments = [ORDERS[order], seed, preempt, fill, drop, case]
    try:
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            # Without a barrier a kernel may go round for ever.
            timeout=300 if not drop or program.name == "thread" else 20,
            check=False,
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout + done.stderr


def each_case(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("case ")]


def barriers(said: str) -> list[str]:
    return [s.removeprefix("barrier ") for s in said.splitlines() if s.startswith("barrier ")]


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_address_is_wrong_under_any_schedule(programs: dict[str, Path]) -> None:
    expected = run(programs["plain"])
    assert expected[0] == 0, expected[1]
    for order, seed in SCHEDULES:
        assert run(programs["address"], order, seed) == expected, f"{order} {seed}"


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_case_has_a_race(programs: dict[str, Path]) -> None:
    """Races are seen whatever the schedule was. A process of its own for each case: what the
    detector remembers of threads is never given back."""
    expected = each_case(run(programs["plain"])[1])
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda k: run(programs["thread"], case=k), range(len(expected))))
    for line, (code, said) in zip(expected, runs, strict=True):
        assert code == 0, said
        assert each_case(said) == [line]


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_barrier_can_be_dropped_unnoticed(programs: dict[str, Path]) -> None:
    code, said = run(programs["plain"])
    assert code == 0
    expected = each_case(said)
    sites = barriers(said)
    assert len(sites) == len(set(sites)) >= 13

    def shows(site: str) -> bool:
        """Whether a schedule shows it in the results."""
        for order, seed in SCHEDULES:
            code, said = run(programs["plain"], order, seed, drop=site)
            if code != 0 or each_case(said) != expected:
                return True
        return False

    reached = [barriers(run(programs["plain"], case=k)[1]) for k in range(len(expected))]

    def races(site: str) -> bool:
        cases = (k for k, places in enumerate(reached) if site in places)
        runs = (run(programs["thread"], drop=site, case=k) for k in cases)
        return any(code == 66 and "data race" in said for code, said in runs)

    with ThreadPoolExecutor(2) as pool:
        silent = [s for s, seen in zip(sites, pool.map(shows, sites), strict=True) if not seen]
        # What no schedule shows in the results, the race detector sees.
        unseen = [s for s, seen in zip(silent, pool.map(races, silent), strict=True) if not seen]
    assert not unseen
    assert len(silent) <= len(sites) // 4, silent


@pytest.mark.slow
def test_every_line_of_the_kernels_runs(programs: dict[str, Path]) -> None:
    program = programs["coverage"]
    assert run(program)[0] == 0
    said = subprocess.run(
        ["gcov", "-r", "-s", str(cuda_host.ROOT / "csrc"), "simt_kernels.o"],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"File 'cuda/(\w+\.cuh)'\nLines executed:([\d.]+)% of (\d+)", said)
    lines = {name: (float(percent), int(count)) for name, percent, count in found}
    print(lines)
    assert {"backward.cuh", "cloud_tree.cuh", "distances.cuh", "prepare.cuh"} <= set(lines)
    total = sum(count for _, count in lines.values())
    run_lines = sum(percent * count for percent, count in lines.values()) / 100
    assert run_lines / total >= 0.95
    assert all(percent >= 90 for percent, _ in lines.values()), lines
