"""The CUDA operators from Python: on a device where there is one ("cuda"), and always with the
kernels on the host executor below the same Python code and the same bindings: from their source
("host"), and from what nvcc made of them ("ptx")."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_host
import ptx_build
import pytest
import torch
from clouds import gaussian
from cuda_checks import ALL_TYPES, HALVES, HAVE_DEVICE, register
from cuda_host import METRICS
from native_builds import HAVE_SOURCES
from source_tree import load_module
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tsloss_fast import (
    TSLoss,
    _autograd,
    _batch,
    _core,
    _ops,
    _ops_cpu,
    _ops_cuda,
    functional,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)
from tsloss_fast import loss as losses


@pytest.fixture(scope="session")
def core_over_source(build_folder: Path) -> ModuleType:
    """The CUDA part of `_core`, whose kernels are their source on the host executor."""
    if not HAVE_SOURCES:
        pytest.skip("needs the source tree and g++")
    return load_module("device_module", cuda_host.build_module(build_folder))


@pytest.fixture(scope="session")
def core_over_ptx(build_folder: Path, ptx_text: str) -> ModuleType:
    """The CUDA part of `_core`, whose kernels are the PTX of nvcc on the host executor."""
    flags = cuda_host.module_flags()
    library = ptx_build.build_library(build_folder, ptx_text, cuda_host.MODULE, flags)
    return load_module("device_module", library)


def keep_halves(make: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that makes a batch: it widens no half types, as on a CUDA device."""

    def made(points: Any, *rest: Any) -> Any:
        batch = make(points, *rest)
        return batch._replace(values=points) if points.dtype in HALVES else batch

    return made


@pytest.fixture(params=["host", "ptx", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where tensors go so that the CUDA operators take them."""
    if request.param == "cuda":
        if not HAVE_DEVICE:
            pytest.skip("needs a CUDA device and a build with CUDA kernels")
        yield "cuda"
        return
    over = {"host": "source", "ptx": "ptx"}[request.param]
    kernels = vars(request.getfixturevalue(f"core_over_{over}"))
    core = SimpleNamespace(**{**vars(_core), **kernels})
    workspace = _ops_cuda._workspace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ops_cuda, "_core", core)
        patch.setattr(_ops_cuda, "_workspace", lambda *rest: workspace(*rest).fill_(255))
        patch.setattr(_ops_cuda, "_stream", lambda device: 77)
        for module in (_batch, _autograd, losses):
            patch.setattr(module, "can_bypass_dispatcher", lambda x: False)
        patch.setattr(_batch, "resolve_check_finite", lambda check, device: bool(check))
        for module, name in (
            (functional, "points_batch"),
            (functional, "ragged_batch"),
            (losses, "points_batch"),
        ):
            patch.setattr(module, name, keep_halves(getattr(module, name)))
        for name in ("h0", "h0_backward"):
            register(name, getattr(_ops_cuda, name), "CPU")
        yield "cpu"
        for name in ("h0", "h0_backward"):
            register(name, getattr(_ops_cpu, name), "CPU")


def expected(points: Tensor, metric: str = "euclidean") -> tuple[Tensor, Tensor, Tensor]:
    """Deaths, edges and the gradient of the sum of the deaths, by the CPU core."""
    x = points.detach().cpu()
    x = x.float() if x.dtype in HALVES else x
    deaths, edges = _ops_cpu.h0(x, None, None, None, metric, 0.0, False)
    grad = _ops_cpu.h0_backward(torch.ones_like(deaths), x, deaths, edges, None, metric)
    return deaths, edges, grad


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_bars_and_gradients(device: str, metric: str, dtype: torch.dtype) -> None:
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


def test_shapes_of_batches_and_layouts(device: str) -> None:
    points = torch.from_numpy(gaussian(2 * 3 * 10, 4).reshape(2, 3, 10, 4)).to(device)
    for x in (points, points.mT.contiguous().mT, points[..., ::2], points[:, 1], points[1, 2]):
        deaths, edges = h0_persistence(x)
        assert deaths.shape == (*x.shape[:-2], 9)
        assert torch.equal(deaths.cpu(), expected(x)[0])
        assert torch.equal(edges.cpu(), expected(x)[1])
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
    def h0(x: Tensor, lengths: Tensor | None = None, metric: str = "euclidean") -> Any:
        return _ops.h0(x, lengths, None, None, metric, 0.0, False)

    x = torch.zeros(2, 4, 3, device=device)
    deaths, edges = h0(x)
    for wrong in (deaths.double(), deaths[:, :2], deaths[0]):
        with pytest.raises((TypeError, RuntimeError), match="grad_deaths: expected"):
            _ops.h0_backward(wrong, x, deaths, edges, None, "euclidean")
    with pytest.raises((TypeError, RuntimeError), match="edges: expected"):
        _ops.h0_backward(deaths, x, deaths, edges.int(), None, "euclidean")
    with pytest.raises((TypeError, RuntimeError), match="points: expected float16"):
        h0(x.int())
    with pytest.raises((ValueError, RuntimeError)):
        h0(x[0, 0])
    ones = torch.ones(3, dtype=torch.int64, device=device)
    with pytest.raises((TypeError, RuntimeError), match=r"lengths: expected .* shape \(2,\)"):
        h0(x, ones)
    with pytest.raises((TypeError, RuntimeError), match=r"distances: expected .* \(2, 4, 4\)"):
        h0(x, metric="precomputed")
    for half in HALVES:
        with pytest.raises((TypeError, RuntimeError), match="distances: expected float32 or"):
            h0(torch.zeros(2, 4, 4, dtype=half, device=device), metric="precomputed")


def test_operators_take_one_cloud_without_a_batch(device: str) -> None:
    x = torch.from_numpy(gaussian(9, 3)).to(device)
    deaths, edges = _ops.h0(x, None, None, None, "euclidean", 0.0, True)
    grad = _ops.h0_backward(torch.ones_like(deaths), x, deaths, edges, None, "euclidean")
    wanted = expected(x)
    assert torch.equal(deaths.cpu(), wanted[0])
    assert torch.equal(edges.cpu(), wanted[1])
    torch.testing.assert_close(grad.cpu(), wanted[2])


# ---- ragged clouds, which are padded by kinds of similar size ----

# The last cloud is padded beyond the end of all points and bars.
SIZES = (5, 0, 1, 41, 2, 130, 3, 1, 17, 40)
EMPTY = ((), (0,), (0, 0, 0))  # no point at all
ALONE = ((1,), (1, 0, 1, 1))  # no cloud with a bar


def packed(sizes: tuple[int, ...], dim: int, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Points of clouds in a row, and where each begins."""
    starts = [0, *itertools.accumulate(sizes)]
    return torch.from_numpy(gaussian(starts[-1], dim)).to(dtype), starts


def ragged_on_cpu(
    points: Tensor, starts: list[int], metric: str = "euclidean", check_finite: bool = False
) -> tuple[Tensor, Tensor]:
    """Deaths and edges of ragged clouds by the CPU core, which takes them without padding."""
    x = points.float() if points.dtype in HALVES else points
    bars = sum(max(b - a - 1, 0) for a, b in itertools.pairwise(starts))
    return _ops_cpu.h0(x, None, torch.tensor(starts), bars, metric, 0.0, check_finite)


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_ragged_clouds_and_their_gradients(device: str, metric: str, dtype: torch.dtype) -> None:
    points, starts = packed(SIZES, 20, dtype)
    x = points.to(device).requires_grad_()
    deaths, edges, bars = h0_persistence_varlen(x, starts, metric)
    wanted_deaths, wanted_edges = ragged_on_cpu(points, starts, metric)
    assert deaths.device == edges.device == bars.device == x.device
    assert torch.equal(deaths.detach().cpu(), wanted_deaths)
    assert torch.equal(edges.cpu(), wanted_edges)
    assert bars.tolist() == [0, 4, 4, 4, 44, 45, 174, 176, 176, 192, 231]
    weights = torch.linspace(0.5, 1.5, len(wanted_deaths), dtype=wanted_deaths.dtype)
    (grad,) = torch.autograd.grad(deaths, x, weights.to(device))
    assert grad.dtype is dtype
    wide = points.to(wanted_deaths.dtype)
    wanted = _ops_cpu.h0_backward(
        weights, wide, wanted_deaths, wanted_edges, torch.tensor(starts), metric
    )
    tolerance = 32 * torch.finfo(dtype).eps * wanted.abs().max().item()
    assert torch.allclose(grad.cpu().to(wanted), wanted, rtol=0, atol=tolerance)
    for cloud in (2, 7):  # a point that is alone has no bar
        assert (grad[starts[cloud]] == 0).all()


def test_ragged_clouds_have_second_derivatives(device: str) -> None:
    points, starts = packed((4, 0, 1, 9), 3, torch.float64)

    def deaths(x: Tensor) -> Any:
        return h0_persistence_varlen(x, starts).deaths

    x = points.to(device).requires_grad_()
    assert torch.autograd.gradcheck(deaths, x)
    assert torch.autograd.gradgradcheck(deaths, x)
    (by_kernels,) = torch.autograd.grad(deaths(x).sum(), x)
    (by_torch,) = torch.autograd.grad(deaths(x).sum(), x, create_graph=True)
    torch.testing.assert_close(by_torch, by_kernels)


def test_the_edges_of_a_padded_cloud_are_its_own(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, starts = packed(SIZES, 3, torch.float32)
    backward, trees = _ops_cuda.h0_backward, []

    def spy(*saved: Any) -> Tensor:
        trees.append(saved[3])
        return backward(*saved)

    monkeypatch.setattr(_ops_cuda, "h0_backward", spy)
    x = points.to(device).requires_grad_()
    deaths = h0_persistence_varlen(x, starts).deaths
    torch.autograd.grad(deaths.sum(), x)
    seen = [tree[tree[:, 0] >= 0] for padded in trees for tree in padded]
    assert sorted(len(tree) + 1 for tree in seen) == [n for n in sorted(SIZES) if n > 1]
    assert all(int(tree.max()) <= len(tree) for tree in seen)


def test_a_jagged_tensor_has_the_bars_of_its_clouds(device: str) -> None:
    points, starts = packed((4, 1, 7, 12), 3, torch.float32)
    offsets = torch.tensor(starts, device=device)
    x = torch.nested.nested_tensor_from_jagged(points.to(device), offsets)
    deaths, edges = h0_persistence(x)
    wanted_deaths, wanted_edges = ragged_on_cpu(points, starts)
    assert torch.equal(deaths.values().cpu(), wanted_deaths)
    assert torch.equal(edges.values().cpu(), wanted_edges)
    assert deaths.offsets().tolist() == [0, 3, 3, 9, 20]


@pytest.mark.skipif(
    torch.__version__.startswith("2.6"), reason="torch 2.6 lists no numbers under torch.func"
)
def test_ragged_clouds_are_differentiated_by_torch_func(device: str) -> None:
    points, starts = packed((4, 1, 7), 3, torch.float32)

    def energy(x: Tensor) -> Tensor:
        return h0_persistence_varlen(x, starts).deaths.square().sum()

    x = points.to(device).requires_grad_()
    (wanted,) = torch.autograd.grad(energy(x), x)
    torch.testing.assert_close(torch.func.grad(energy)(x.detach()), wanted)
    two = torch.stack([x.detach(), 2 * x.detach()])
    found = torch.func.vmap(torch.func.grad(energy))(two)
    torch.testing.assert_close(found, torch.stack([wanted, 2 * wanted]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_first_bad_cloud_is_named_whatever_its_kind(device: str, bad: float) -> None:
    points, starts = packed(SIZES, 4, torch.float32)
    clean = ragged_on_cpu(points, starts)[0]
    bars = _batch.offsets_of_bars(torch.tensor(starts)).tolist()
    for clouds in ((0,), (2,), (3,), (5,), (7,), (9,), (9, 5, 4), (9, 8, 7), (7, 2)):
        x = points.clone()
        for cloud in clouds:  # the last point of each
            x[starts[cloud + 1] - 1, 2] = bad
        first = min(clouds)
        said = f"point {SIZES[first] - 1} of cloud {first} of 10 contains NaN or infinity"
        with pytest.raises(ValueError, match=said) as on_cpu:
            ragged_on_cpu(x, starts, check_finite=True)
        with pytest.raises(ValueError, match=said) as on_device:
            h0_persistence_varlen(x.to(device), starts, check_finite=True)
        assert str(on_device.value) == str(on_cpu.value)
        deaths = h0_persistence_varlen(x.to(device), starts).deaths.cpu()
        of_bad = torch.zeros(len(deaths), dtype=torch.bool)
        for cloud in clouds:
            of_bad[bars[cloud] : bars[cloud + 1]] = True
        assert deaths[of_bad].isnan().all()
        assert torch.equal(deaths[~of_bad], clean[~of_bad])


def test_other_findings_in_ragged_clouds_are_those_of_the_cpu(device: str) -> None:
    points, starts = packed(SIZES, 4, torch.float32)
    zero, far = points.clone(), points.clone()
    zero[starts[2]] = 0  # alone in its cloud
    far[starts[6] : starts[7], 0] = torch.tensor([-3e38, 3e38, 3e38])
    for x, metric, said in ((zero, "cosine", "point 0 of cloud 2 of 10 is the zero"),
                            (far, "euclidean", "points 0 and 1 of cloud 6 of 10")):  # fmt: skip
        with pytest.raises(ValueError, match=said) as on_cpu:
            ragged_on_cpu(x, starts, metric, check_finite=True)
        with pytest.raises(ValueError, match=said) as on_device:
            h0_persistence_varlen(x.to(device), starts, metric, check_finite=True)
        assert str(on_device.value) == str(on_cpu.value)


@pytest.mark.parametrize("check_finite", [False, True])
@pytest.mark.parametrize("sizes", [*EMPTY, *ALONE])
def test_ragged_clouds_without_bars(
    device: str, sizes: tuple[int, ...], check_finite: bool
) -> None:
    points, starts = packed(sizes, 3, torch.float32)
    x = points.to(device).requires_grad_()
    deaths, edges, bars = h0_persistence_varlen(x, starts, check_finite=check_finite)
    assert deaths.shape == (0,)
    assert edges.shape == (0, 2)
    assert bars.tolist() == [0] * len(starts)
    deaths.sum().backward()
    assert torch.equal(x.grad.cpu(), torch.zeros(points.shape))


def test_offsets_that_do_not_fit_are_refused(device: str) -> None:
    x = torch.zeros(11, 3, device=device)
    for offsets, said in (
        ([1, 11], "begin with 0 and to end with 11"),
        ([0, 10], "got 0 and 10"),
        ([0, 7, 5, 11], "got 7 and then 5 for cloud 1"),
        ([0, 1 << 40, 11], "got 1099511627776 and then 11 for cloud 1"),
    ):
        with pytest.raises(ValueError, match=said):
            h0_persistence_varlen(x, offsets)
    starts = torch.tensor([0, 4, 11])
    with pytest.raises(ValueError, match=r"bars: expected 9 \(that of the offsets\), got 10"):
        _ops.h0(x, None, starts, 10, "euclidean", 0.0, False)
    with pytest.raises(TypeError, match="offsets: expected a contiguous tensor of int64"):
        _ops.h0(x, None, starts.int(), 9, "euclidean", 0.0, False)


# ---- findings, arguments and the loss ----


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_the_kernels_write_all_findings(device: str, metric: str, n: int) -> None:
    """Even those of clouds without bars: their memory may hold anything before."""
    x = torch.zeros(3, n, n) if metric == "precomputed" else torch.ones(3, n, 2)
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills it with the largest integer
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = _ops_cuda._padded_h0(x.to(device), None, metric, 0.0)[2]
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(False)
    assert found[:, 0].tolist() == [0, 0, 0]


# The functions of `_core`: what they compute from, and its shape, which needs a workspace.
FUNCTIONS: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "cuda_h0_forward": (_ops_cuda._FORWARD, "points", (2, 130, 3)),
    "cuda_h0_backward": (_ops_cuda._BACKWARD, "points", (2, 520, 2)),
    "cuda_h0_from_distances": (_ops_cuda._FROM_DISTANCES, "distances", (2, 6, 6)),
}


def arguments_of(core: ModuleType, function: str) -> dict[str, Any]:
    """Arguments that a function of the core takes."""
    what, name, shape = FUNCTIONS[function]
    values, bars = torch.zeros(shape), shape[1] - 1
    size = core.cuda_workspace(what, 0, _batch.capsule(values))
    assert size > 0
    given = {
        name: values,
        "deaths": torch.zeros(2, bars),
        "edges": torch.zeros(2, bars, 2, dtype=torch.int64),
        "workspace": torch.zeros(size, dtype=torch.uint8),
        "stream": 0,
    }
    given |= {"metric": 0} if name == "points" else {"symmetry_tolerance": 0.0}
    if what == _ops_cuda._BACKWARD:
        return given | {"grad_deaths": torch.zeros(2, bars), "grad_points": torch.zeros(shape)}
    lengths, findings = torch.tensor([shape[1], 3]), torch.zeros(2, 3, dtype=torch.int64)
    return given | {"lengths": lengths, "findings": findings}


def call_core(core: ModuleType, function: str, arguments: dict[str, Any]) -> None:
    """Call a function of the core with tensors as capsules."""
    capsules = {
        name: _batch.capsule(value) if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    getattr(core, function)(**capsules)


# How a tensor may be wrong, and words of the error.
WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "no capsule": (Tensor.tolist, "expected a tensor or its DLPack capsule, got list"),
    "of another type": (lambda t: t.to(torch.int16), "expected .*, got int16 of shape"),
    "too short": (lambda t: t[:-1], "expected a contiguous tensor of .* and shape"),
    "too long": (lambda t: torch.cat([t, t]), "expected a contiguous tensor of .* and shape"),
    "with gaps": (lambda t: t.repeat_interleave(2, -1)[..., ::2], "expected .*, not contiguous"),
    "without memory": (lambda t: t[:0], "expected a contiguous tensor of .* and shape"),
    "without dimensions": (lambda t: t.flatten()[0], "expected "),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_core_refuses_a_wrong_tensor_by_its_name(
    core_over_source: ModuleType, function: str
) -> None:
    arguments = arguments_of(core_over_source, function)
    call_core(core_over_source, function, arguments)
    tensors = {name: t for name, t in arguments.items() if isinstance(t, Tensor)}
    assert len(tensors) == 6
    for name, tensor in tensors.items():
        for how, (spoil, said) in WRONG.items():
            named = name
            if name in ("points", "distances") and how in (
                "too short",
                "too long",
                "without memory",
            ):
                named = r"\w+"  # the first of the others, which do not belong to such points
            with pytest.raises(TypeError, match=rf"^{named}: {said}"):
                call_core(core_over_source, function, arguments | {name: spoil(tensor)})


@pytest.mark.parametrize("how", ["no capsule", "of another type", "without dimensions"])
@pytest.mark.parametrize(("what", "name"), [(0, "points"), (1, "points"), (2, "distances")])
def test_a_workspace_is_that_of_points_or_distances(
    core_over_source: ModuleType, what: int, name: str, how: str
) -> None:
    spoil, said = WRONG[how]
    spoilt = spoil(torch.zeros(2, 4, 4))
    values = _batch.capsule(spoilt) if isinstance(spoilt, Tensor) else spoilt
    with pytest.raises(TypeError, match=rf"^{name}: {said}"):
        core_over_source.cuda_workspace(what, 0, values)


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


def test_coincident_points_are_looked_for_by_the_first_call_alone(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later calls do not wait for the device, and neither do calls that a CUDA graph captures."""
    capturing = False
    monkeypatch.setattr(losses, "has_cuda_kernels", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    good = torch.from_numpy(gaussian(10, 3).reshape(2, 5, 3)).to(device)
    bad = torch.zeros_like(good)
    with pytest.warns(UserWarning, match="coincide in 2 of 2"):
        TSLoss()(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = TSLoss()
        loss(good)
        loss(bad)
        captured = TSLoss()
        capturing = True
        captured(bad)
    capturing = False
    with pytest.warns(UserWarning, match="coincide in 2 of 2"):
        captured(bad)


@pytest.mark.parametrize("built", [True, False])
def test_only_the_cuda_kernels_go_unchecked(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    monkeypatch.setattr(_core, "has_cuda", built)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    looks = _batch.resolve_check_finite
    assert [looks(c, cpu) for c in (None, True, False)] == [True, True, False]
    assert [looks(c, cuda) for c in (None, True, False)] == [not built, True, False]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_types_reach_a_cuda_device_and_are_widened_elsewhere(dtype: torch.dtype) -> None:
    def types(device: str) -> list[torch.dtype]:
        x = torch.zeros(5, 3, dtype=dtype, device=device)
        batches = (
            _batch.points_batch(x, "euclidean", None, False),
            _batch.ragged_batch(x, [0, 2, 5], "euclidean", False),
        )
        return [batch.values.dtype for batch in batches]

    assert types("cpu") == types("meta") == [torch.float32] * 2
    with FakeTensorMode():
        assert types("cuda") == [dtype] * 2
