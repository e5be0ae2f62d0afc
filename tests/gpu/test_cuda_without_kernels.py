"""A CUDA tensor in a build without CUDA kernels: the results of the CPU, on the device, by a copy.

On a device where there is one ("cuda"), with the kernels of the build hidden, and always with
tensors that only say they are on one ("host").
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_tensors
import pytest
import torch
import torch.utils.backend_registration
from clouds import gaussian
from cuda_checks import ALL_TYPES, register
from cuda_host import METRICS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tsloss_fast import (
    TSLoss,
    _batch,
    _core,
    _ops,
    _ops_cpu,
    _ops_cuda,
    barcode,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

POINTS = torch.from_numpy(gaussian(60, 7).reshape(2, 30, 7))
DISTANCES = torch.cdist(POINTS, POINTS, compute_mode="donot_use_mm_for_euclid_dist")
OFFSETS = [0, 20, 21, 21, 60]
OPERATORS = ("h0", "h0_backward")


@contextlib.contextmanager
def kernels_hidden(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA has what it has in a build without kernels. Torch calls the function that was registered
    last, also when its library is gone, so that the kernels are registered again."""
    patch.setattr(_core, "has_cuda", False)
    for name in OPERATORS:
        register(name, getattr(_ops_cpu, f"copied_{name}"), "CUDA")
    yield
    for name in OPERATORS:
        register(name, getattr(_ops_cuda, name), "CUDA")


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device that this build has no kernels for."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if _core.has_cuda:
            stack.enter_context(kernels_hidden(patch))
        patch.setattr(_ops_cpu, "_warned", set())
        if request.param == "host":
            cuda_tensors.install(patch)
            patch.setattr(_batch, "PLAIN", (*_batch.PLAIN, cuda_tensors.CudaTensor))
            passed = (*_ops_cpu._PASSED_THROUGH, "cuda_tensors")
            patch.setattr(_ops_cpu, "_PASSED_THROUGH", passed)
        yield "cuda"


def leaf(x: Tensor, device: str) -> Tensor:
    return x.to(device).detach().requires_grad_()


def check(f: Callable[[Tensor], Any], x: Tensor, device: str, exact: bool = True) -> None:
    """The results of f on the device, and their gradient, are those on the CPU."""
    here, there = x.clone().requires_grad_(), leaf(x, device)
    expected, found = f(here), f(there)
    expected, found = ([t] if isinstance(t, Tensor) else list(t) for t in (expected, found))
    weight = torch.linspace(1, 2, expected[0].numel(), dtype=expected[0].dtype)
    weight = weight.reshape(expected[0].shape)
    expected += torch.autograd.grad(expected[0], here, weight)
    found += torch.autograd.grad(found[0], there, weight.to(device))
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert b.is_cuda
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if exact:
            assert torch.equal(a, b.detach().cpu())
        else:
            atol = 16 * torch.finfo(a.dtype).eps * a.abs().max().item()
            torch.testing.assert_close(a, b.detach().cpu(), rtol=0, atol=atol)


pytestmark = pytest.mark.filterwarnings("ignore:tsloss_fast has no kernels")


@pytest.mark.parametrize("dtype", ALL_TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_bars_and_gradients_are_those_of_the_cpu(
    device: str, metric: str, dtype: torch.dtype
) -> None:
    check(lambda x: h0_persistence(x, metric), POINTS.to(dtype), device)
    check(lambda x: h0_persistence(x[0], metric), POINTS.to(dtype), device)


def test_lengths_may_be_on_either_device(device: str) -> None:
    for lengths in ([30, 4], torch.tensor([30, 4]), torch.tensor([30, 4]).to(device)):
        on_cpu = torch.tensor([30, 4])
        check(
            lambda x: h0_persistence(x, lengths=lengths if x.is_cuda else on_cpu),  # noqa: B023
            POINTS,
            device,
        )


@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_distances_have_the_bars_of_the_cpu(device: str, dtype: torch.dtype) -> None:
    check(h0_persistence_from_distances, DISTANCES.to(dtype), device)


@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_ragged_clouds_have_the_bars_of_the_cpu(device: str, dtype: torch.dtype) -> None:
    points = POINTS.flatten(0, 1).to(dtype)
    check(lambda x: h0_persistence_varlen(x, OFFSETS)[:2], points, device)
    on_device = h0_persistence_varlen(points.to(device), torch.tensor(OFFSETS).to(device)).offsets
    assert on_device.is_cuda
    assert on_device.tolist() == [0, 19, 19, 19, 57]


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"], indirect=True)  # the fake is in no nested tensor
def test_a_jagged_tensor_has_the_bars_of_the_cpu(device: str) -> None:
    def jagged(x: Tensor) -> Any:
        offsets = torch.tensor(OFFSETS).to(x.device)
        nested = torch.nested.nested_tensor_from_jagged(x.flatten(0, 1), offsets)
        deaths, edges = h0_persistence(nested)
        return deaths.values(), edges.values()

    check(jagged, POINTS, device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ragged", [False, True])
def test_second_derivatives_are_those_of_the_cpu(
    device: str, ragged: bool, dtype: torch.dtype
) -> None:
    def squares(x: Tensor) -> Tensor:
        if ragged:
            return h0_persistence_varlen(x.flatten(0, 1), OFFSETS).deaths.square()
        return h0_persistence(x).deaths.square()

    def slope(x: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(squares(x).sum(), x, create_graph=True)
        return grad

    check(slope, POINTS.to(dtype), device, exact=False)


def test_transforms_of_torch_func_reach_the_device(device: str) -> None:
    def total(x: Tensor) -> Tensor:
        return h0_persistence(x).deaths.square().sum()

    points = POINTS.to(device)
    found = torch.func.vmap(torch.func.grad(total))(points.detach())
    assert found.is_cuda
    expected = torch.func.vmap(torch.func.grad(total))(POINTS)
    torch.testing.assert_close(found.cpu(), expected)


def test_linkage_matrices_are_those_of_the_cpu(device: str) -> None:
    check(lambda x: barcode.single_linkage(h0_persistence(x)), POINTS, device)


@pytest.mark.parametrize(
    "loss",
    [
        TSLoss(),
        TSLoss(connectivity=0.5, redundancy=2.0, compactness=1.0),
        TSLoss(compactness=1.0, reference=2.0, metric="cosine"),
        TSLoss("surrogate"),
        TSLoss("total", p=2.0),
        TSLoss("total", eta=1.0),
        TSLoss("nearest"),
    ],
    ids=lambda loss: loss.extra_repr(),
)
def test_every_loss_is_that_of_the_cpu(device: str, loss: TSLoss) -> None:
    check(loss, POINTS.float(), device, exact=False)
    check(lambda x: loss(x, [30, 4]), POINTS.float(), device, exact=False)
    check(lambda x: loss(x, return_terms=True)[0], POINTS.bfloat16(), device, exact=False)


def test_the_loops_are_those_of_the_cpu(device: str) -> None:
    pytest.importorskip("gudhi", reason="the loops term needs GUDHI")
    check(TSLoss(loops=1.0), POINTS[:, :12].float(), device, exact=False)


def test_coincident_clouds_are_warned_of_in_the_call_that_meets_them(device: str) -> None:
    points = POINTS.clone()
    points[1] = 1.0
    with pytest.warns(UserWarning, match="all points coincide in 1 of 2 clouds"):
        assert TSLoss()(points.to(device)).isfinite()


def test_the_copy_is_looked_at_unless_told_otherwise(device: str) -> None:
    points = POINTS.clone()
    points[1, 7, 1] = torch.nan
    with pytest.raises(ValueError, match="point 7 of cloud 1 of 2 contains NaN"):
        h0_persistence(points.to(device))
    deaths = h0_persistence(points.to(device), check_finite=False).deaths.cpu()
    assert deaths[1].isnan().all()
    assert torch.equal(deaths[0], h0_persistence(POINTS).deaths[0])
    with pytest.raises(ValueError, match=r"between 0 and 30.*got 31 for cloud 1"):
        h0_persistence(POINTS.to(device), lengths=torch.tensor([3, 31]).to(device))


def copy_warnings(found: list[warnings.WarningMessage]) -> list[warnings.WarningMessage]:
    return [w for w in found if "no kernels for the device" in str(w.message)]


@pytest.mark.parametrize(
    "call",
    [h0_persistence, TSLoss(), lambda x: h0_persistence_varlen(x, [0, 5, 20])],
    ids=["bars", "loss", "ragged"],
)
def test_one_warning_says_what_is_copied(device: str, call: Callable[[Tensor], Any]) -> None:
    x = leaf(torch.randn(20, 2048), device)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call(x)
        call(x)
        h0_persistence(x).deaths.sum().backward()
    (warning,) = copy_warnings(found)
    said = str(warning.message)
    assert "no kernels for the device cuda:0 in this build" in said
    assert "this call copies 160 kB and waits for the device" in said
    assert "TSLOSS_CUDA=ON pip install ." in said
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "0.977 kB"),
        (163_840, "160 kB"),
        (1_048_000, "0.999 MB"),
        (3 << 29, "1.5 GB"),
    ],
)
def test_bytes_are_said_in_words(count: int, words: str) -> None:
    assert _ops_cpu._in_words(count) == words


def test_points_are_copied_once_each_way() -> None:
    with pytest.MonkeyPatch.context() as patch:
        x = POINTS.bfloat16()
        copies = cuda_tensors.install(patch)
        x = leaf(x, "cuda")
        del copies[:]
        deaths, edges = h0_persistence(x)
        assert copies == [("cpu", x.nbytes), ("cuda", deaths.nbytes), ("cuda", edges.nbytes)]
        del copies[:]
        deaths.sum().backward()
        down = [deaths.nbytes, x.nbytes, deaths.nbytes, edges.nbytes]
        assert copies == [*(("cpu", n) for n in down), ("cuda", x.nbytes)]


@pytest.fixture
def capturing(device: str, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[None]:
    """A CUDA graph that is being captured."""
    if not torch.cuda.is_available() or "host" in request.node.name:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        yield
        return
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        yield


@pytest.mark.parametrize(
    "call",
    [
        h0_persistence,
        TSLoss(),
        lambda x: h0_persistence_varlen(x[0], [0, 5, 30]),
        lambda x: h0_persistence_from_distances(x[:, :7]),
    ],
    ids=["bars", "loss", "ragged", "distances"],
)
def test_a_graph_that_is_captured_is_an_error_that_says_what_to_do(
    device: str, call: Callable[[Tensor], Any], request: Any
) -> None:
    x = leaf(POINTS, device)
    deaths = h0_persistence(x).deaths.sum()
    request.getfixturevalue("capturing")
    said = (
        r"shape \(.*, 7\) on cuda:0 while a CUDA graph is captured.*no kernels for the device; "
        r"expected a call outside of the capture.*without mode='reduce-overhead'.*TSLOSS_CUDA=ON"
    )
    with pytest.raises(RuntimeError, match=said):
        call(x)
    if isinstance(x, cuda_tensors.CudaTensor):  # a graph holds no backward pass without its forward
        with pytest.raises(RuntimeError, match=said):
            deaths.backward()


def test_a_tracker_measures_on_the_cpu_without_a_warning(device: str, tmp_path: Path) -> None:
    tracking = pytest.importorskip("tsloss_fast.analysis.record.tracker")
    recorded = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for name, points in {"there": POINTS.to(device), "here": POINTS}.items():
            with tracking.TopologyTracker(tmp_path / name, h1_every=None) as tracker:
                recorded.append(tracker.record(0, points, lengths=[30, 4]))
    assert recorded[0] == recorded[1]
    assert not copy_warnings(found)


def test_the_trainer_trains_with_a_loss_on_the_device(device: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tuning = pytest.importorskip("tsloss_fast.tuning")
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    prompts = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(num_attention_heads=2, **sizes)
        )
        model = tuning.add_soft_prompt(model, torch.randn(5, 8))
        trainer = tuning.TSLossTrainer(
            model=model,
            args=transformers.TrainingArguments(
                str(tmp_path / place), max_steps=2, report_to="none", save_strategy="no",
                use_cpu=True,
            ),
            train_dataset=[{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4,
            ts_clouds=lambda m, place=place: tuning.prompt_clouds(m).to(place),
        )  # fmt: skip
        result = trainer.train()
        prompts.append(tuning.prompt_clouds(model).detach())
        assert result.metrics["tsloss/total"] > 0
    torch.testing.assert_close(prompts[0], prompts[1])


needs_plain_build = pytest.mark.skipif(_core.has_cuda, reason="this build has CUDA kernels")


@needs_plain_build
def test_a_compiled_graph_leaves_the_operators_out_of_cuda_graphs() -> None:
    if not hasattr(torch.Tag, "cudagraph_unsafe"):
        pytest.skip("needs a torch that has the tag")
    from torch._inductor.utils import get_first_incompatible_cudagraph_node

    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 5, 3, device="cuda")
        graph = make_fx(lambda x: h0_persistence(x).deaths * 2)(x)
        plain = make_fx(lambda x: x * 2)(x)
    found = get_first_incompatible_cudagraph_node(graph)
    assert found is not None
    assert found.target is _ops.h0
    assert get_first_incompatible_cudagraph_node(plain) is None


@needs_plain_build
@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_results_have_the_types_and_shapes_and_the_device_that_a_tracer_expects(
    dtype: torch.dtype,
) -> None:
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    with FakeTensorMode():
        x = torch.empty(2, 6, 3, dtype=dtype, device="cuda")
        edges = (torch.int64, "cuda", (2, 5, 2))
        for found in (
            h0_persistence(x),
            h0_persistence(x, lengths=[6, 4]),
            h0_persistence_from_distances(torch.empty(2, 6, 6, dtype=dtype, device="cuda")),
        ):
            assert [(t.dtype, t.device.type, t.shape) for t in found] == [
                (wide, "cuda", (2, 5)),
                edges,
            ]
        grad = _ops.h0_backward(found.deaths, x, *found, None, "euclidean")
        assert (grad.dtype, grad.device.type, grad.shape) == (dtype, "cuda", x.shape)
        ragged = h0_persistence_varlen(x.flatten(0, 1), [0, 5, 12])
        assert [(t.dtype, t.device.type, t.shape) for t in ragged] == [
            (wide, "cuda", (10,)),
            (torch.int64, "cuda", (10, 2)),
            (torch.int64, "cuda", (3,)),
        ]


@needs_plain_build
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("key", ["CUDA", "MPS", "XPU", "PrivateUse1"])
def test_every_device_has_the_operators(name: str, key: str) -> None:
    has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    assert has(f"tsloss_fast::{name}", key)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("size", [0, 24])
def test_points_whose_storage_was_put_away_are_refused(device: str, size: int) -> None:
    x = POINTS.to(device)
    x.untyped_storage().resize_(size)
    with pytest.raises(ValueError, match=f"got a storage of {size} bytes"):
        h0_persistence(x)


def test_what_lies_behind_a_storage_is_not_copied() -> None:
    x = POINTS.clone()
    x.untyped_storage().resize_(24)
    with pytest.raises(ValueError, match="got a storage of 24 bytes"):
        _ops_cpu._on_cpu(x)


def test_tensors_on_the_cpu_that_are_no_ordinary_memory_are_refused_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (POINTS.to_sparse(), POINTS.float().to_mkldnn()):
            with pytest.raises(
                (TypeError, NotImplementedError, RuntimeError),
                match=r"points|Cannot access storage",
            ):
                torch.ops.tsloss_fast.h0(x, None, None, None, "euclidean", 0.0, True)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_compiled_code_copies_when_it_runs(device: str) -> None:
    # Inductor would compile for most of the time that a short visit has for all tests.
    compiled = torch.compile(
        lambda x: h0_persistence(x).deaths * 2, fullgraph=True, backend="aot_eager"
    )
    check(compiled, POINTS, device)


def test_any_other_device_of_torch_has_the_results_of_the_cpu() -> None:
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("needs a torch that can be taught a device in Python")
    program = Path(__file__).with_name("foreign_device.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "agreed\n", done.stderr
