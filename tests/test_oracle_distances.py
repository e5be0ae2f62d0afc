"""The barcode of a distance matrix: against the oracles, edge for edge, and its gradient."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
import scipy.sparse
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
from ripser import ripser

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


def sparse(n: int, seed: int, dtype: type, density: float) -> Array:
    """Distances of a graph: tied small whole numbers, and infinity for a missing edge."""
    d = dissimilarities(n, seed, dtype, 30) + 1
    missing = np.triu(np.random.default_rng(seed).random((n, n)) > density, 1)
    d[missing | missing.T] = np.inf
    np.fill_diagonal(d, 0)
    return d


def ripser_of_graph(d: Array) -> Array:
    i, j = np.nonzero(np.isfinite(d) & (d > 0))
    edges = scipy.sparse.coo_matrix((d[i, j], (i, j)), shape=d.shape)
    return np.sort(ripser(edges, distance_matrix=True, maxdim=0)["dgms"][0][:, 1])


def gudhi_of_graph(d: Array) -> Array:
    tree = gudhi.SimplexTree()
    for i in range(len(d)):
        tree.insert([i], 0)
    for i, j in zip(*np.nonzero(np.isfinite(np.triu(d))), strict=True):
        tree.insert([int(i), int(j)], float(d[i, j]))
    tree.compute_persistence(min_persistence=-1, persistence_dim_max=True)
    return np.sort(tree.persistence_intervals_in_dimension(0)[:, 1])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("n", "density"), [(2, 0.0), (9, 0.2), (40, 0.03), (40, 0.5), (300, 0.004)]
)
def test_components_that_no_finite_distance_joins_have_infinite_deaths(
    n: int, density: float, dtype: type, threads: None
) -> None:
    """GUDHI and ripser give one infinite bar more: that of the component of the first point."""
    d = sparse(n, n, dtype, density)
    deaths, edges = kruskal(d)
    for count in (1, 3):
        torch.set_num_threads(count)
        h0 = h0_persistence_from_distances(torch.from_numpy(d), check_finite=False)
        assert (h0.deaths.numpy() == deaths).all()
        assert (h0.edges.numpy() == edges).all()
    for theirs in (gudhi_of_graph(d), ripser_of_graph(d)):
        assert (theirs == np.append(deaths, np.inf)).all()


@pytest.mark.parametrize("n", [9, 300])
def test_an_infinite_distance_is_an_error_by_default_which_says_what_to_do(n: int) -> None:
    d = torch.from_numpy(sparse(n, 1, np.float32, 0.5))
    i, j = d.isinf().nonzero()[0].tolist()
    with pytest.raises(ValueError, match=rf"entry \({i}, {j}\).*not connected.*check_finite=False"):
        h0_persistence_from_distances(d)


def test_an_infinite_death_has_its_gradient_routed_as_any_other() -> None:
    d = torch.from_numpy(sparse(20, 3, np.float64, 0.04)).requires_grad_()
    h0 = h0_persistence_from_distances(d, check_finite=False)
    assert 0 < h0.deaths.isinf().sum() < 19
    g = torch.arange(1, 20, dtype=d.dtype)
    h0.deaths.backward(g)
    expected = torch.zeros_like(d)
    i, j = h0.edges.unbind(-1)
    expected[i, j] = expected[j, i] = g / 2
    assert torch.equal(d.grad, expected)


@pytest.mark.parametrize("n", [9, 300])
@pytest.mark.parametrize(
    ("i", "j", "mirrored", "value", "message"),
    [
        (2, 5, True, -np.inf, "negative"),
        (4, 4, True, np.inf, "diagonal"),
        (2, 5, False, np.inf, "mirror image"),
    ],
)
def test_an_infinite_entry_that_is_no_missing_edge_is_an_error_unchecked_too(
    i: int, j: int, mirrored: bool, value: float, message: str, n: int
) -> None:
    """And so it is behind a cloud that has missing edges."""
    d = torch.from_numpy(
        np.stack([sparse(n, 2, np.float32, 0.3), dissimilarities(n, 2, np.float32)])
    )
    d[1, i, j] = value
    if mirrored:
        d[1, j, i] = value
    with pytest.raises(ValueError, match=rf"entry \({i}, {j}\) of cloud 1 .*{message}"):
        h0_persistence_from_distances(d, check_finite=False)


@pytest.mark.parametrize("n", [9, 300])
def test_a_nan_distance_makes_all_deaths_of_its_cloud_nan_beside_infinite_ones(n: int) -> None:
    d = torch.from_numpy(np.stack([sparse(n, 4, np.float32, 0.3)] * 2))
    d[0, 7, 3] = torch.nan
    h0 = h0_persistence_from_distances(d, check_finite=False)
    assert h0.deaths[0].isnan().all()
    assert not h0.deaths[1].isnan().any()


def short_hash(number: float) -> int:
    """A hash of 32 bits that shifts and multiplies the halves of a float64."""
    bits = int(np.float64(number).view(np.uint64))
    return (bits ^ ((bits >> 32 << 1) * 0x9E3779B1)) & 0xFFFFFFFF


@pytest.mark.parametrize("count", [1, 2, 3])
def test_entries_that_agree_in_a_short_hash_are_told_from_their_mirror_images(
    count: int, threads: None
) -> None:
    torch.set_num_threads(count)
    d = dissimilarities(300, 3, np.float64) + 1
    np.fill_diagonal(d, 0)
    bits = int(d[200, 100].view(np.uint64))
    high, low = (bits >> 32) - (1 << 19), bits & 0xFFFFFFFF
    low ^= ((bits >> 32 << 1) * 0x9E3779B1 ^ (high << 1) * 0x9E3779B1) & 0xFFFFFFFF
    d[100, 200] = np.uint64(high << 32 | low).view(np.float64)
    assert short_hash(d[100, 200]) == short_hash(d[200, 100])
    with pytest.raises(ValueError, match=r"entry \(100, 200\).*mirror image"):
        h0_persistence_from_distances(torch.from_numpy(d))


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_of_every_entry_counts_for_symmetry(dtype: type) -> None:
    """Differences within the tolerance are averaged, all others refused."""
    integer = np.uint32 if dtype is np.float32 else np.uint64
    tolerance = 1e-5 if dtype is np.float32 else 1e-10
    symmetric = dissimilarities(256, 5, dtype) + dtype(1)
    np.fill_diagonal(symmetric, 0)
    symmetric[3, 250] = symmetric[250, 3] = 0.7  # the first death
    for bit in range(8 * integer(0).itemsize):
        d = symmetric.copy()
        d.view(integer)[250, 3] ^= integer(1) << integer(bit)
        largest, gap = d[[250, 3], [3, 250]].max(), abs(float(d[250, 3]) - float(d[3, 250]))
        if not gap <= tolerance * largest:
            with pytest.raises(ValueError, match=r"\((3, 250|250, 3)\)"):
                h0_persistence_from_distances(torch.from_numpy(d))
        else:
            death = h0_persistence_from_distances(torch.from_numpy(d)).deaths[0]
            assert death == dtype(0.5) * d[250, 3] + dtype(0.5) * d[3, 250]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("length", [3, 4, 5])
def test_a_circle_of_equal_differences_is_no_symmetry(length: int, dtype: type) -> None:
    """Each row, and each column, has the same sum as its mirror image."""
    symmetric = dissimilarities(256, 6, dtype, 64)
    for gap in (1, 2, 0.5):
        d = symmetric.copy()
        for k in range(length):
            i, j = 10 * k + 20, 10 * ((k + 1) % length) + 20
            d[i, j] = 4 + gap
            d[j, i] = 4
        assert (d.sum(0) == d.sum(1)).all()
        with pytest.raises(ValueError, match="mirror image"):
            h0_persistence_from_distances(torch.from_numpy(d))
