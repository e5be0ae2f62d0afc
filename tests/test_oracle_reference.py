"""The fallback in plain torch: held against the same oracles as the kernels, and against them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from clouds import FAMILIES, FLOATS, WITHOUT_ANGLES, gaussian
from oracles import METRICS, assert_barcode, exact_distances, kruskal, needs_long_double, scipy_tree

from tsloss_fast import h0_persistence, h0_persistence_from_distances, reference

pytestmark = needs_long_double


@pytest.mark.parametrize(
    ("family", "metric"),
    [
        pair
        for pair in product(("clustered", "ties", "hubs", "nearly_coincident"), METRICS)
        if pair not in WITHOUT_ANGLES
    ],
)
def test_float32_deaths_and_edges_agree_with_the_oracle(family: str, metric: str) -> None:
    judged = 0
    for cloud in FAMILIES[family](np.float32):
        x = cloud.points
        if "times" in cloud.name or (metric == "cosine" and not x.any(1).all()):
            continue  # squares leave the range; no angle to a zero vector
        judged += 1
        distances = exact_distances(x, metric)
        h0 = reference.h0_persistence(torch.from_numpy(x), metric)
        deaths, edges = h0.deaths.numpy(), h0.edges.numpy()
        what = f"{cloud.name}, {metric}"
        assert_barcode(x, deaths, edges, scipy_tree(distances), metric, what, distances)
        if cloud.exact and metric != "cosine":
            assert (edges == kruskal(distances)[1]).all(), what
    assert judged


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_gradients_agree_with_the_kernels(dtype: type, metric: str) -> None:
    x = torch.from_numpy(np.stack([gaussian(17, 6, s, dtype) for s in range(5)]))
    lengths = torch.tensor([17, 0, 1, 2, 9])
    x[4, 12] = float("nan")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast = h0_persistence(a, metric, lengths)
    plain = reference.h0_persistence(b, metric, lengths)
    assert torch.equal(fast.edges, plain.edges)
    torch.testing.assert_close(fast.deaths, plain.deaths)
    weights = torch.linspace(1, 2, 16, dtype=x.dtype)
    (fast.deaths * weights).sum().backward()
    (plain.deaths * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    assert not b.grad[4, 9:].any()


@pytest.mark.parametrize("metric", METRICS)
def test_coincident_points_have_gradient_zero(metric: str) -> None:
    x = torch.tensor([1.5, -2.0, 0.25]).repeat(9, 1).requires_grad_()
    h0 = reference.h0_persistence(x, metric)
    h0.deaths.sum().backward()
    assert not h0.deaths.any()
    assert not x.grad.any()


def test_distance_matrices_agree_with_the_kernels() -> None:
    upper = np.triu(np.random.default_rng(0).integers(0, 4, (3, 14, 14)), 1).astype(np.float32)
    d = torch.from_numpy(upper + upper.transpose(0, 2, 1))
    lengths = torch.tensor([14, 6, 1])
    a, b = d.clone().requires_grad_(), d.clone().requires_grad_()
    fast = h0_persistence_from_distances(a, lengths)
    plain = reference.h0_persistence_from_distances(b, lengths)
    assert torch.equal(fast.deaths, plain.deaths)
    assert torch.equal(fast.edges, plain.edges)
    fast.deaths.square().sum().backward()
    plain.deaths.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_a_disconnected_graph_agrees_with_the_kernels() -> None:
    upper = np.triu(np.random.default_rng(0).integers(1, 4, (3, 14, 14)), 1).astype(np.float32)
    upper[np.random.default_rng(1).random(upper.shape) < 0.85] = np.inf
    upper = np.triu(np.where(np.isinf(upper), np.inf, upper), 1)
    d = torch.from_numpy(upper).nan_to_num(nan=0.0, posinf=torch.inf)
    d = d + d.mT
    d[1, 3, 3] = torch.nan
    a, b = d.clone().requires_grad_(), d.clone().requires_grad_()
    lengths = torch.tensor([14, 12, 9])
    fast = h0_persistence_from_distances(a, lengths, check_finite=False)
    plain = reference.h0_persistence_from_distances(b, lengths, check_finite=False)
    assert fast.deaths[1, :11].isnan().all()
    assert fast.deaths[0].isinf().any()
    torch.testing.assert_close(plain.deaths, fast.deaths, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(plain.edges[[0, 2]], fast.edges[[0, 2]])
    weights = torch.linspace(1, 2, 13)
    (fast.deaths * weights)[[0, 2]].sum().backward()
    (plain.deaths * weights)[[0, 2]].sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    with pytest.raises(ValueError, match=r"cloud 0\b"):
        reference.h0_persistence_from_distances(d, lengths)
    d[2, 4, 4] = torch.inf
    h0 = reference.h0_persistence_from_distances(d, lengths, check_finite=False)
    assert h0.deaths[2, :8].isnan().all()


def test_a_bad_cloud_is_named_or_given_nan_deaths() -> None:
    x = torch.from_numpy(np.stack([gaussian(6, 2, s) for s in range(3)]))
    good = reference.h0_persistence(x)
    x[1, 4, 0] = float("inf")
    with pytest.raises(ValueError, match=r"cloud 1\b"):
        reference.h0_persistence(x)
    h0 = reference.h0_persistence(x, check_finite=False)
    assert h0.deaths[1].isnan().all()
    assert torch.equal(h0.deaths[[0, 2]], good.deaths[[0, 2]])


def test_bad_clouds_have_gradients_that_are_no_numbers() -> None:
    x = torch.randn(2, 4, 3, requires_grad=True)
    with torch.no_grad():
        x[0, 1] = torch.nan
    for function in (h0_persistence, reference.h0_persistence):
        for part in (x, x[:1]):
            deaths = function(part, check_finite=False).deaths
            (grad,) = torch.autograd.grad(deaths.sum(), x)
            assert grad[0].isnan().any()
            assert grad[1].isfinite().all()
