"""The barcode of a distance matrix: against the oracles, edge for edge, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FAMILIES, FLOATS, catalogue, dissimilarities, gaussian
from oracles import (
    ORACLES,
    RELATIVE,
    TIGHT,
    Array,
    assert_lengths,
    assert_spanning_tree,
    bits,
    exact_distances,
    kruskal,
    needs_long_double,
    same_bits,
)

from tsloss_fast import h0_persistence, h0_persistence_from_distances

pytestmark = needs_long_double


def matrix(points: Array, metric: str = "euclidean") -> torch.Tensor:
    return torch.from_numpy(exact_distances(points, metric).astype(points.dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_equal_the_tie_ordered_kruskal_on_the_same_distances(
    family: str, dtype: type
) -> None:
    for cloud in FAMILIES[family](dtype):
        d = matrix(cloud.points)
        h0 = h0_persistence_from_distances(d)
        deaths, edges = kruskal(d.numpy())
        assert (h0.deaths.numpy() == deaths).all(), cloud.name
        assert (h0.edges.numpy() == edges).all(), cloud.name


@pytest.mark.parametrize("dtype", FLOATS)
def test_edges_from_points_equal_kruskals_where_rounding_cannot_change_the_order(
    dtype: type,
) -> None:
    compared = 0
    for cloud in catalogue(dtype):
        distances = exact_distances(cloud.points)
        lengths = np.sort(distances[np.triu_indices(len(distances), 1)])
        gaps = np.diff(lengths) > 4 * RELATIVE[np.dtype(dtype)] * lengths[1:]
        if gaps.all() and lengths.min(initial=1) >= np.finfo(dtype).tiny:
            h0 = h0_persistence(torch.from_numpy(cloud.points))
            assert (h0.edges.numpy() == kruskal(distances)[1]).all(), cloud.name
            compared += len(h0.edges)
    assert compared > 700


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("levels", [None, 1, 2, 3, 10])
def test_matrices_that_are_no_metric_have_kruskals_tree(levels: int | None, dtype: type) -> None:
    for n in (0, 1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 65, 130):
        for seed in range(3):
            d = dissimilarities(n, seed, dtype, levels)
            h0 = h0_persistence_from_distances(torch.from_numpy(d))
            deaths, edges = kruskal(d)
            assert h0.deaths.dtype == torch.from_numpy(d).dtype
            assert (h0.deaths.numpy() == deaths).all()
            assert (h0.edges.numpy() == edges).all()


@pytest.mark.parametrize("name", ORACLES)
def test_every_oracle_agrees_and_zero_edges_are_kept(name: str) -> None:
    for n, levels in ((5, 2), (26, 3), (40, None), (64, 4)):
        d = dissimilarities(n, n, np.float64, levels)
        h0 = h0_persistence_from_distances(d)
        assert_lengths(h0.deaths, ORACLES[name](d).astype(np.float64), what=name)
        assert_spanning_tree(h0.edges, n)
        if levels is not None:
            assert (h0.deaths == 0).sum() == (kruskal(d)[0] == 0).sum() > 0


@pytest.mark.slow
def test_a_large_tied_matrix_has_kruskals_edges() -> None:
    d = dissimilarities(1200, 1, np.float32, levels=5000)
    h0 = h0_persistence_from_distances(torch.from_numpy(d))
    deaths, edges = kruskal(d)
    assert (h0.deaths.numpy() == deaths).all()
    assert (h0.edges.numpy() == edges).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_batches_and_layouts_change_no_bit(dtype: type, threads: None) -> None:
    for n in (3, 26, 65, 300):
        d = torch.from_numpy(np.stack([dissimilarities(n, s, dtype, 50) for s in range(4)]))
        torch.set_num_threads(1)
        alone = [h0_persistence_from_distances(x) for x in d]
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together = h0_persistence_from_distances(d.flip(0))
            for k in range(4):
                assert same_bits(alone[3 - k], (together.deaths[k], together.edges[k]))
        spread = d.new_full((n, 2 * n), float("nan"))
        spread[:, ::2] = d[0]
        assert same_bits(alone[0], h0_persistence_from_distances(spread[:, ::2]))
        moved = d.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert same_bits(h0_persistence_from_distances(d), h0_persistence_from_distances(moved))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened_and_get_their_gradient_in_their_type(dtype: torch.dtype) -> None:
    d = torch.from_numpy(dissimilarities(20, 3, np.float32)).to(dtype)
    leaf, wide = d.clone().requires_grad_(), d.float().requires_grad_()
    h0, expected = h0_persistence_from_distances(leaf), h0_persistence_from_distances(wide)
    assert h0.deaths.dtype == torch.float32
    assert same_bits(h0, expected)
    h0.deaths.square().sum().backward()
    expected.deaths.square().sum().backward()
    assert leaf.grad.dtype == dtype
    assert torch.equal(leaf.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_death_sends_half_its_gradient_to_each_mirror_entry(dtype: type) -> None:
    d = torch.from_numpy(dissimilarities(30, 2, dtype)).requires_grad_()
    h0 = h0_persistence_from_distances(d)
    g = torch.arange(1, 30, dtype=d.dtype)
    h0.deaths.backward(g)
    expected = torch.zeros_like(d)
    i, j = h0.edges.unbind(-1)
    expected[i, j] = expected[j, i] = g / 2
    assert torch.equal(d.grad, expected)


def test_zero_edges_carry_their_gradient_like_any_other() -> None:
    d = torch.zeros(4, 4, requires_grad=True)
    h0 = h0_persistence_from_distances(d)
    assert h0.edges.tolist() == [[0, 1], [0, 2], [0, 3]]
    h0.deaths.sum().backward()
    assert d.grad.sum() == 3
    assert torch.equal(d.grad, d.grad.T)


def test_derivatives_agree_with_finite_differences() -> None:
    upper = torch.from_numpy(np.random.default_rng(0).random((3, 7, 7))).triu(1)
    lengths = torch.tensor([7, 4, 1])

    def deaths(u: torch.Tensor) -> torch.Tensor:
        d = u.triu(1)
        return h0_persistence_from_distances(d + d.transpose(-1, -2), lengths).deaths.square()

    upper.requires_grad_()
    assert torch.autograd.gradcheck(deaths, upper, **TIGHT)
    assert torch.autograd.gradgradcheck(deaths, upper, **TIGHT)


def test_points_and_their_differentiable_distances_give_one_gradient() -> None:
    points = torch.from_numpy(gaussian(15, 4, dtype=np.float64)).requires_grad_()
    i, j = torch.triu_indices(15, 15, 1)
    upper = torch.zeros(15, 15, dtype=points.dtype).index_put(
        (i, j), (points[i] - points[j]).norm(dim=1)
    )
    through = h0_persistence_from_distances(upper + upper.T).deaths
    direct = h0_persistence(points).deaths
    torch.testing.assert_close(through, direct, rtol=1e-14, atol=0)
    (a,) = torch.autograd.grad(through.square().sum(), points)
    (b,) = torch.autograd.grad(direct.square().sum(), points)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1.0])
def test_padding_never_enters(garbage: float, dtype: type) -> None:
    lengths = [0, 1, 2, 9, 20]
    d = torch.full((5, 20, 20), garbage, dtype=torch.from_numpy(np.zeros(0, dtype)).dtype)
    for k, n in enumerate(lengths):
        d[k, :n, :n] = torch.from_numpy(dissimilarities(n, k, dtype))
    d.requires_grad_()
    h0 = h0_persistence_from_distances(d, torch.tensor(lengths))
    h0.deaths.sum().backward()
    for k, n in enumerate(lengths):
        bars = max(n - 1, 0)
        alone = h0_persistence_from_distances(d[k, :n, :n].detach())
        assert same_bits(alone, (h0.deaths[k, :bars], h0.edges[k, :bars]))
        assert not h0.deaths[k, bars:].any()
        assert (h0.edges[k, bars:] == -1).all()
        inside = d.grad[k].clone()
        inside[:n, :n] = 0
        assert not inside.any()
        assert d.grad[k].sum() == bars


def test_numpy_gives_numpy_and_agrees() -> None:
    d = dissimilarities(12, 1, np.float64)
    h0 = h0_persistence_from_distances(d)
    assert isinstance(h0.deaths, np.ndarray)
    assert isinstance(h0.edges, np.ndarray)
    same = h0_persistence_from_distances(torch.from_numpy(d))
    assert h0.deaths.tobytes() == bits(same.deaths)
    assert h0.edges.tobytes() == bits(same.edges)
