"""A cloud shared out over processes: deaths, edges and gradients are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from clouds import FAMILIES, WITHOUT_ANGLES, clusters, copies, gaussian, grid, rng
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Processes
from python_process import run_python
from shards import weights, whole

import tsloss_fast
from tsloss_fast import distributed

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")
SMALL_BLOCK = 48 * 16 * 4


def cuts(n: int, size: int, way: str) -> list[int]:
    """Where the shards begin and the last one ends."""
    if way == "even":
        return [n * k // size for k in range(size + 1)]
    if way == "all at the last":
        return [0] * size + [n]
    inner = rng(n + size).integers(0, n + 1, size - 1)
    return [0, *sorted(int(k) for k in inner), n]


def sharded(
    rank: int,
    points: np.ndarray,
    starts: list[int],
    metric: str,
    block_bytes: int,
    torch_only: bool,
) -> tuple[Any, Any, Any]:
    """Deaths, edges, and the gradient at this rank's rows, of a weighted sum of the deaths."""
    from tsloss_fast.distributed import torch_filter, tree

    make = tree.make_filter
    if torch_only:
        tree.make_filter = torch_filter.TorchFilter
    try:
        own = torch.from_numpy(points[starts[rank] : starts[rank + 1]]).clone().requires_grad_()
        h0 = distributed.h0_persistence(own, metric=metric, block_bytes=block_bytes)
        (gradient,) = torch.autograd.grad((h0.deaths * weights(len(h0.deaths))).sum(), own)
    finally:
        tree.make_filter = make
    return h0.deaths.detach().numpy(), h0.edges.numpy(), gradient.numpy()


def assert_same(
    group: Processes,
    points: np.ndarray,
    metric: str = "euclidean",
    way: str = "even",
    block_bytes: int = 1 << 20,
    torch_only: bool = False,
) -> None:
    starts = cuts(len(points), group.size, way)
    deaths, edges, gradient = whole(points, metric)
    results = group.run(sharded, points, starts, metric, block_bytes, torch_only)
    for found, found_edges, _ in results:
        np.testing.assert_array_equal(found, deaths)
        np.testing.assert_array_equal(found_edges, edges)
    routed = np.concatenate([result[2] for result in results])
    assert routed.dtype == points.dtype
    limits = np.finfo(points.dtype)
    # Sums that left the range in one order need not have done so in another.
    fine = np.isfinite(gradient) & np.isfinite(routed)
    assert (np.abs(gradient[~fine & np.isfinite(gradient)]) > limits.max / 8).all()
    least, scale = deaths[deaths > 0].min(initial=np.inf), 0.0
    if metric == "cosine":  # slopes are of the order of 1 / |x|, or next to nothing
        norms = np.linalg.norm(np.longdouble(points), axis=1, keepdims=True)
        gradient, routed = gradient * norms, routed * norms
        least, scale = norms.min(), 1.0
    gradient, routed = gradient[fine], routed[fine]
    # Rounding, and the few digits of a subnormal length by which is divided.
    eps = float(max(limits.eps, limits.smallest_subnormal / least))
    scale = max(scale, float(np.abs(gradient).max(initial=0)))
    atol = 64 * eps * scale + 4 * float(limits.smallest_subnormal)
    np.testing.assert_allclose(routed, gradient, rtol=64 * eps, atol=atol)


# Every angle of these is 0 or none, every square of those out of range.
NOT_JUDGED = {*WITHOUT_ANGLES, ("mixed_scales", "sqeuclidean")}


def valid(points: np.ndarray, metric: str) -> bool:
    """Whether one process has a result: no zero vector under cosine, no overflow."""
    try:
        tsloss_fast.h0_persistence(points, metric)
    except ValueError:
        return False
    return True


def judged(family: str, metric: str, dtype: type) -> Iterator[np.ndarray]:
    for cloud in FAMILIES[family](dtype):
        if len(cloud.points) > 1 and valid(cloud.points, metric):
            yield cloud.points


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "sizes"])
@pytest.mark.parametrize("metric", METRICS)
def test_ugly_clouds_have_the_tree_of_one_process(
    group: Processes, family: str, metric: str, dtype: type
) -> None:
    if (family, metric) in NOT_JUDGED:
        return
    clouds = list(judged(family, metric, dtype))
    assert clouds
    # Every process more takes longer: all clouds for two, others for three and for four.
    every = group.size - 1 if metric == "euclidean" else 4
    for k, points in enumerate(clouds[(group.size - 2) % every :: every] or clouds[:1]):
        way = ("even", "uneven", "all at the last")[k % 3]
        assert_same(group, points, metric, way, SMALL_BLOCK if k % 2 else 1 << 20)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 17, 49, 97])
@pytest.mark.parametrize("d", [0, 1, 16, 64])
def test_every_size(group: Processes, n: int, d: int) -> None:
    for way in ("even", "uneven", "all at the last"):
        assert_same(group, np.ascontiguousarray(gaussian(n, d)), way=way)


@pytest.mark.parametrize("scale", [1e-165, 1e-200, 1e-300])
def test_squares_that_are_lost_are_noticed_where_codes_filter(
    group: Processes, scale: float
) -> None:
    """All keys are 0, and so are the bounds of the filter."""
    assert_same(group, scale * gaussian(150, 64, dtype=np.float64), way="uneven")


LARGE = {
    "gaussian": gaussian(2500, 96),
    "low dimension": gaussian(3000, 3),
    "codes": gaussian(1500, 64, dtype=np.float64),
    "clusters": clusters(5, 1500, 64, seed=1, width=1e-3).astype(np.float32),
    "sorted clusters": np.sort(clusters(3, 1200, 2, seed=2, width=1e-2), 0).astype(np.float32),
    "grid": grid(11, 3, seed=1).astype(np.float32),
    "copies": copies(300, 5, 24).astype(np.float32),
    "one-hot": np.eye(700, dtype=np.float32),
    "offset": (1e4 + gaussian(1500, 96)).astype(np.float32),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("block_bytes", [48 * 96 * 4 * 5, 64 << 20])
def test_many_blocks(group: Processes, name: str, block_bytes: int) -> None:
    assert_same(group, LARGE[name], way="uneven", block_bytes=block_bytes)


@pytest.mark.parametrize("name", [name for name in LARGE if name != "one-hot"])
def test_the_filter_in_plain_torch(group: Processes, name: str) -> None:
    assert_same(group, LARGE[name][::3], block_bytes=48 * 96 * 8, torch_only=True)


@pytest.mark.parametrize("family", ["ties", "clustered", "scales", "mixed_scales"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_filter_in_plain_torch_on_ugly_clouds(
    pair: Processes, family: str, metric: str
) -> None:
    for dtype in (np.float32, np.float64):
        for points in list(judged(family, metric, dtype))[::3]:
            assert_same(pair, points, metric, block_bytes=SMALL_BLOCK, torch_only=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_cloud_in_any_shards(group: Processes, data: st.DataObject) -> None:
    n, d = data.draw(st.integers(0, 120)), data.draw(st.integers(0, 70))
    seed = data.draw(st.integers(0, 2**32 - 1))
    r = rng(seed)
    kind = data.draw(st.sampled_from(("normal", "integers", "copies", "clusters", "far")))
    if kind == "normal":
        points = r.standard_normal((n, d))
    elif kind == "integers":
        points = r.integers(-2, 3, (n, d)).astype(float)
    elif kind == "copies":
        points = r.standard_normal((max(n // 5, 1), d))[r.integers(0, max(n // 5, 1), n)]
    elif kind == "clusters":
        points = clusters(2, n, d, seed=seed % 1000, width=1e-4)
    else:
        points = 1e6 + 1e-2 * r.standard_normal((n, d))
    dtype = data.draw(st.sampled_from((np.float32, np.float64)))
    metric = data.draw(st.sampled_from(METRICS))
    points = points.astype(dtype)
    if not valid(points, metric):
        return
    starts = [
        0,
        *sorted(
            data.draw(st.lists(st.integers(0, n), min_size=group.size - 1, max_size=group.size - 1))
        ),
        n,
    ]
    block = data.draw(st.sampled_from((1, SMALL_BLOCK, 1 << 26)))
    deaths, edges, _ = whole(points, metric)
    for found, found_edges, _ in group.run(sharded, points, starts, metric, block, False):
        np.testing.assert_array_equal(found, deaths)
        np.testing.assert_array_equal(found_edges, edges)


def test_the_deaths_may_be_changed_in_place_before_the_gradient_is_taken() -> None:
    done = run_python(
        """
import torch, torch.distributed as dist
from tsloss_fast.distributed import h0_persistence
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
rows = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
h0_persistence(rows).deaths.log_().sum().backward()
print(rows.grad.flatten().tolist())
dist.destroy_process_group()
"""
    )
    assert done.stdout == "[-1.0, 0.5, 0.5]\n", done.stderr
