"""Clouds on CUDA devices, a process for each device. Blocks, the filter and the forest go through
NCCL and plain torch on the device; with one device there is no ring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from processes import Processes

import tsloss_fast
from tsloss_fast import distributed

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def devices() -> Iterator[Processes]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    processes = Processes(torch.cuda.device_count(), backend="nccl")
    yield processes
    processes.close()


def cloud(kind: str) -> torch.Tensor:
    x = torch.randn(3000, 40, generator=torch.Generator().manual_seed(1))
    if kind == "clusters":
        return x * 1e-3 + 10 * (torch.arange(3000) % 3)[:, None]
    if kind == "ties":
        return x[:, :3].round()
    return x.double() * 1e-200 if kind == "tiny" else x


def sharded(rank: int, size: int, kind: str, metric: str) -> tuple[Any, Any, Any]:
    x = cloud(kind)
    first, end = len(x) * rank // size, len(x) * (rank + 1) // size
    own = x[first:end].cuda().requires_grad_()
    h0 = distributed.h0_persistence(own, metric=metric, block_bytes=1 << 18)
    (gradient,) = torch.autograd.grad(h0.deaths.sum(), own)
    assert h0.deaths.is_cuda
    assert gradient.is_cuda
    return h0.deaths.detach().cpu(), h0.edges.cpu(), gradient.cpu()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "ties", "tiny"])
def test_the_tree_is_that_of_the_cpu(devices: Processes, kind: str, metric: str) -> None:
    x = cloud(kind)
    if metric == "cosine" and kind == "ties":
        x = x[x.any(1)]
        assert len(x) < 3000  # a point at the origin has no angle
        with pytest.raises(ValueError, match="points"):
            devices.run(sharded, devices.size, kind, metric)
        return
    x.requires_grad_()
    wanted = tsloss_fast.h0_persistence(x, metric)
    (gradient,) = torch.autograd.grad(wanted.deaths.sum(), x)
    results = devices.run(sharded, devices.size, kind, metric)
    for deaths, edges, _ in results:
        assert torch.equal(deaths, wanted.deaths)
        assert torch.equal(edges, wanted.edges)
    routed = torch.cat([result[2] for result in results])
    tolerance = 64 * torch.finfo(x.dtype).eps * gradient.abs().max().item()
    assert torch.allclose(routed, gradient, rtol=0, atol=tolerance)
