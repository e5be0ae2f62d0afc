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


def weights(bars: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, bars)


def whole(points: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = torch.from_numpy(points).clone().requires_grad_()
    h0 = tsloss_fast.h0_persistence(x, metric)
    (gradient,) = torch.autograd.grad((h0.deaths * weights(len(h0.deaths))).sum(), x)
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


def halves(rank: int, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    x = torch.from_numpy(gaussian(40, 20)).to(dtype)
    own = x[20 * rank : 20 * rank + 20].clone().requires_grad_()
    h0 = distributed.h0_persistence(own)
    (gradient,) = torch.autograd.grad(h0.deaths.sum(), own)
    return h0.deaths.detach(), h0.edges, gradient


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened(pair: Processes, dtype: torch.dtype) -> None:
    x = torch.from_numpy(gaussian(40, 20)).to(dtype).requires_grad_()
    h0 = tsloss_fast.h0_persistence(x)
    (gradient,) = torch.autograd.grad(h0.deaths.sum(), x)
    results = pair.run(halves, dtype)
    for deaths, edges, _ in results:
        assert deaths.dtype is torch.float32
        assert torch.equal(deaths, h0.deaths)
        assert torch.equal(edges, h0.edges)
    routed = torch.cat([result[2] for result in results])
    assert routed.dtype is dtype
    torch.testing.assert_close(routed, gradient)


def strided(rank: int) -> Any:
    x = torch.from_numpy(gaussian(30, 2 * 9))
    return distributed.h0_persistence(x[rank::2, ::2]).deaths


def test_any_strides(pair: Processes) -> None:
    x = torch.from_numpy(gaussian(30, 2 * 9))
    both = torch.cat([x[0::2, ::2], x[1::2, ::2]])
    for deaths in pair.run(strided):
        assert torch.equal(deaths, tsloss_fast.h0_persistence(both).deaths)


def of_dtensor(rank: int, n: int, replicated: bool) -> tuple[Any, Any, Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size, 1) if replicated else (size,))
    placements = [Shard(0), Replicate()] if replicated else [Shard(0)]
    x = distribute_tensor(torch.from_numpy(gaussian(n, 12)), mesh, placements).requires_grad_()
    h0 = distributed.h0_persistence(x)
    h0.deaths.sum().backward()
    assert x.grad.placements == tuple(placements)
    return h0.deaths.detach(), h0.edges, x.grad.full_tensor(), type(h0.deaths).__name__


@pytest.mark.parametrize("n", [2, 3, 31, 64])
@pytest.mark.parametrize("replicated", [False, True])
def test_a_dtensor_sharded_on_its_rows(group: Processes, n: int, replicated: bool) -> None:
    x = torch.from_numpy(gaussian(n, 12)).requires_grad_()
    h0 = tsloss_fast.h0_persistence(x)
    (gradient,) = torch.autograd.grad(h0.deaths.sum(), x)
    for deaths, edges, routed, kind in group.run(of_dtensor, n, replicated):
        assert torch.equal(deaths, h0.deaths)
        assert torch.equal(edges, h0.edges)
        torch.testing.assert_close(routed, gradient)
        assert kind == "Tensor"


def of_replicated(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    distributed.h0_persistence(distribute_tensor(torch.randn(4, 3), mesh, [Replicate()]))


def test_a_dtensor_sharded_otherwise_is_refused(pair: Processes) -> None:
    for error in pair.errors(of_replicated):
        assert isinstance(error, ValueError)
        assert "sharded on its rows" in str(error)


def on_a_part(rank: int) -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = DeviceMesh("cpu", [0, 1])
    if rank < 2:
        distributed.h0_persistence(distribute_tensor(torch.zeros(4, 2), mesh, [Replicate()]))


def test_a_wrong_dtensor_concerns_its_mesh_alone(processes_of: Any) -> None:
    errors = processes_of(4).errors(on_a_part)
    for error in errors[:2]:
        assert isinstance(error, ValueError)
        assert "expected a DTensor sharded on its rows" in str(error)
    assert errors[2:] == [None, None]


def in_mixed_precision(rank: int, points: np.ndarray) -> Any:
    from tsloss_fast.distributed import torch_filter, tree

    make = tree.make_filter
    tree.make_filter = torch_filter.TorchFilter
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            h0 = distributed.h0_persistence(torch.from_numpy(points[rank::2]))
        assert matmul.fp32_precision == "tf32"
    finally:
        tree.make_filter = make
        matmul.fp32_precision = before
    return h0.deaths.numpy()


def test_autocast_and_tf32_change_nothing(pair: Processes) -> None:
    points = gaussian(600, 32)
    expected, _, _ = whole(np.concatenate([points[::2], points[1::2]]), "euclidean")
    for deaths in pair.run(in_mixed_precision, points):
        np.testing.assert_array_equal(deaths, expected)


def in_part(rank: int, points: np.ndarray) -> Any:
    group = dist.new_group([1, 2])
    if rank in (1, 2):
        half = len(points) // 2
        own = points[:half] if rank == 1 else points[half:]
        return distributed.h0_persistence(torch.from_numpy(own), group).edges
    try:
        distributed.h0_persistence(torch.zeros(2, 2), group)
    except ValueError as error:
        return str(error)
    return None


def test_a_group_of_some_processes(group: Processes) -> None:
    if group.size < 3:
        return
    points = gaussian(50, 7)
    results = group.run(in_part, points)
    assert "not in the group" in results[0]
    for edges in results[1:3]:
        assert torch.equal(edges, tsloss_fast.h0_persistence(torch.from_numpy(points)).edges)


def largest_message(rank: int, points: np.ndarray, block_bytes: int) -> tuple[int, int]:
    """Bytes of the largest message of rows, and how many rows were loaded at once."""
    from tsloss_fast.distributed import filters, peers

    sizes, loaded = [0], [0]
    post, load = peers.Peers.post, filters.NativeFilter.load

    def watch_post(self: Any, what: str, send: Any = (), receive: Any = ()) -> Any:
        sizes.extend(
            t.numel() * t.element_size()
            for _, t in [*send, *receive]
            if t.dim() == 2 and t.shape[1] > 2
        )
        return post(self, what, send, receive)

    def watch_load(self: Any, slot: int, block: Any) -> None:
        load(self, slot, block)
        loaded.append(sum(map(len, self._blocks.values())))

    peers.Peers.post, filters.NativeFilter.load = watch_post, watch_load
    try:
        size = dist.get_world_size()
        n = len(points)
        own = torch.from_numpy(points[n * rank // size : n * (rank + 1) // size])
        distributed.h0_persistence(
            own.requires_grad_(), block_bytes=block_bytes
        ).deaths.sum().backward()
    finally:
        peers.Peers.post, filters.NativeFilter.load = post, load
    return max(sizes), max(loaded)


def test_no_process_holds_more_than_its_shard_and_a_few_blocks(group: Processes) -> None:
    n, d, rows = 3000, 64, 96
    points, block_bytes = gaussian(n, d), rows * 64 * 4
    for message, loaded in group.run(largest_message, points, block_bytes):
        assert message <= block_bytes
        assert loaded <= -(-n // group.size) + 2 * rows


def bad_point(rank: int) -> None:
    x = torch.zeros(5, 3)
    x[:, 0] = torch.arange(5)
    if rank == 1:
        x[2, 1] = float("nan")
        x[4, 1] = float("inf")
    distributed.h0_persistence(x)


def test_a_bad_point_is_named_on_every_process(group: Processes) -> None:
    for error in group.errors(bad_point):
        assert isinstance(error, ValueError)
        assert "point 7 of the cloud contains NaN" in str(error)


def overflows(rank: int) -> None:
    distributed.h0_persistence(torch.tensor([[3e38 * (1 - 2 * rank)]]))


def test_an_overflow_is_an_error_on_every_process(pair: Processes) -> None:
    for error in pair.errors(overflows):
        assert isinstance(error, ValueError)
        assert "points 0 and 1 of the cloud is above the largest" in str(error)


def zero_vector(rank: int) -> None:
    distributed.h0_persistence(torch.full((2, 2), float(1 - rank)), metric="cosine")


def test_a_zero_vector_under_cosine(pair: Processes) -> None:
    for error in pair.errors(zero_vector):
        assert isinstance(error, ValueError)
        assert "point 2 of the cloud is the zero vector" in str(error)


def with_own(rank: int, others: dict[str, Any], mine: dict[str, Any]) -> None:
    distributed.h0_persistence(**(mine if rank == 1 else others))


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ({"points": torch.zeros(2, 4)}, ["3 columns", "4 columns"]),
        ({"points": torch.zeros(2, 3).double()}, ["torch.float32", "torch.float64"]),
        ({"metric": "manhattan"}, ["metric 'euclidean'", "metric 'manhattan'"]),
        ({"block_bytes": 100}, ["block_bytes 67108864", "block_bytes 100"]),
        ({"points": torch.zeros(0, 3, requires_grad=True)}, ["no gradient", "a gradient"]),
    ],
)
def test_arguments_that_do_not_fit_together(
    pair: Processes, mine: dict[str, Any], words: list[str]
) -> None:
    usual = {"points": torch.zeros(2, 3)}
    for error in pair.errors(with_own, usual, {**usual, **mine}):
        assert isinstance(error, ValueError)
        for word in (*words, "rank 1"):
            assert word in str(error)


@pytest.mark.parametrize(
    ("mine", "kind", "words"),
    [
        ({"points": [[1.0]]}, TypeError, "expected a torch.Tensor"),
        ({"points": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "expected float16"),
        ({"points": torch.zeros(2, 3, 3)}, ValueError, "expected shape (n, D)"),
        ({"metric": "chebyshev"}, ValueError, "expected one of"),
        ({"block_bytes": 0}, ValueError, "block_bytes"),
    ],
)
def test_an_error_of_one_process_reaches_the_others(
    pair: Processes, mine: dict[str, Any], kind: type, words: str
) -> None:
    usual = {"points": torch.zeros(2, 3)}
    there, here = pair.errors(with_own, usual, {**usual, **mine})
    assert isinstance(here, kind)
    assert words in str(here)
    assert isinstance(there, distributed.PeerError)
    assert there.rank == 1
    assert words in str(there)


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        distributed.h0_persistence(torch.zeros(2, 2))


def twice(rank: int) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        distributed.h0_persistence(x).deaths.sum(), x, create_graph=True
    )
    gradient.sum().backward()


def test_a_second_derivative_is_refused(pair: Processes) -> None:
    for error in pair.errors(twice):
        assert isinstance(error, RuntimeError)
        assert "second derivatives are not supported" in str(error)
