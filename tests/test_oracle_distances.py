"""The barcode of a distance matrix: against the oracles, edge for edge, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FAMILIES, FLOATS, catalogue, gaussian
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


def dissimilarities(n: int, seed: int, dtype: type, levels: int | None = None) -> Array:
    """A symmetric matrix with a zero diagonal that need not come from points; `levels` makes ties
    and zeros."""
    r = np.random.default_rng(seed)
    values = r.random((n, n)) if levels is None else r.integers(0, levels, (n, n))
    upper = np.triu(values, 1).astype(dtype)
    return upper + upper.T


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


@pytest.mark.parametrize("n", [3, 40, 300])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_distance_matrix_is_refused_with_the_place(n: int, dtype: type) -> None:
    good = torch.from_numpy(np.stack([dissimilarities(n, s, dtype) + 0 for s in range(3)]))
    i, j = n - 2, n - 1
    for word, entries, value in (
        ("symmetr", [(i, j)], 5.0),
        ("symmetr", [(j, i)], 0.0),
        ("negative|>= 0|sign", [(i, j), (j, i)], -0.25),
        ("diagonal", [(j, j)], 0.5),
        ("NaN|finite", [(i, j), (j, i)], float("nan")),
        ("NaN|finite", [(j, i)], float("nan")),
        ("NaN|finite|diagonal", [(j, j)], float("nan")),
    ):
        bad = good.clone()
        for entry in entries:
            bad[(1, *entry)] = value
        with pytest.raises(ValueError, match=f"(?is)(?=.*({word}))(?=.*cloud\\D*1\\b)"):
            h0_persistence_from_distances(bad)
        # The clouds before and after the bad one are as good as ever.
        h0_persistence_from_distances(bad[[0, 2]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_unchecked_a_non_finite_matrix_has_nan_deaths_and_harms_no_other(bad: float) -> None:
    good = torch.from_numpy(np.stack([dissimilarities(20, s, np.float32) for s in range(3)]))
    d = good.clone()
    d[1, 3, 7] = d[1, 7, 3] = bad
    h0 = h0_persistence_from_distances(d, check_finite=False)
    expected = h0_persistence_from_distances(good)
    assert h0.deaths[1].isnan().all()
    for k in (0, 2):
        assert same_bits((expected.deaths[k], expected.edges[k]), (h0.deaths[k], h0.edges[k]))


def test_rounding_between_mirror_entries_is_forgiven_and_averaged() -> None:
    d = torch.from_numpy(dissimilarities(9, 4, np.float64))
    noisy = d * (1 + 1e-12 * torch.randn(9, 9, dtype=d.dtype))
    h0 = h0_persistence_from_distances(noisy)
    mean = (noisy + noisy.T) / 2
    torch.testing.assert_close(
        h0.deaths, torch.from_numpy(kruskal(mean.numpy())[0]), rtol=1e-15, atol=0
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_last_bit_of_asymmetry_is_seen_anywhere(dtype: type) -> None:
    d = dissimilarities(300, 4, dtype)
    _, edges = kruskal(d)
    for i, j in edges[[0, 150, 298]]:
        noisy = d.copy()
        noisy[i, j] = np.nextafter(d[i, j], dtype(np.inf))
        got = h0_persistence_from_distances(torch.from_numpy(noisy))
        expected, _ = kruskal(0.5 * noisy + 0.5 * noisy.T)
        np.testing.assert_array_equal(got.deaths.numpy(), expected)
        noisy[i, j] = 2 * d[i, j]
        with pytest.raises(ValueError, match=rf"(?s){min(i, j)}.*{max(i, j)}"):
            h0_persistence_from_distances(torch.from_numpy(noisy))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_permuted_row_is_no_mirror_image(dtype: type) -> None:
    # Rows and columns have the same sums, and the same numbers, in another order.
    n = 257
    d = 1 + dissimilarities(n, 5, dtype)
    np.fill_diagonal(d, 0)
    a, b, c, e = 100, 120, 200, 250
    for i, j in ((a, c), (b, e)):
        d[i, j] = d[j, i] = 1
    for i, j in ((a, e), (b, c)):
        d[i, j] = d[j, i] = 2
    swapped = d.copy()
    swapped[a, c], swapped[a, e], swapped[b, c], swapped[b, e] = 2, 1, 1, 2
    with pytest.raises(ValueError, match=r"(?i)symmetr"):
        h0_persistence_from_distances(torch.from_numpy(swapped))
    h0_persistence_from_distances(torch.from_numpy(d))


def test_a_negative_zero_is_a_zero_in_a_large_matrix() -> None:
    d = dissimilarities(300, 6, np.float32)
    d[280, 290], d[290, 280] = -0.0, 0.0
    np.fill_diagonal(d, -0.0)
    got = h0_persistence_from_distances(torch.from_numpy(d))
    deaths, edges = kruskal(np.abs(d))
    np.testing.assert_array_equal(got.deaths.numpy(), deaths)
    np.testing.assert_array_equal(got.edges.numpy(), edges)


@pytest.mark.parametrize(
    "shape", [(3,), (), (3, 4), (4, 3), (2, 3, 4), (5, 0), (0, 5), (2, 2, 3, 2)]
)
def test_a_matrix_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"(?i)square|\(.*N, ?N\)") as caught:
        h0_persistence_from_distances(torch.zeros(shape))
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_matrix_of_no_real_numbers_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=str(dtype).split(".")[1]):
        h0_persistence_from_distances(torch.zeros(3, 3, dtype=dtype))
