"""Derivatives of `edge_lengths`: those of torch's own norms, those of the deaths, and those that
finite differences give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from clouds import FAMILIES, WITHOUT_ANGLES, crowded, gaussian
from drawn_clouds import EXAMPLES, clouds, metrics
from hypothesis import given
from hypothesis import strategies as st
from oracles import METRICS, RELATIVE, TIGHT, Array
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tsloss_fast import edge_lengths, h0_persistence

every_metric = pytest.mark.parametrize("metric", METRICS)
LENGTHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": lambda p, q: torch.linalg.vector_norm(p - q, dim=-1),
    "sqeuclidean": lambda p, q: torch.linalg.vector_norm(p - q, dim=-1).square(),
    "cosine": lambda p, q: 1 - cosine_similarity(p, q, dim=-1),
    "manhattan": lambda p, q: torch.linalg.vector_norm(p - q, ord=1, dim=-1),
}
# Both orders of the ends, a repeated edge, an edge from a point to itself, and padding.
EDGES = torch.tensor([[0, 1], [1, 0], [3, 2], [3, 2], [4, 4], [-1, -1], [0, 5], [-1, -1]])
POINTS = torch.from_numpy(gaussian(6, 3, dtype=np.float64))


def batch(count: int = 3, n: int = 6, d: int = 3) -> Tensor:
    return torch.from_numpy(np.stack([crowded(n, d, s) for s in range(count)]))


@every_metric
def test_a_batch_has_the_lengths_and_gradients_of_its_clouds(metric: str) -> None:
    x = batch(6).reshape(2, 3, 6, 3).requires_grad_()
    edges = torch.stack([EDGES.roll(k, 0) for k in range(6)]).reshape(2, 3, -1, 2)
    lengths = edge_lengths(x, edges, metric)
    weights = torch.linspace(-1, 2, lengths.numel(), dtype=x.dtype).reshape(lengths.shape)
    (grad,) = torch.autograd.grad((weights * lengths).sum(), x)
    for k in np.ndindex(2, 3):
        cloud = x[k].detach().requires_grad_()
        i, j = edges[k].unbind(1)
        proper = i != j  # neither padding nor from a point to itself
        assert not lengths[k][~proper].any()
        expected = LENGTHS[metric](cloud[i[proper]], cloud[j[proper]])
        torch.testing.assert_close(lengths[k][proper], expected, rtol=1e-13, atol=1e-14)
        (slopes,) = torch.autograd.grad((weights[k][proper] * expected).sum(), cloud)
        torch.testing.assert_close(grad[k], slopes, rtol=1e-12, atol=1e-13)


@every_metric
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_edges_of_a_barcode_have_its_deaths_and_its_gradient(
    metric: str, dtype: type[np.floating]
) -> None:
    relative, eps = float(RELATIVE[np.dtype(dtype)]), float(np.finfo(dtype).eps)
    for family in ("sizes", "clustered", "ties", "hubs", "nearly_coincident"):
        for cloud in list(FAMILIES[family](dtype))[::3]:
            points = cloud.points
            if (family, metric) in WITHOUT_ANGLES or (points.shape[1] == 0 and metric == "cosine"):
                continue
            if "times 2^" in cloud.name and metric in ("sqeuclidean", "cosine"):
                continue  # the squares leave the range of float32
            if metric == "cosine":
                points = points[(points != 0).any(1)]
            x = torch.from_numpy(points).requires_grad_()
            h0 = h0_persistence(x, metric)
            lengths = edge_lengths(x, h0.edges, metric)
            slack = 4 * eps if metric == "cosine" else 0.0
            torch.testing.assert_close(
                lengths, h0.deaths, rtol=relative, atol=slack, msg=cloud.name
            )
            grad, expected = (torch.autograd.grad(t.sum(), x)[0] for t in (lengths, h0.deaths))
            # A sum of slopes, one for each edge at a point, has the rounding of the largest. Under
            # "cosine" a slope is a difference of nearly equal unit vectors over a norm.
            slack = 20 * eps * float(expected.abs().max()) if x.numel() else 0.0
            if metric == "cosine":
                slack += 40 * eps / float(x.detach().norm(dim=1).min())
            torch.testing.assert_close(grad, expected, rtol=0, atol=slack, msg=cloud.name)


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_padded_barcode_has_its_deaths_and_its_gradient(metric: str, dtype: torch.dtype) -> None:
    x = batch(5, 9, 4).to(dtype)
    x[0, 3] = x[0, 4]
    sizes = [9, 5, 2, 1, 0]
    for row, size in zip(x, sizes, strict=True):
        row[size:] = float("nan")
    x.requires_grad_()
    h0 = h0_persistence(x, metric, lengths=sizes)
    lengths = edge_lengths(x, h0.edges, metric)
    rtol = 1e-13 if dtype == torch.float64 else 1e-6
    atol = 4 * torch.finfo(lengths.dtype).eps if metric == "cosine" else 0.0
    torch.testing.assert_close(lengths, h0.deaths, rtol=rtol, atol=atol)
    assert lengths.any()
    grad, expected = (
        torch.autograd.grad(t.square().sum() + t.sum(), x)[0] for t in (lengths, h0.deaths)
    )
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"atol": 1e-5}
    ulp = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(grad, expected, **{"rtol": max(ulp, 1e-5), **close})
    for row, size in zip(grad, sizes, strict=True):
        assert not row[size:].any()


@EXAMPLES
@given(clouds(nonzero=True), metrics, st.data())
def test_gradients_are_finite_and_zero_exactly_where_the_ends_coincide(
    points: Array, metric: str, data: st.DataObject
) -> None:
    """Coincident points, ties, padding and edges from a point to itself are all among these."""
    n = len(points)
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)) | st.just((-1, -1))
    edges = np.array(data.draw(st.lists(ends, min_size=1, max_size=8)))
    x = torch.from_numpy(points).requires_grad_()
    lengths = edge_lengths(x, torch.from_numpy(edges), metric)
    for (i, j), length in zip(edges, lengths, strict=True):
        (grad,) = torch.autograd.grad(length, x, retain_graph=True)
        assert grad.isfinite().all()
        if i == j or (points[i] == points[j]).all():
            assert length == 0
            assert not grad.any()
        elif metric == "euclidean":
            norms = grad.norm(dim=1)
            assert torch.equal(norms > 0.5, torch.isin(torch.arange(n), torch.tensor([i, j])))
            torch.testing.assert_close(norms[[i, j]], torch.ones_like(norms[:2]))
        elif metric == "manhattan":
            signs = np.sign(points[i] - points[j])
            np.testing.assert_array_equal(grad[[i, j]], [signs, -signs])


@every_metric
def test_derivatives_of_every_order_agree_with_finite_differences(metric: str) -> None:
    x = (0.3 * torch.stack([POINTS, 2 + POINTS.flip(0)])).requires_grad_()
    edges = torch.stack([EDGES, EDGES.roll(3, 0)])

    def lengths(x: Tensor) -> Tensor:
        return edge_lengths(x, edges, metric)

    def squared_gradient(x: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(lengths(x).square().sum(), x, create_graph=True)
        return grad.square().sum()

    assert torch.autograd.gradcheck(lengths, x, **TIGHT)
    assert torch.autograd.gradgradcheck(lengths, x, **TIGHT)
    assert torch.autograd.gradgradcheck(squared_gradient, x, **TIGHT)


@every_metric
def test_func_transforms_agree_with_autograd(metric: str) -> None:
    x, edges = batch(), torch.stack([EDGES, EDGES.roll(1, 0), EDGES.roll(2, 0)])

    def energy(cloud: Tensor, edges: Tensor) -> Tensor:
        return edge_lengths(cloud, edges, metric).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(leaf, edges), leaf)
    torch.testing.assert_close(torch.func.grad(energy)(x, edges), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(energy))(x, edges), expected)
    for cloud in x:

        def lengths(cloud: Tensor) -> Tensor:
            return edge_lengths(cloud, EDGES, metric)

        jacobian = torch.autograd.functional.jacobian(lengths, cloud)
        torch.testing.assert_close(torch.func.jacrev(lengths)(cloud), jacobian)
    mapped = torch.func.vmap(lambda c: edge_lengths(c, EDGES, metric), in_dims=2)(
        x.permute(1, 2, 0)
    )
    torch.testing.assert_close(mapped, edge_lengths(x, EDGES.expand(3, 8, 2), metric))


@every_metric
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lengths_compile_in_one_graph(metric: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    edges = EDGES.expand(3, 8, 2)

    def lengths(x: Tensor) -> Tensor:
        return edge_lengths(x, edges, metric).square()

    compiled = torch.compile(lengths, fullgraph=True, backend="aot_eager")
    a, b = (batch().to(dtype).requires_grad_() for _ in range(2))
    expected, got = lengths(a), compiled(b)
    torch.testing.assert_close(got, expected)
    expected.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
