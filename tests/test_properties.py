"""Theorems about barcodes, held against clouds that hypothesis draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_clouds import EXAMPLES, clouds, metrics
from hypothesis import given
from hypothesis import strategies as st
from oracles import Array, assert_lengths, assert_spanning_tree, same_bits

from tsloss_fast import TSLoss, barcode, h0_persistence, h0_persistence_from_distances

TRANSLATION_INVARIANT = ("euclidean", "sqeuclidean", "manhattan")


def barcode_of(points: Array, metric: str = "euclidean") -> tuple[Array, np.ndarray]:
    h0 = h0_persistence(torch.from_numpy(points), metric)
    return h0.deaths.numpy(), h0.edges.numpy()


def deaths_of(points: Array, metric: str = "euclidean") -> Array:
    return barcode_of(points, metric)[0]


@EXAMPLES
@given(clouds(nonzero=True), metrics, st.randoms(use_true_random=False))
def test_deaths_are_invariant_under_permutation(points: Array, metric: str, random: object) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    deaths, edges = barcode_of(points[order], metric)
    assert deaths.tobytes() == deaths_of(points, metric).tobytes()
    assert_spanning_tree(edges, len(points))


@EXAMPLES
@given(clouds(nonzero=True), metrics, st.randoms(use_true_random=False))
def test_the_tree_is_equivariant_under_permutation_where_no_lengths_tie(
    points: Array, metric: str, random: object
) -> None:
    deaths, edges = barcode_of(points, metric)
    if len(np.unique(deaths)) < len(deaths) or len(np.unique(points, axis=0)) < len(points):
        return
    n = len(points)
    pairs = [barcode_of(points[[i, j]], metric)[0][0] for i in range(n) for j in range(i)]
    if len(np.unique(pairs)) < len(pairs):
        return
    order = list(range(n))
    random.shuffle(order)
    _, moved = barcode_of(points[order], metric)
    assert (np.sort(np.array(order)[moved], axis=-1) == edges).all()


@EXAMPLES
@given(
    clouds(),
    st.sampled_from(TRANSLATION_INVARIANT),
    st.integers(-20, 20),
)
def test_scaling_by_a_power_of_two_is_exact(points: Array, metric: str, exponent: int) -> None:
    deaths, edges = barcode_of(points, metric)
    power = 2 * exponent if metric == "sqeuclidean" else exponent
    scaled, same = barcode_of(np.ldexp(points, exponent), metric)
    tiny = np.finfo(points.dtype).tiny * 2.0**90
    if ((deaths == 0) | (deaths > tiny)).all():
        assert (scaled == np.ldexp(deaths, power)).all()
        assert (edges == same).all()


@EXAMPLES
@given(clouds(nonzero=True), st.integers(-20, 20))
def test_cosine_deaths_do_not_change_when_scaled_by_a_power_of_two(
    points: Array, exponent: int
) -> None:
    expected, got = barcode_of(points, "cosine"), barcode_of(np.ldexp(points, exponent), "cosine")
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=4 * np.finfo(points.dtype).eps)


@EXAMPLES
@given(clouds(nonzero=True), metrics, st.data())
def test_a_duplicate_adds_exactly_one_bar_of_length_zero(
    points: Array, metric: str, data: st.DataObject
) -> None:
    copied = data.draw(st.integers(0, len(points) - 1))
    place = data.draw(st.integers(0, len(points)))
    more = np.insert(points, place, points[copied], axis=0)
    expected = np.concatenate([[0], deaths_of(points, metric)]).astype(points.dtype)
    assert deaths_of(more, metric).tobytes() == expected.tobytes()


@EXAMPLES
@given(clouds(), st.sampled_from(TRANSLATION_INVARIANT), st.data())
def test_constant_coordinates_leave_the_deaths_unchanged(
    points: Array, metric: str, data: st.DataObject
) -> None:
    extra = data.draw(st.integers(1, 20))
    constant = data.draw(st.sampled_from([0.0, 1.0, -7.25e5]))
    wider = np.concatenate([points, np.full((len(points), extra), constant, points.dtype)], axis=1)
    assert_lengths(deaths_of(wider, metric), deaths_of(points, metric).astype(np.longdouble))


@EXAMPLES
@given(clouds(), st.integers(0, 2**32 - 1))
def test_euclidean_deaths_are_invariant_under_isometries_up_to_rounding(
    points: Array, seed: int
) -> None:
    d = points.shape[1]
    r = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(r.standard_normal((d, d)))
    moved = (points @ rotation + r.standard_normal(d)).astype(points.dtype)
    size = max(np.abs(points).max(), np.abs(moved).max(), 1.0) * d
    np.testing.assert_allclose(
        deaths_of(moved), deaths_of(points), rtol=0, atol=8 * size * np.finfo(points.dtype).eps
    )


@EXAMPLES
@given(clouds(), st.floats(0, 10), st.integers(0, 2**32 - 1))
def test_sorted_deaths_move_by_at_most_twice_the_largest_displacement(
    points: Array, size: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-size, size, points.shape)
    moved = (points + noise).astype(points.dtype)
    shift = np.sqrt(((moved.astype(float) - points) ** 2).sum(1)).max()
    a, b = deaths_of(points), deaths_of(moved)
    rounding = 1e-5 if points.dtype == np.float32 else 1e-12
    assert np.abs(a - b).max() <= 2 * shift + rounding * max(a.max(), b.max())
    # The same theorem in its usual words: the bottleneck distance of the barcodes.
    distance = barcode.bottleneck_distance(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert distance <= 2 * shift + rounding * max(a.max(), b.max())


@EXAMPLES
@given(clouds(low=3, nonzero=True), metrics)
def test_a_subset_of_the_points_has_total_persistence_at_most_twice_as_large(
    points: Array, metric: str
) -> None:
    if metric in ("euclidean", "manhattan"):  # the triangle inequality is needed
        whole, part = deaths_of(points, metric).sum(), deaths_of(points[1:], metric).sum()
        assert part <= 2 * whole * (1 + 1e-5)


@EXAMPLES
@given(clouds(), st.sampled_from(TRANSLATION_INVARIANT))
def test_on_a_line_the_deaths_are_the_gaps_between_neighbours(points: Array, metric: str) -> None:
    line = points[:, :1]
    wide = np.sort(line[:, 0].astype(np.longdouble))
    gaps = np.sort(np.diff(wide))
    assert_lengths(deaths_of(line, metric), gaps**2 if metric == "sqeuclidean" else gaps)


@EXAMPLES
@given(clouds(nonzero=True), metrics)
def test_the_barcode_is_that_of_the_distances_between_pairs(points: Array, metric: str) -> None:
    n = len(points)
    i, j = np.triu_indices(n, 1)
    pairs = torch.from_numpy(np.stack([points[i], points[j]], 1))
    d = np.zeros((n, n), points.dtype)
    d[i, j] = d[j, i] = h0_persistence(pairs, metric).deaths.numpy()[:, 0]
    expected = h0_persistence_from_distances(torch.from_numpy(d))
    got = h0_persistence(torch.from_numpy(points), metric)
    assert torch.equal(got.deaths, expected.deaths)
    if len(np.unique(d[i, j])) == len(i):
        assert same_bits(got, expected)


@EXAMPLES
@given(clouds(), st.data())
def test_every_other_spanning_tree_is_at_least_as_long(points: Array, data: st.DataObject) -> None:
    parents = [data.draw(st.integers(0, k - 1)) for k in range(1, len(points))]
    steps = points[1:].astype(float) - points[parents]
    other = np.sort(np.sqrt((steps**2).sum(1)))
    # Not only the sum: each death is at most its counterpart in any other tree.
    assert (deaths_of(points) <= other * (1 + 1e-6) + 1e-37).all()


@EXAMPLES
@given(clouds(nonzero=True), metrics)
def test_gradients_are_finite_and_bounded_for_every_cloud(points: Array, metric: str) -> None:
    leaf = torch.from_numpy(points).requires_grad_()
    h0_persistence(leaf, metric).deaths.sum().backward()
    assert leaf.grad.isfinite().all()
    if metric == "euclidean":  # a sum of unit vectors, one per edge at the point
        assert (leaf.grad.norm(dim=1) <= len(points) - 1 + 1e-3).all()


@pytest.mark.filterwarnings("ignore:.*coincide")
@EXAMPLES
@given(clouds(nonzero=True), metrics)
def test_the_loss_is_finite_not_negative_and_can_be_differentiated(
    points: Array, metric: str
) -> None:
    leaf = torch.from_numpy(points).requires_grad_()
    loss = TSLoss(metric=metric)(leaf)
    loss.backward()
    assert loss >= 0
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
