"""TSLoss as a module (copies, pickles, state dicts, optimizers), and the operators underneath."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import crowded
from oracles import METRICS
from torch import Tensor

from tsloss_fast import TSLoss, _core, barcode, doctor, h0_persistence, h0_persistence_varlen

FORMS: dict[str, Callable[[], TSLoss]] = {
    "exact": lambda: TSLoss(compactness=0.3, reference=1.0),
    "surrogate": lambda: TSLoss(form="surrogate"),
    "total": lambda: TSLoss(form="total", p=2.0),
}
every_form = pytest.mark.parametrize("form", FORMS)


def batch(count: int = 4, n: int = 7, d: int = 3, dtype: type = np.float64) -> Tensor:
    return torch.from_numpy(np.stack([crowded(n, d, s).astype(dtype) for s in range(count)]))


def distances(x: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - x.unsqueeze(-3)).abs().sum(-1)


@every_form
def test_the_module_survives_copying_pickling_and_conversion(form: str) -> None:
    loss, x = FORMS[form](), batch()
    expected = loss(x)
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(other) == repr(loss)
        assert torch.equal(other(x), expected)
    assert form in repr(loss)
    for moved in (loss.half(), loss.double(), loss.to(torch.bfloat16), loss.eval(), loss.train()):
        torch.testing.assert_close(moved(x), expected)
    assert not list(loss.parameters())


def test_the_learned_reference_travels_with_the_state_dict() -> None:
    first, second = batch()[:2], 3 * batch()[2:]
    loss = TSLoss(compactness=1.0)
    fresh = copy.deepcopy(loss)
    loss(first)
    expected = loss(second)
    stream = io.BytesIO()
    torch.save(loss.state_dict(), stream)
    stream.seek(0)
    restored = TSLoss(compactness=1.0)
    restored.load_state_dict(torch.load(stream, weights_only=True))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), restored):
        assert torch.equal(other(second), expected)
    # One that has seen nothing takes its own reference, also after loading such a state.
    early = TSLoss(compactness=1.0)
    early.load_state_dict(fresh.state_dict())
    _, terms = early(second, return_terms=True)
    torch.testing.assert_close(terms["compactness"].double(), torch.tensor(1.0).double())
    assert not torch.equal(early(second), expected)


def compactness(loss: TSLoss, x: Tensor) -> Tensor:
    return loss(x, return_terms=True)[1]["compactness"]


def overwritten_by(loss: TSLoss, change: str) -> TSLoss:
    """The module after what frameworks do to the buffers of a model."""
    if change == "to_empty":
        loss.to_empty(device="cpu")
        for buffer in loss.buffers():
            buffer.fill_(1234567)  # what memory that was never written to may hold
        return loss
    return {"half": loss.half, "bfloat16": loss.bfloat16, "meta": lambda: loss.to("meta")}[change]()


@pytest.mark.parametrize("change", ["to_empty", "half", "bfloat16", "meta"])
def test_a_reference_that_was_given_is_a_number_of_the_module(change: str) -> None:
    x = 1000 * batch().float()
    expected = compactness(TSLoss(compactness=1.0, reference=2.0), x)
    loss = overwritten_by(TSLoss(compactness=1.0, reference=2.0), change)
    assert torch.equal(compactness(loss, x), expected)
    assert not loss.state_dict()


@pytest.mark.parametrize("change", ["to_empty", "half", "bfloat16", "meta"])
def test_a_reference_that_was_measured_survives_or_is_measured_again(change: str) -> None:
    x = 1000 * batch().float()  # a mean that float16 cannot hold under this metric
    loss = TSLoss(compactness=1.0, metric="sqeuclidean")
    compactness(loss, 2 * x)
    kept = loss.m_ref
    overwritten_by(loss, change)
    if change in ("half", "bfloat16"):
        assert torch.equal(loss.m_ref, kept)
    torch.testing.assert_close(
        compactness(loss, x).item(), 0.25 if change in ("half", "bfloat16") else 1.0
    )


def test_states_with_the_reference_as_a_float_are_read() -> None:
    loss = TSLoss(compactness=1.0)
    loss.load_state_dict({"m_ref": torch.tensor(3.5)})
    assert loss.m_ref == 3.5
    torch.nn.Sequential(TSLoss()).load_state_dict({"0.m_ref": torch.tensor(float("nan"))})


def test_clouds_of_a_single_point_are_warned_of_once() -> None:
    loss = TSLoss()
    with pytest.warns(UserWarning, match=r"\(20, 1, 5\).*points\.squeeze\(-2\)"):
        assert loss(torch.randn(20, 1, 5)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.randn(20, 1, 5))
        TSLoss()(torch.randn(20, 5))


def test_modules_nest_and_optimizers_step_on_the_loss() -> None:
    torch.manual_seed(0)
    prompt = torch.nn.Embedding(12, 8)
    loss = TSLoss()
    optimizer = torch.optim.Adam(prompt.parameters(), lr=0.02)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(prompt.weight)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.05 * values[0]
    h0 = h0_persistence(prompt.weight.detach())
    assert barcode.coefficient_of_variation(h0.deaths) < 0.1


@pytest.mark.slow
def test_the_loss_takes_distributed_tensors(tmp_path: Path) -> None:
    code = f"""
import torch, torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from tsloss_fast import TSLoss
store = dist.FileStore({str(tmp_path / "store")!r}, 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
plain = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
mesh = init_device_mesh("cpu", (1,))
for form in ("exact", "nearest", "surrogate", "total"):
    sharded = torch.nn.Parameter(distribute_tensor(plain.detach(), mesh, [Shard(0)]))
    loss, expected = TSLoss(form)(sharded), TSLoss(form)(plain)
    assert torch.equal(loss, expected), form
    loss.backward()
    (grad,) = torch.autograd.grad(expected, plain)
    assert torch.equal(sharded.grad.full_tensor(), grad), form
dist.destroy_process_group()
print("agreed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "agreed\n", done.stderr


def operator_calls() -> dict[str, list[tuple[object, ...]]]:
    """Arguments for each operator of the library, over types, metrics, lengths and sizes."""
    calls: dict[str, list[tuple[object, ...]]] = {
        "h0": [],
        "h0_backward": [],
        "single_linkage": [],
    }
    for dtype in (np.float32, np.float64):
        x = batch(3, 9, 4, dtype)
        for metric in METRICS:
            for lengths in (None, torch.tensor([9, 4, 0])):
                calls["h0"].append((x, lengths, None, None, metric, 0.0, True))
                h0 = h0_persistence(x, metric, lengths)
                grad = torch.ones_like(h0.deaths)
                calls["h0_backward"].append((grad, x, h0.deaths, h0.edges, None, metric))
        for few in (x[:, :1], x[0], x.unsqueeze(1)):
            calls["h0"].append((few, None, None, None, "euclidean", 0.0, False))
        rows, offsets = x.reshape(-1, 4), torch.tensor([0, 2, 2, 15, 27])
        for metric in METRICS:
            calls["h0"].append((rows, None, offsets, 24, metric, 0.0, True))
            deaths, edges, _ = h0_persistence_varlen(rows, offsets, metric)
            calls["h0_backward"].append(
                (torch.ones_like(deaths), rows, deaths, edges, offsets, metric)
            )
        calls["single_linkage"].append((h0_persistence(x).edges,))
        d = distances(x)
        calls["h0"].append((d, None, None, None, "precomputed", 1e-5, True))
        lengths = torch.tensor([9, 4, 0])
        calls["h0"].append((d, lengths, None, None, "precomputed", 1e-5, False))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("name", operator_calls())
def test_the_operators_pass_opcheck(name: str) -> None:
    operator = getattr(torch.ops.tsloss_fast, name).default
    for arguments in operator_calls()[name]:
        torch.library.opcheck(operator, arguments)


def test_every_operator_of_the_library_is_checked_here() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if "tsloss_fast::" in name}
    assert names == {f"tsloss_fast::{name}" for name in operator_calls()}


def test_operators_refuse_what_the_kernels_cannot_read() -> None:
    ops, x = torch.ops.tsloss_fast, batch(2, 5, 3)
    h0 = h0_persistence(x)

    def points(values: object, lengths: object = None) -> object:
        return ops.h0(values, lengths, None, None, "euclidean", 0.0, True)

    def ragged(values: object, offsets: list[int], bars: int | None) -> object:
        starts = torch.tensor(offsets, dtype=torch.int64)
        return ops.h0(values, None, starts, bars, "euclidean", 0.0, True)

    def matrices(values: object) -> object:
        return ops.h0(values, None, None, None, "precomputed", 1e-5, True)

    def backward(grad: object, deaths: object, edges: object) -> object:
        return ops.h0_backward(grad, x, deaths, edges, None, "euclidean")

    wrong: list[Callable[[], object]] = [
        lambda: points(x[0, 0]),
        lambda: points(x.bfloat16()),
        lambda: points(x.long()),
        lambda: points(x, torch.tensor([5])),
        lambda: points(x, torch.tensor([5, 6])),
        lambda: points(x, torch.tensor([5, 5], dtype=torch.int32)),
        lambda: backward(h0.deaths[:1], h0.deaths, h0.edges),
        lambda: backward(h0.deaths.float(), h0.deaths, h0.edges),
        lambda: backward(h0.deaths, h0.deaths[:, 1:], h0.edges),
        lambda: backward(h0.deaths, h0.deaths, h0.edges.int()),
        lambda: ragged(x[0], [0, 4], 3),
        lambda: ragged(x[0], [0, 7, 2, 5], 3),
        lambda: ragged(x[0], [0, 5], 9),
        lambda: ragged(x[0], [0, 5], None),
        lambda: ragged(x[0], [], 0),
        lambda: ops.single_linkage(h0.edges.int()),
        lambda: ops.single_linkage(h0.edges + 9),
        lambda: ops.single_linkage(h0.edges[..., 0]),
        lambda: matrices(x),
        lambda: matrices(distances(x).half()),
    ]
    for k, call in enumerate(wrong):
        with pytest.raises((ValueError, TypeError, RuntimeError, IndexError)) as caught:
            call()
        assert len(str(caught.value)) > 20, k


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """What the doctor says of a build with CUDA kernels, and of devices."""

    def report(architectures: str | None, *capabilities: tuple[int, int]) -> dict[str, str]:
        monkeypatch.setattr(_core, "has_cuda", architectures is not None)
        monkeypatch.setattr(_core, "cuda_architectures", architectures or "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda k: capabilities[k])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: f"GPU {k}")
        return doctor.report()

    return report


def test_the_doctor_says_what_the_cuda_kernels_were_built_for(
    machine: Callable[..., dict[str, str]],
) -> None:
    for built, expected in {
        "80-real 90-real 120": "built for sm_80, sm_90, sm_120 and later",
        "90a-real": "built for sm_90a",
        "86-virtual": "built for sm_86 and later, translated",
        "native": "built for native",
    }.items():
        assert machine(built)["cuda kernels"] == expected
    without = machine(None)
    assert without["cuda kernels"].startswith("not built (CPU kernels only; TSLOSS_CUDA=ON pip")
    assert without["cuda device"] == "none"


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("80-real", (8, 0), True),
        ("80-real", (8, 9), True),
        ("86-real", (8, 0), False),
        ("80-real", (9, 0), False),
        ("80", (9, 0), True),
        ("80-virtual", (12, 0), True),
        ("120-virtual", (9, 0), False),
        ("100", (12, 0), True),
        ("90a-real", (9, 0), True),
        ("90a", (10, 0), False),
        ("75-real 90-real", (9, 0), True),
        ("native", (7, 5), True),
    ],
)
def test_the_doctor_knows_a_device_that_the_kernels_were_not_built_for(
    machine: Callable[..., dict[str, str]], built: str, capability: tuple[int, int], runs: bool
) -> None:
    number = f"{capability[0]}{capability[1]}"
    said = machine(built, capability)["cuda device"]
    if runs:
        assert said == f"GPU 0 (sm_{number})"
    else:
        assert said.startswith(f"GPU 0 (sm_{number}, which the kernels were not built for")
        assert f"-DCMAKE_CUDA_ARCHITECTURES={number} " in said


def test_the_doctor_says_of_a_device_without_kernels_that_tensors_are_copied(
    machine: Callable[..., dict[str, str]],
) -> None:
    said = machine(None, (9, 0))
    assert said["cuda device"] == (
        "GPU 0 (sm_90, without kernels in this build: its tensors are copied to the CPU)"
    )
    assert "TSLOSS_CUDA=ON pip install ." in said["cuda kernels"]


def test_the_doctor_names_every_device(machine: Callable[..., dict[str, str]]) -> None:
    said = machine("90-real", (9, 0), (8, 0))["cuda device"]
    assert said.startswith("GPU 0 (sm_90), GPU 1 (sm_80, which the kernels were not built for")


def test_this_build_knows_its_architectures_if_it_has_cuda_kernels() -> None:
    assert bool(_core.cuda_architectures) == _core.has_cuda
