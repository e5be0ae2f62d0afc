"""Clouds in up to four dimensions: the tree of the k-d tree is that of all pairs, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import clusters, gaussian, grid, rng
from oracles import (
    Array,
    assert_barcode,
    exact_distances,
    gudhi_rips,
    kruskal,
    needs_long_double,
    same_bits,
    scipy_tree,
)

from tsloss_fast import (
    H0Persistence,
    _core,
    h0_persistence,
    h0_persistence_varlen,
)

pytestmark = pytest.mark.usefixtures("core_defaults")

DENSE, SPATIAL = 2, 4
METRICS = ("euclidean", "sqeuclidean", "manhattan")
TUNING = Path(__file__).parents[1] / "csrc/cpu/tuning.h"


def by_path(path: int, points: torch.Tensor, metric: str = "euclidean") -> H0Persistence:
    _core.set_overrides(path)
    try:
        return h0_persistence(points, metric, check_finite=False)
    finally:
        _core.set_overrides()


def on_an_axis(values: Array, d: int) -> Array:
    points = np.zeros((len(values), d))
    points[:, :1] = values[:, None]
    return points


def circle(n: int, d: int) -> Array:
    """Points of a circle in the first two coordinates, and its centre in the middle of the list."""
    angle = rng(n).uniform(0, 2 * np.pi, n)
    points = np.zeros((n, max(d, 2)))
    points[:, 0], points[:, 1] = np.cos(angle), np.sin(angle)
    points[n // 2] = 0
    return points[:, :d]


def dense_centre(n: int, d: int) -> Array:
    """A circle around a cluster a thousand times smaller."""
    points = circle(n, d)
    points[n // 2 :] = 1e-3 * rng(n).standard_normal((n - n // 2, d))
    return points


def integer_grid(n: int, d: int) -> Array:
    side = int(np.ceil(n ** (1 / max(d, 1)))) + 1
    return grid(side, d, seed=n)[:n] if d else np.zeros((n, 0))


def two_scales(n: int, d: int) -> Array:
    """A tenth of the points lie far from each other around a tight cluster of the rest."""
    far = rng(n).random((n, 1)) < 0.1
    return np.where(far, 100.0, 1e-4) * rng(d).standard_normal((n, d))


def with_one_huge_coordinate(n: int, d: int) -> Array:
    points = rng(n).standard_normal((n, d))
    points[:1, :1] = 1e30
    return points


def signed_zeros(n: int, d: int) -> Array:
    x = np.round(rng(n).standard_normal((n, d)), 1)
    return np.where(rng(d).random((n, d)) < 0.5, -0.0, x)


UGLY: dict[str, Callable[[int, int], Array]] = {
    "Gaussian": lambda n, d: rng(n).standard_normal((n, d)),
    "all equal": lambda n, d: np.ones((n, d)),
    "copies of ten": lambda n, d: rng(n).standard_normal((10, d))[np.arange(n) % 10],
    "integers": lambda n, d: rng(n).integers(-6, 6, (n, d)).astype(np.float64),
    "tenths": lambda n, d: rng(n).integers(0, 12, (n, d)) * 0.1,
    "grid": integer_grid,
    "diagonal line": lambda n, d: np.outer(rng(n).standard_normal(n), np.ones(d)),
    "axis": lambda n, d: on_an_axis(rng(n).permutation(n).astype(np.float64), d),
    "circle and centre": circle,
    "circle and dense centre": dense_centre,
    "clusters": lambda n, d: 1e4 * clusters(3, n, d, seed=n, width=1e-3),
    "two scales": two_scales,
    "heavy tails": lambda n, d: rng(n).standard_t(0.5, (n, d)),
    "one huge coordinate": with_one_huge_coordinate,
    "tiny": lambda n, d: 1e-30 * rng(n).standard_normal((n, d)),
    "subnormal": lambda n, d: 1e-42 * rng(n).standard_normal((n, d)),
    "least of float64": lambda n, d: 5e-324 * rng(n).integers(-5, 6, (n, d)),
    "squares underflow": lambda n, d: 1e-170 * rng(n).standard_normal((n, d)),
    "huge": lambda n, d: 1e30 * rng(n).standard_normal((n, d)),
    "distances overflow": lambda n, d: 1.7e308 * rng(n).integers(-1, 2, (n, d)),
    "zeros of both signs": signed_zeros,
}


def ugly(kind: str, n: int, d: int, dtype: type) -> torch.Tensor:
    points = UGLY[kind](n, d)
    largest = float(np.finfo(dtype).max)
    return torch.from_numpy(np.clip(points, -largest, largest).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", UGLY)
def test_the_tree_of_an_ugly_cloud_is_that_of_all_pairs(kind: str, d: int, dtype: type) -> None:
    for n in (1, 2, 5, 6, 7, 15, 16, 17, 31, 33, 64, 65, 300):
        points = ugly(kind, n, d, dtype)
        for metric in METRICS:
            expected = by_path(DENSE, points, metric)
            for isa in _core.supported_isas():
                _core.set_isa(isa)
                found = by_path(SPATIAL, points, metric)
                assert same_bits(found, expected), (n, metric, isa)


@pytest.mark.parametrize("kind", UGLY)
def test_threads_change_no_bit(kind: str) -> None:
    for d in (2, 3):
        points = ugly(kind, 3000, d, np.float32)
        torch.set_num_threads(1)
        expected = by_path(DENSE, points)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert same_bits(by_path(SPATIAL, points), expected), (d, threads)


@needs_long_double
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_the_barcode_is_that_of_the_oracles(d: int, metric: str) -> None:
    for points in (gaussian(400, d), integer_grid(400, d), circle(400, d)):
        distances = exact_distances(points, metric)
        found = by_path(SPATIAL, torch.from_numpy(points), metric)
        assert_barcode(
            points, *(x.numpy() for x in found), scipy_tree(distances), metric, distances=distances
        )
        np.testing.assert_allclose(found.deaths, gudhi_rips(distances), rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_ties_of_a_lattice_are_decided_as_kruskals_algorithm_decides_them(d: int) -> None:
    points = np.concatenate([integer_grid(350, d), integer_grid(50, d)])
    squares = ((points[:, None] - points) ** 2).sum(-1)
    deaths, edges = kruskal(squares)
    found = by_path(SPATIAL, torch.from_numpy(points), "sqeuclidean")
    np.testing.assert_array_equal(found.deaths, deaths)
    np.testing.assert_array_equal(found.edges, edges)


def switches() -> list[tuple[int, int]]:
    """The dimensions and numbers of points at which the k-d tree takes over."""
    text = TUNING.read_text(encoding="utf-8") if TUNING.is_file() else ""
    found = re.findall(r"kSpatialPoints(\d) = (\d+);", text)
    return [(int(d), int(n)) for d, n in found]


@pytest.mark.parametrize(("d", "switch"), switches())
def test_nothing_but_the_time_changes_where_the_k_d_tree_takes_over(d: int, switch: int) -> None:
    for n in (switch - 1, switch, switch + 1):
        for points in (gaussian(n, d), integer_grid(n, d)):
            x = torch.from_numpy(points)
            assert same_bits(h0_persistence(x), by_path(DENSE, x))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_other_dimensions_and_metrics_keep_their_paths(metric: str) -> None:
    points = torch.from_numpy(gaussian(400, 5 if metric == "euclidean" else 3))
    assert same_bits(by_path(SPATIAL, points, metric), by_path(DENSE, points, metric))


def test_padded_and_ragged_batches_have_the_barcodes_of_their_clouds() -> None:
    clouds = [torch.from_numpy(gaussian(n, 2, seed=n)) for n in (900, 0, 1, 2, 40, 1200)]
    expected = [by_path(DENSE, cloud) for cloud in clouds]
    padded = torch.full((len(clouds), 1200, 2), torch.nan)
    for row, cloud in zip(padded, clouds, strict=True):
        row[: len(cloud)] = cloud
    lengths = torch.tensor([len(cloud) for cloud in clouds])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    _core.set_overrides(SPATIAL)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        batch = h0_persistence(padded, lengths=lengths)
        ragged = h0_persistence_varlen(torch.cat(clouds), offsets)
        for c, one in enumerate(expected):
            bars = len(one.deaths)
            assert same_bits((batch.deaths[c, :bars], batch.edges[c, :bars]), one)
            assert (batch.deaths[c, bars:] == 0).all()
            assert (batch.edges[c, bars:] == -1).all()
            begin = int(ragged.offsets[c])
            own = slice(begin, begin + bars)
            assert same_bits((ragged.deaths[own], ragged.edges[own]), one)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_bad_point_is_named(bad: float, threads: int) -> None:
    torch.set_num_threads(threads)
    points = torch.from_numpy(gaussian(20000, 3)).clone()
    points[[7001, 7000, 19999], 2] = bad
    with pytest.raises(ValueError, match="point 7000 "):
        h0_persistence(points)
    assert h0_persistence(points, check_finite=False).deaths.isnan().all()


@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, -100), (torch.float64, 660)])
def test_lengths_whose_squares_leave_the_range_take_no_pass_over_all_pairs(
    dtype: torch.dtype, exponent: int
) -> None:
    """A power of two changes no digit. All pairs of so many points would take many minutes."""
    points = torch.from_numpy(gaussian(200_000, 2)).to(dtype)
    scaled = h0_persistence(points * 2.0**exponent)
    plain = h0_persistence(points)
    assert torch.equal(scaled.deaths / 2.0**exponent, plain.deaths)
    assert torch.equal(scaled.edges, plain.edges)


def test_the_tree_of_a_large_cloud_spans_it_with_the_lengths_of_its_edges() -> None:
    points = torch.from_numpy(gaussian(60000, 3, dtype=np.float64))
    points[30000:45000] = points[:15000]
    h0 = h0_persistence(points)
    own = (points[h0.edges[:, 0]] - points[h0.edges[:, 1]]).norm(dim=1)
    torch.testing.assert_close(own, h0.deaths, rtol=1e-14, atol=0)
    assert (h0.deaths[:15000] == 0).all()
    torch.testing.assert_close(
        h0.edges[:15000], torch.stack([torch.arange(15000), torch.arange(30000, 45000)], 1)
    )
    assert (h0.deaths[15000:] > 0).all()
