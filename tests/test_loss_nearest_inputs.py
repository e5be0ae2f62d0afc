"""TSLoss(form="nearest") on batches, half types, coincident clouds and other kinds of tensors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from clouds import crowded
from oracles import METRICS, neighbour_spread

from tsloss_fast import TSLoss

every_metric = pytest.mark.parametrize("metric", METRICS)


def nearest(metric: str = "euclidean", **more: float) -> TSLoss:
    return TSLoss(form="nearest", metric=metric, **more)


@every_metric
@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan")])
def test_a_padded_batch_has_the_mean_loss_of_its_clouds(metric: str, garbage: float) -> None:
    sizes = [12, 7, 3, 2, 1, 0]
    padded = torch.full((6, 12, 3), garbage, dtype=torch.float64)
    cut = [crowded(n, 3, seed=n) for n in sizes]
    for row, cloud in zip(padded, cut, strict=True):
        row[: len(cloud)] = torch.from_numpy(cloud)
    padded.requires_grad_()
    loss = nearest(metric)(padded, torch.tensor(sizes))
    expected = np.mean([neighbour_spread(cloud, metric) for cloud in cut])
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-8)
    shaped = nearest(metric)(padded.reshape(2, 3, 12, 3), torch.tensor(sizes).reshape(2, 3))
    torch.testing.assert_close(shaped, loss, rtol=1e-14, atol=0)
    loss.backward()
    for row, cloud in zip(padded.grad, cut, strict=True):
        assert not row[len(cloud) :].any()
        leaf = torch.from_numpy(cloud).requires_grad_()
        if len(cloud) > 2:
            nearest(metric)(leaf).backward()
            torch.testing.assert_close(row[: len(cloud)], leaf.grad / 6, rtol=1e-10, atol=1e-13)


def test_a_jagged_batch_has_the_loss_of_the_padded_one() -> None:
    points = torch.from_numpy(crowded(12, 3)).requires_grad_()
    jagged = torch.nested.nested_tensor_from_jagged(points, torch.tensor([0, 5, 12]))
    (grad,) = torch.autograd.grad(nearest()(jagged), points)
    clouds = points[:5], points[5:]
    expected = sum(nearest()(cloud) for cloud in clouds) / 2
    torch.testing.assert_close(nearest()(jagged), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, points)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    x = torch.from_numpy(crowded(12, 6)).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    loss, expected = nearest()(x), nearest()(wide)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(x.grad, wide.grad.to(dtype))


def test_coincident_clouds_count_as_zero_and_are_warned_of_once() -> None:
    x = torch.from_numpy(np.stack([crowded(8, 3, s) for s in range(3)]))
    x[1] = x[1, 0]
    x.requires_grad_()
    module = nearest()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            loss = module(x)
            assert module(torch.ones(5, 3)) == 0
    assert ["coincide" in str(w.message) for w in caught] == [True]
    expected = (
        neighbour_spread(x[0].detach().numpy()) + neighbour_spread(x[2].detach().numpy())
    ) / 3
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)
    loss.backward()
    assert x.grad.isfinite().all()
    assert not x.grad[1].any()
    assert x.grad[[0, 2]].any()


@pytest.mark.filterwarnings("ignore:.* is .* cloud")
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (0, 5, 3), (2, 0, 3), (2, 1, 3)])
def test_clouds_of_less_than_three_points_have_loss_zero_and_a_gradient(
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(shape, requires_grad=True)
    loss = nearest()(x)
    assert loss == 0
    loss.backward()
    assert x.grad.shape == shape
    assert not x.grad.any()


def test_the_loss_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    loss = nearest()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    a, b = (torch.from_numpy(crowded(9, 3)).requires_grad_() for _ in range(2))
    expected, got = loss(a), compiled(b)
    torch.testing.assert_close(got, expected)
    expected.backward()
    got.backward()
    torch.testing.assert_close(b.grad, a.grad)
