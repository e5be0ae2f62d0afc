"""Every kind of tensor that may hold a shard: types, strides, DTensor, part of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from clouds import gaussian
from processes import Processes
from shards import whole

import tsloss_fast
from tsloss_fast import distributed

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


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


def without_memory_of_their_own(rank: int) -> Any:
    x = torch.from_numpy(gaussian(8, 3))
    rows = torch._neg_view(x) if rank == 0 else torch._efficientzerotensor((2, 3))
    return distributed.h0_persistence(rows).deaths


def test_negated_views_and_zeros_without_memory(pair: Processes) -> None:
    x = torch.cat([-torch.from_numpy(gaussian(8, 3)), torch.zeros(2, 3)])
    for deaths in pair.run(without_memory_of_their_own):
        assert torch.equal(deaths, tsloss_fast.h0_persistence(x).deaths)


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


def under_another_default_device(rank: int, points: np.ndarray, filter_name: str) -> Any:
    from tsloss_fast.distributed import torch_filter, tree

    own = torch.from_numpy(points[rank::2]).requires_grad_()
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        if filter_name == "torch":
            patch.setattr(tree, "make_filter", torch_filter.TorchFilter)
        h0 = distributed.h0_persistence(own, block_bytes=48 * 32 * 4)
        (gradient,) = torch.autograd.grad(h0.deaths.sum(), own)
    return h0.deaths.detach(), h0.edges, gradient


@pytest.mark.parametrize("filter_name", ["native", "torch"])
def test_results_are_on_the_device_of_the_points_whatever_the_default_device_is(
    pair: Processes, filter_name: str
) -> None:
    points = np.concatenate([gaussian(600, 32), np.repeat(gaussian(5, 32), 4, 0)])
    x = torch.from_numpy(np.concatenate([points[::2], points[1::2]])).requires_grad_()
    expected = tsloss_fast.h0_persistence(x)
    (slope,) = torch.autograd.grad(expected.deaths.sum(), x)
    results = pair.run(under_another_default_device, points, filter_name)
    for deaths, edges, _ in results:
        assert torch.equal(deaths, expected.deaths)
        assert torch.equal(edges, expected.edges)
    torch.testing.assert_close(torch.cat([result[2] for result in results]), slope)


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
