"""torch.compile(fullgraph=True) and torch.export: the values and gradients of eager mode."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from clouds import crowded
from oracles import METRICS
from torch import Tensor

from tsloss_fast import (
    TSLoss,
    barcode,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(count: int = 3, n: int = 8, d: int = 4) -> Tensor:
    return torch.from_numpy(np.stack([crowded(n, d, s) for s in range(count)])).float()


def assert_compiles(
    function: Callable[[Tensor], Tensor], inputs: list[Tensor], backend: str = "aot_eager"
) -> None:
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for x in inputs:
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, got = function(a), compiled(b)
        torch.testing.assert_close(got, expected)
        expected.sum().backward()
        got.sum().backward()
        assert a.grad.any()
        torch.testing.assert_close(b.grad, a.grad)


@pytest.mark.parametrize("metric", METRICS)
def test_deaths_compile_in_one_graph_for_every_metric(metric: str) -> None:
    weights = torch.linspace(1, 2, 7)
    assert_compiles(lambda x: h0_persistence(x, metric).deaths * weights, [batch(), batch()[0]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_type_compiles(dtype: torch.dtype) -> None:
    assert_compiles(lambda x: h0_persistence(x).deaths.square(), [batch().to(dtype)])


def test_sizes_may_be_dynamic() -> None:
    assert_compiles(
        lambda x: h0_persistence(x).deaths.square(),
        [batch(), batch(5), batch(5, 11), batch(2, 30, 6), batch(4, 2)],
    )


def test_lengths_edges_and_distance_matrices_compile() -> None:
    for lengths in (torch.tensor([8, 5, 0]), [8, 5, 0], np.array([8, 5, 0])):

        def padded(x: Tensor, lengths: Any = lengths) -> Tensor:
            h0 = h0_persistence(x, lengths=lengths)
            return h0.deaths.square() + h0.edges.sum(-1)

        assert_compiles(padded, [batch()])

    def by_distances(x: Tensor) -> Tensor:
        d = (x.unsqueeze(-2) - x.unsqueeze(-3)).abs().sum(-1)
        return h0_persistence_from_distances(d).deaths.square()

    assert_compiles(by_distances, [batch()])


LOSSES: dict[str, Callable[[], TSLoss]] = {
    "exact": lambda: TSLoss(),
    "compact": lambda: TSLoss(compactness=0.5, reference=2.0),
    "surrogate": lambda: TSLoss(form="surrogate"),
    "total": lambda: TSLoss(form="total", eta=1.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_compiles_in_one_graph(name: str) -> None:
    assert_compiles(LOSSES[name](), [batch(), batch()[0]])
    loss = LOSSES[name]()
    assert_compiles(lambda x: loss(x, lengths=torch.tensor([8, 5, 2])), [batch()])


def test_functionals_compile_in_one_graph() -> None:
    def functionals(x: Tensor) -> Tensor:
        d = h0_persistence(x).deaths
        return torch.stack(
            [
                barcode.total_persistence(d, 2.0),
                barcode.variance(d),
                barcode.coefficient_of_variation(d),
                barcode.persistent_entropy(d, normalize=True),
                barcode.redundancy(d),
                barcode.num_components(d, 1.0, smoothing=0.1),
                barcode.bottleneck_distance(d, d.flip(0)),
            ]
        )

    assert_compiles(functionals, [batch()])


@pytest.mark.slow
def test_a_training_step_compiles_with_the_default_backend() -> None:
    loss = TSLoss()
    linear = torch.nn.Linear(4, 4)

    def step(x: Tensor) -> Tensor:
        return loss(linear(x)) + barcode.persistent_entropy(h0_persistence(x).deaths).mean()

    assert_compiles(step, [batch(), batch(5)], backend="inductor")


def test_a_bad_cloud_is_an_error_in_compiled_code_too() -> None:
    compiled = torch.compile(
        lambda x: h0_persistence(x).deaths, fullgraph=True, backend="aot_eager"
    )
    x = batch()
    compiled(x)
    x[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"point 2 of cloud 1\b"):
        compiled(x)


class Topology(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss = TSLoss()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h0 = h0_persistence(x)
        return self.loss(x), h0.deaths, h0.edges


def test_a_module_can_be_exported() -> None:
    exported = torch.export.export(Topology(), (batch(),)).module()
    for got, expected in zip(exported(batch()), Topology()(batch()), strict=True):
        torch.testing.assert_close(got, expected)


class Deaths(torch.nn.Module):
    def forward(self, x: Tensor) -> Any:
        return h0_persistence(x), h0_persistence_varlen(x[0], [0, 3, 8])


def test_results_can_be_saved_and_loaded() -> None:
    expected = Deaths()(batch())
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Deaths(), (batch(),)), stream)
    stream.seek(0)
    loaded = torch.export.load(stream).module()(batch())
    weights = io.BytesIO()
    torch.save(expected, weights)
    weights.seek(0)
    for got in (loaded, torch.load(weights, weights_only=True)):
        for one, other in zip(got, expected, strict=True):
            assert type(one) is type(other)
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_module_can_be_exported_for_batches_of_any_size() -> None:
    dynamic = {"x": {0: torch.export.Dim("batch", min=2)}}
    exported = torch.export.export(Topology(), (batch(),), dynamic_shapes=dynamic).module()
    for x in (batch(), batch(6)):
        for got, expected in zip(exported(x), Topology()(x), strict=True):
            torch.testing.assert_close(got, expected)
