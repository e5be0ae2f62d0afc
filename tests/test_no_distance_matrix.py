"""What is no distance matrix is refused, and what nearly is one is taken for what was meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FLOATS, dissimilarities
from oracles import kruskal, needs_long_double, same_bits

from tsloss_fast import h0_persistence_from_distances

pytestmark = needs_long_double


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


def test_unchecked_a_matrix_with_nan_has_nan_deaths_and_harms_no_other() -> None:
    good = torch.from_numpy(np.stack([dissimilarities(20, s, np.float32) for s in range(3)]))
    d = good.clone()
    d[1, 3, 7] = d[1, 7, 3] = torch.nan
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
