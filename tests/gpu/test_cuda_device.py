"""The CUDA operators from Python: on a device where there is one ("cuda"), and always with the
kernels on the host executor behind the same Python code: their source ("host"), and the module
`_core` with what nvcc made of them ("ptx")."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_host
import ptx_build
import pytest
import torch
from clouds import gaussian
from cuda_checks import ALL_TYPES, HALVES, HAVE_DEVICE
from cuda_host import METRICS, HostKernels
from source_tree import load_module

from tsloss_fast import (
    TSLoss,
    _autograd,
    _core,
    _inputs,
    _late,
    _ops,
    _ops_cuda,
    functional,
    h0_persistence,
    h0_persistence_from_distances,
)


class FakeNative:
    """What `_core` has in a build with CUDA kernels, over the host executor."""

    def __init__(self, kernels: HostKernels) -> None:
        self._call = kernels.call_addresses

    def cuda_workspace(self, *arguments: int) -> int:
        assert len(arguments) == 7
        return 16

    def cuda_h0_forward(self, number: int, metric: int, *rest: int) -> None:
        points, lengths, deaths, edges, findings, _, batch, n, dim, device, stream = rest
        assert (device, stream) == (0, 77)
        self._call("forward", number, metric, (batch, n, dim), points, lengths, deaths, edges,
                   findings, 4, (cuda_host.SHARED, 512, 8192, 100))  # fmt: skip

    def cuda_h0_backward(self, number: int, metric: int, *rest: int) -> None:
        grad, points, deaths, edges, out, _, batch, n, dim, device, stream = rest
        assert (device, stream) == (0, 77)
        self._call("backward", number, metric, (batch, n, dim), grad, points, deaths, edges, out,
                   (512,))  # fmt: skip

    def cuda_h0_from_distances(self, number: int, *rest: Any) -> None:
        distances, lengths, tolerance, deaths, edges, findings, _, batch, n, device, stream = rest
        assert (device, stream) == (0, 77)
        self._call("from_distances", number, None, (batch, n), distances, lengths, tolerance,
                   deaths, edges, findings, (cuda_host.SHARED, 512))  # fmt: skip


@pytest.fixture(scope="session")
def core_over_ptx(build_folder: Path, ptx_text: str) -> ModuleType:
    """The CUDA part of `_core`, whose kernels are the PTX of nvcc on the host executor."""
    return load_module("device_module", ptx_build.build_module(build_folder, ptx_text))


@pytest.fixture(params=["host", "ptx", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where tensors go so that the CUDA operators take them."""
    if request.param == "cuda":
        if not HAVE_DEVICE:
            pytest.skip("needs a CUDA device and a build with CUDA kernels")
        yield "cuda"
        return
    if request.param == "ptx":
        core = request.getfixturevalue("core_over_ptx")
    else:
        core = FakeNative(request.getfixturevalue("source_kernels"))
    workspace = _ops_cuda._workspace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ops_cuda, "_core", core)
        patch.setattr(_ops_cuda, "_workspace", lambda *rest: workspace(*rest).fill_(255))
        patch.setattr(_ops_cuda, "_stream", lambda device: 77)
        for name in ("h0", "h0_backward", "h0_from_distances"):
            patch.setattr(_ops, name, getattr(_ops_cuda, name))
        for module in (functional, _autograd):
            patch.setattr(module, "can_bypass_dispatcher", lambda x: False)
        patch.setattr(functional, "takes_halves", lambda device: True)
        patch.setattr(functional, "looks", lambda check, device: bool(check))
        yield "cpu"


@pytest.fixture(scope="module")
def expected() -> Any:
    """h0_persistence of the CPU core, whatever the operators are meanwhile."""
    h0, backward = _ops.h0, _ops.h0_backward

    def compute(points: torch.Tensor, metric: str = "euclidean") -> Any:
        x = points.detach().cpu().reshape(-1, *points.shape[-2:])
        x = x.float() if x.dtype in HALVES else x
        deaths, edges = h0(x, None, metric, False)
        grad = backward(torch.ones_like(deaths), x, deaths, edges, metric)
        return deaths, edges, grad.reshape(points.shape)

    return compute


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_bars_and_gradients(device: str, expected: Any, metric: str, dtype: torch.dtype) -> None:
    points = torch.from_numpy(gaussian(60, 7).reshape(2, 30, 7)).to(dtype)
    x = points.to(device).requires_grad_()
    deaths, edges = h0_persistence(x, metric)
    wanted_deaths, wanted_edges, wanted_grad = expected(points, metric)
    assert deaths.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert deaths.device == x.device
    assert torch.equal(deaths.detach().cpu(), wanted_deaths)
    assert torch.equal(edges.cpu(), wanted_edges)
    (grad,) = torch.autograd.grad(deaths.sum(), x)
    assert grad.dtype is dtype
    tolerance = 32 * torch.finfo(dtype).eps * wanted_grad.abs().max().item()
    assert torch.allclose(grad.cpu().to(wanted_grad), wanted_grad, rtol=0, atol=tolerance)


def test_shapes_of_batches_and_layouts(device: str, expected: Any) -> None:
    points = torch.from_numpy(gaussian(2 * 3 * 10, 4).reshape(2, 3, 10, 4)).to(device)
    for x in (points, points.mT.contiguous().mT, points[..., ::2], points[:, 1], points[1, 2]):
        deaths, edges = h0_persistence(x)
        assert deaths.shape == (*x.shape[:-2], 9)
        assert torch.equal(deaths.cpu().reshape(-1, 9), expected(x)[0])
        assert torch.equal(edges.cpu().reshape(-1, 9, 2), expected(x)[1])
    for shape in ((0, 5, 3), (2, 0, 3), (2, 1, 3), (2, 5, 0)):
        x = torch.zeros(shape, device=device, requires_grad=True)
        deaths, edges = h0_persistence(x)
        assert deaths.shape == (shape[0], max(shape[1] - 1, 0))
        deaths.sum().backward()
        assert (x.grad == 0).all()


def test_second_derivatives_in_half_types(device: str) -> None:
    x = torch.from_numpy(gaussian(12, 3)).to(device, torch.bfloat16).requires_grad_()
    deaths = h0_persistence(x).deaths
    (grad,) = torch.autograd.grad(deaths.square().sum(), x, create_graph=True)
    assert grad.dtype is torch.bfloat16
    (second,) = torch.autograd.grad(grad.float().square().sum(), x)
    assert second.isfinite().all()


def test_nobody_looks_unless_asked(device: str) -> None:
    points = torch.from_numpy(gaussian(40, 3).reshape(4, 10, 3)).to(device)
    points[2, 7, 1] = torch.nan
    deaths = h0_persistence(points).deaths
    assert deaths[2].isnan().all()
    assert deaths[[0, 1, 3]].isfinite().all()
    with pytest.raises(ValueError, match="point 7 of cloud 2 of 4 contains NaN"):
        h0_persistence(points, check_finite=True)
    lengths = torch.tensor([10, 3, 7, 99], device=device)
    deaths = h0_persistence(points, lengths=lengths).deaths
    assert deaths.isfinite().all()
    assert (deaths[1, 2:] == 0).all()
    with pytest.raises(ValueError, match=r"between 0 and 10.*got 99 for cloud 3"):
        h0_persistence(points, lengths=lengths, check_finite=True)


def test_distance_matrices_and_their_gradient(device: str) -> None:
    x = torch.from_numpy(gaussian(24, 3).reshape(2, 12, 3))
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").to(device).requires_grad_()
    deaths, edges = h0_persistence_from_distances(d)
    cloud = torch.arange(2, device=device)[:, None]
    assert torch.equal(deaths, d[cloud, edges[..., 0], edges[..., 1]])
    (grad,) = torch.autograd.grad(deaths.sum(), d)
    assert torch.equal(grad, grad.mT)
    assert grad.sum().item() == pytest.approx(22)
    half = h0_persistence_from_distances(d.detach().bfloat16())
    assert half.deaths.dtype is torch.float32
    bad = d.detach().clone()
    bad[1, 2, 3] = -1
    assert h0_persistence_from_distances(bad).deaths[1].isnan().all()
    with pytest.raises(ValueError, match=r"entry \(2, 3\) of cloud 1 of 2 is negative"):
        h0_persistence_from_distances(bad, check_finite=True)


def test_operators_refuse_what_they_cannot_take(device: str) -> None:
    x = torch.zeros(2, 4, 3, device=device)
    deaths, edges = _ops.h0(x, None, "euclidean", False)
    for wrong in (deaths.double(), deaths[:, :2], deaths[0]):
        with pytest.raises((TypeError, RuntimeError), match="grad_deaths: expected"):
            _ops.h0_backward(wrong, x, deaths, edges, "euclidean")
    with pytest.raises((TypeError, RuntimeError), match="edges: expected"):
        _ops.h0_backward(deaths, x, deaths, edges.int(), "euclidean")
    with pytest.raises((TypeError, RuntimeError), match="points: expected float16"):
        _ops.h0(x.int(), None, "euclidean", False)
    with pytest.raises((ValueError, RuntimeError), match="3 dimensions"):
        _ops.h0(x[0], None, "euclidean", False)
    with pytest.raises((ValueError, RuntimeError), match=r"expected shape \(2,\)"):
        _ops.h0(x, torch.ones(3, dtype=torch.int64, device=device), "euclidean", False)
    with pytest.raises((TypeError, RuntimeError), match=r"\(B, N, N\)"):
        _ops.h0_from_distances(x, None, 0.0, False)


@pytest.fixture(scope="module")
def loss_of_cpu() -> Any:
    points = torch.from_numpy(gaussian(24, 5, seed=3).reshape(2, 12, 5)).requires_grad_()
    loss = TSLoss()(points)
    loss.backward()
    return points.detach(), loss.item(), points.grad


def test_the_loss_is_that_of_the_cpu(loss_of_cpu: Any, device: str) -> None:
    points, wanted, wanted_grad = loss_of_cpu
    x = points.to(device, copy=True).requires_grad_()
    loss = TSLoss().to(device)(x)
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert torch.allclose(x.grad.cpu(), wanted_grad, rtol=1e-4, atol=1e-6)


class FakeEvent:
    done = False

    def query(self) -> bool:
        return FakeEvent.done

    def record(self) -> None:
        pass


def test_the_warning_comes_when_the_count_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, owner = _late.LateCounts(), TSLoss()
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **k: empty(*a, **k))
    FakeEvent.done = False
    assert counts.seen(owner, torch.tensor(3)) == 0
    assert counts.seen(owner, torch.tensor(4)) == 0
    FakeEvent.done = True
    assert counts.seen(owner, torch.tensor(5)) == 3
    assert counts.seen(owner, torch.tensor(6)) == 5
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert counts.seen(owner, torch.tensor(7)) == 0
    copy.deepcopy(owner)
    pickle.dumps(owner)
    counts.forget(owner)
    counts.forget(owner)
    assert not counts._underway
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    counts.seen(owner, torch.tensor(1))
    del owner
    gc.collect()
    assert not counts._underway


@pytest.mark.parametrize("built", [True, False])
def test_only_the_cuda_kernels_go_unchecked(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    monkeypatch.setattr(_core, "has_cuda", built)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [_inputs.looks(c, cpu) for c in (None, True, False)] == [True, True, False]
    assert [_inputs.looks(c, cuda) for c in (None, True, False)] == [not built, True, False]
    assert not _inputs.takes_halves(cpu)
