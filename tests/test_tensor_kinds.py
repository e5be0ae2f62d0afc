"""Tensors of every kind give the right values on the device of the input, or a clear error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import same_bits
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.masked import masked_tensor
from torch.testing._internal.logging_tensor import LoggingTensor
from torch.testing._internal.two_tensor import TwoTensor

import tsloss_fast.reference
from tsloss_fast import (
    TSLoss,
    barcode,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

POINTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
DISTANCES = (POINTS[:, None] - POINTS).norm(dim=-1)
LEAF = POINTS.clone().requires_grad_()
OFFSETS = torch.tensor([0, 2, 6])
JAGGED = torch.nested.nested_tensor_from_jagged(POINTS, OFFSETS)
H0 = h0_persistence(POINTS)

Call = Callable[[], Tensor]


def gradient(loss: Tensor, create_graph: bool = False) -> Tensor:
    return torch.autograd.grad(loss, LEAF, create_graph=create_graph)[0]


# Every function of the package that creates tensors.
CALLS: dict[str, Call] = {
    "h0_persistence": lambda: h0_persistence(POINTS).deaths,
    "gradient": lambda: gradient(h0_persistence(LEAF).deaths.sum()),
    "second derivative": lambda: gradient(
        gradient(h0_persistence(LEAF).deaths.square().sum(), create_graph=True).square().sum()
    ),
    "half type": lambda: h0_persistence(POINTS.half()).deaths,
    "lengths": lambda: h0_persistence(POINTS[None], lengths=[4]).deaths,
    "array": lambda: torch.from_numpy(h0_persistence(POINTS.numpy()).deaths),
    "distances": lambda: h0_persistence_from_distances(DISTANCES).deaths,
    "distances, array": lambda: torch.from_numpy(
        h0_persistence_from_distances(DISTANCES.numpy()).deaths
    ),
    "varlen": lambda: h0_persistence_varlen(POINTS, [0, 2, 6]).deaths,
    "varlen, gradient": lambda: gradient(h0_persistence_varlen(LEAF, [0, 2, 6]).deaths.sum()),
    "varlen, tensor": lambda: h0_persistence_varlen(POINTS, OFFSETS).offsets,
    "jagged": lambda: h0_persistence(JAGGED).deaths.values(),
    "vmap": lambda: torch.vmap(lambda c: h0_persistence(c).deaths)(POINTS[None]),
    "jacfwd": lambda: torch.func.jacfwd(lambda c: h0_persistence(c).deaths)(POINTS),
    "reference": lambda: tsloss_fast.reference.h0_persistence(POINTS).deaths,
    "single_linkage": lambda: barcode.single_linkage(H0),
    "exact loss": lambda: TSLoss()(POINTS),
    "exact loss, gradient": lambda: gradient(TSLoss()(LEAF)),
    "exact loss, compact": lambda: TSLoss(compactness=1.0)(POINTS),
    "exact loss, padded": lambda: TSLoss()(POINTS[None], [4]),
    "exact loss, jagged": lambda: TSLoss()(JAGGED),
    "surrogate loss": lambda: TSLoss("surrogate")(POINTS),
    "total loss": lambda: TSLoss("total")(POINTS.half()),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_on_the_device_of_the_input_whatever_the_default_device(name: str) -> None:
    expected = CALLS[name]()
    with torch.device("meta"):
        result = CALLS[name]()
    assert result.device.type == "cpu"
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


def test_loops_are_computed_under_another_default_device() -> None:
    pytest.importorskip("gudhi", reason="the loops term needs GUDHI")
    expected = TSLoss(loops=1.0)(POINTS)
    with torch.device("meta"):
        torch.testing.assert_close(TSLoss(loops=1.0)(POINTS), expected)


def in_all_forms(points: Any) -> list[Any]:
    """The deaths of one cloud by each public function of points."""
    return [h0_persistence(points).deaths, h0_persistence_varlen(points, [0, 6]).deaths]


def functional(x: Tensor) -> Tensor:
    torch._enable_functionalization(reapply_views=True)
    try:
        return torch._to_functional_tensor(x)
    finally:
        torch._disable_functionalization()


@pytest.mark.parametrize(
    "wrap",
    [
        LoggingTensor,
        AsyncCollectiveTensor,
        lambda x: TwoTensor(x.clone(), x.clone()),
        lambda x: torch._neg_view(-x),
        lambda x: x.as_subclass(type("Named", (torch.Tensor,), {})),
    ],
    ids=["logging", "asynchronous", "two", "negated", "subclass"],
)
def test_a_tensor_that_stands_for_another_has_its_deaths(wrap: Callable[[Tensor], Any]) -> None:
    for deaths in in_all_forms(wrap(POINTS)):
        assert torch.equal(torch.as_tensor(getattr(deaths, "a", deaths)), H0.deaths)


def test_a_negated_leaf_has_the_gradient_of_the_points_that_it_shows() -> None:
    leaf = torch._neg_view(POINTS.clone()).requires_grad_()
    plain = (-POINTS).requires_grad_()
    for f in (lambda x: h0_persistence(x).deaths.sum(), TSLoss()):
        (grad,) = torch.autograd.grad(f(leaf), leaf)
        (expected,) = torch.autograd.grad(f(plain), plain)
        torch.testing.assert_close(grad.clone(), expected)


def test_a_functional_tensor_has_its_deaths() -> None:
    for deaths in in_all_forms(functional(POINTS)):
        assert torch.equal(torch._from_functional_tensor(deaths), H0.deaths)


def test_a_tensor_of_zeros_without_memory_is_a_cloud_of_coincident_points() -> None:
    for deaths in in_all_forms(torch._efficientzerotensor((6, 3))):
        assert torch.equal(deaths, torch.zeros(5))


def test_a_fake_tensor_gives_fake_results_of_the_right_shape() -> None:
    with FakeTensorMode() as mode:
        for deaths in in_all_forms(mode.from_tensor(POINTS)):
            assert type(deaths).__name__ == "FakeTensor"
            assert deaths.shape == (5,)
        for form in ("exact", "surrogate", "total"):
            leaf = torch.empty(6, 3, requires_grad=True)
            TSLoss(form)(leaf).backward()
            assert leaf.grad is not None


def test_offsets_without_values_are_refused() -> None:
    with FakeTensorMode() as mode, pytest.raises(TypeError, match="pass a list"):
        h0_persistence_varlen(mode.from_tensor(POINTS), mode.from_tensor(torch.tensor([0, 2, 6])))
    with pytest.raises(TypeError, match="pass a list"):
        torch.vmap(lambda o: h0_persistence_varlen(POINTS, o).deaths)(OFFSETS[None])


def test_masks_are_refused_and_never_ignored() -> None:
    mask = np.zeros((6, 3), dtype=bool)
    mask[2] = True
    for call in (
        lambda: h0_persistence(np.ma.masked_array(POINTS.numpy(), mask)),
        lambda: h0_persistence_varlen(np.ma.masked_array(POINTS.numpy(), mask), [0, 6]),
        lambda: h0_persistence_from_distances(np.ma.masked_array(DISTANCES.numpy())),
        lambda: h0_persistence(masked_tensor(POINTS.clone(), torch.from_numpy(~mask))),
        lambda: TSLoss()(masked_tensor(POINTS.clone(), torch.from_numpy(~mask))),
    ):
        with pytest.raises(TypeError, match=r"mask.*`lengths`"):
            call()


@pytest.mark.parametrize("size", [0, 40])
def test_a_storage_that_is_shorter_than_its_tensor_is_refused(size: int) -> None:
    def shortened(x: Tensor) -> Tensor:
        x.untyped_storage().resize_(size)
        return x

    for call in (
        lambda: h0_persistence(shortened(torch.zeros(6, 3))),
        lambda: h0_persistence(shortened(torch.zeros(6, 3).mT)),
        lambda: h0_persistence(shortened(torch.zeros(2, 6, 3)), lengths=[6, 4]),
        lambda: h0_persistence_varlen(shortened(torch.zeros(6, 3)), [0, 6]),
        lambda: h0_persistence_from_distances(shortened(torch.zeros(6, 6))),
        lambda: TSLoss()(shortened(torch.zeros(6, 3)).requires_grad_()),
    ):
        with pytest.raises(ValueError, match=rf"storage of {size} bytes.*summon_full_params"):
            call()


def test_an_empty_view_that_begins_behind_its_storage_is_an_empty_cloud() -> None:
    for x in (torch.empty(0, 6, 3)[:, 1:], torch.empty(0, 5)[:, 2:], torch.empty(4, 0)[2:]):
        assert (h0_persistence(x).deaths == 0).all()
        assert TSLoss()(x) == 0
    assert not len(barcode.mean_death(torch.empty(0, 6)[:, 1:]))
    no_lengths = torch.zeros(0, 3, dtype=torch.int64)[:, 1]
    assert h0_persistence(torch.empty(0, 4, 2), lengths=no_lengths).deaths.shape == (0, 3)


def test_a_storage_that_is_emptied_before_backward_is_refused() -> None:
    flat = torch.randn(21, requires_grad=True)
    for x in (flat[:18].view(6, 3), flat[3:].view(6, 3), flat[3:].view(3, 6).T):
        loss = h0_persistence(x).deaths.sum()
        held = flat.untyped_storage().nbytes()
        flat.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="storage of 0 bytes"):
            loss.backward()
        flat.untyped_storage().resize_(held)
        with torch.no_grad():
            flat.copy_(torch.randn(21))


def test_saved_tensors_may_come_back_in_another_layout() -> None:
    def transposed(t: Tensor) -> Tensor:
        return t.T.contiguous().T if t.dim() == 2 else t

    for f in (
        lambda x: h0_persistence(x).deaths.sum(),
        lambda x: h0_persistence_varlen(x, [0, 6]).deaths.sum(),
        TSLoss("total"),
    ):
        with torch.autograd.graph.saved_tensors_hooks(transposed, lambda t: t):
            loss = f(LEAF)
        assert torch.equal(gradient(loss), gradient(f(LEAF)))


@pytest.mark.slow
def test_a_distributed_tensor_is_gathered(tmp_path: Path) -> None:
    code = f"""
import torch, torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from tsloss_fast import h0_persistence, h0_persistence_varlen
store = dist.FileStore({str(tmp_path / "store")!r}, 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
plain = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
mesh = init_device_mesh("cpu", (1,))
for f in (h0_persistence, lambda x: h0_persistence_varlen(x, [0, 5, 12])):
    sharded = torch.nn.Parameter(distribute_tensor(plain.detach(), mesh, [Shard(0)]))
    deaths, expected = f(sharded).deaths, f(plain).deaths
    assert torch.equal(deaths, expected)
    deaths.sum().backward()
    (grad,) = torch.autograd.grad(expected.sum(), plain)
    assert torch.equal(sharded.grad.full_tensor(), grad)
dist.destroy_process_group()
print("agreed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "agreed\n", done.stderr


def test_the_package_can_be_imported_a_second_time() -> None:
    code = """
import sys, torch, tsloss_fast
first = tsloss_fast
x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
for name in [name for name in sys.modules if name.split(".")[0] == "tsloss_fast"]:
    del sys.modules[name]
import tsloss_fast
assert tsloss_fast is not first
for package in (first, tsloss_fast):
    assert torch.autograd.gradcheck(lambda x: package.h0_persistence(x).deaths, x)
    for batch in (x[None], x.detach().bfloat16()[None]):
        package.h0_persistence(batch, lengths=[4])
print("twice")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "twice\n", done.stderr


def test_a_jagged_loss_is_that_of_the_padded_batch() -> None:
    padded = torch.nested.to_padded_tensor(JAGGED, 0.0)
    for loss in (TSLoss(), TSLoss("surrogate"), TSLoss("total"), TSLoss(compactness=1.0)):
        assert torch.equal(loss(JAGGED), loss(padded, [2, 4]))
    with pytest.raises(ValueError, match="a nested tensor has its own"):
        TSLoss()(JAGGED, [2, 4])


def test_linkage_matrices_of_ragged_results_are_those_of_each_cloud() -> None:
    ragged = h0_persistence_varlen(POINTS, OFFSETS)
    expected = [barcode.single_linkage(h0_persistence(c)) for c in (POINTS[:2], POINTS[2:])]
    assert same_bits([barcode.single_linkage(ragged)], [torch.cat(expected)])
    jagged = barcode.single_linkage(h0_persistence(JAGGED))
    assert torch.equal(jagged.values(), torch.cat(expected))
    arrays = h0_persistence_varlen(POINTS.numpy(), OFFSETS.numpy())
    np.testing.assert_array_equal(barcode.single_linkage(arrays), torch.cat(expected))


def test_a_tensor_that_hooks_give_back_negated_is_read_as_what_it_is() -> None:
    for function in (lambda x: h0_persistence(x).deaths.sum(), TSLoss()):
        x = torch.randn(9, 4, requires_grad=True)
        (wanted,) = torch.autograd.grad(function(x), x)

        def negated(t: torch.Tensor) -> torch.Tensor:
            return torch._neg_view(-t) if t.shape == (9, 4) else t

        negate = torch.autograd.graph.saved_tensors_hooks(lambda t: t, negated)
        with negate:
            value = function(x)
        (found,) = torch.autograd.grad(value, x)
        assert torch.equal(found, wanted)
