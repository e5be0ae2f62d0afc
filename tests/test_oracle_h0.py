"""The barcode of points against independent references, and the promises of exactness.

Deaths are compared with five other algorithms on distances in a wider type; edges with a
tie-ordered Kruskal where the distances are exact, and with the deaths everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import product

import gudhi
import numpy as np
import pytest
import scipy.sparse
import scipy.spatial
import torch
from clouds import (
    FAMILIES,
    FLOATS,
    SIZES,
    WITHOUT_ANGLES,
    Cloud,
    catalogue,
    copies,
    gaussian,
    grid,
)
from oracles import (
    METRICS,
    ORACLES,
    Array,
    assert_barcode,
    assert_lengths,
    assert_spanning_tree,
    exact_distances,
    kruskal,
    needs_long_double,
    oracle_deaths,
    scipy_tree,
)
from ripser import ripser
from scipy.sparse.csgraph import minimum_spanning_tree

from tsloss_fast import _core, h0_persistence

pytestmark = needs_long_double
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_vnni")


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in _core.supported_isas():
        pytest.skip(f"this processor has no {request.param}")
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


def metric_applies(cloud: Cloud, metric: str) -> bool:
    """The cosine distance has no meaning for a zero vector (the points of R^0 coincide)."""
    x = cloud.points
    return metric != "cosine" or x.shape[1] == 0 or bool(x.any(1).all())


@functools.cache
def judged(family: str, dtype: type, metric: str) -> list[tuple[Cloud, Array, Array]]:
    """Every cloud of the family with its exact distances and its deaths by SciPy."""
    out = []
    for cloud in FAMILIES[family](dtype):
        if metric_applies(cloud, metric):
            distances = exact_distances(cloud.points, metric)
            deaths = scipy_tree(distances) if len(distances) > 1 else distances[0, :0]
            out.append((cloud, distances, deaths))
    return out


def computed(
    points: Array, metric: str = "euclidean", expected: Array | None = None
) -> tuple[Array, np.ndarray]:
    """Deaths and edges. Only a tree with a length above the largest float goes unchecked."""
    overflow = expected is not None and (expected > np.finfo(points.dtype).max).any()
    check = False if overflow else None
    h0 = h0_persistence(torch.from_numpy(points), metric, check_finite=check)
    return h0.deaths.numpy(), h0.edges.numpy()


def order_survives_rounding(distances: Array, dtype: type) -> bool:
    positive = distances[distances > 0]
    info = np.finfo(dtype)
    return len(positive) == 0 or bool(positive.min() >= info.tiny and positive.max() <= info.max)


def check_family(family: str, dtype: type, metric: str) -> None:
    clouds = judged(family, dtype, metric)
    assert clouds
    failures = []
    for cloud, distances, expected in clouds:
        try:
            deaths, edges = computed(cloud.points, metric, expected)
            what = f"{cloud.name}, {dtype.__name__}, {metric}"
            assert_barcode(cloud.points, deaths, edges, expected, metric, what, distances)
            ordered = cloud.exact and metric != "cosine"
            if ordered and order_survives_rounding(distances, dtype):
                assert (edges == kruskal(distances)[1]).all(), f"{what}: not Kruskal's edges"
        except (AssertionError, ValueError) as failure:
            failures.append(f"{cloud.name}: {failure}")
    assert not failures, f"{len(failures)} clouds fail:\n" + "\n".join(failures)


def test_the_catalogue_is_large_and_the_oracles_agree_on_it() -> None:
    count = 0
    for dtype in FLOATS:
        for cloud in catalogue(dtype):
            if len(cloud.points) < 2:
                continue
            count += 1
            distances = exact_distances(cloud.points)
            reference = ORACLES["tie-ordered Kruskal"](distances)
            for name, oracle in ORACLES.items():
                assert_lengths(
                    oracle(distances).astype(np.float64), reference, what=f"{name}, {cloud.name}"
                )
    assert count >= 500


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_deaths_and_edges_agree_with_every_oracle(family: str, dtype: type) -> None:
    for cloud, distances, _ in judged(family, dtype, "euclidean"):
        if len(cloud.points) > 1:
            deaths, _ = computed(cloud.points)
            for name, oracle in ORACLES.items():
                assert_lengths(deaths, oracle(distances), what=f"{cloud.name}, {name}")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("family", "metric"),
    [pair for pair in product(FAMILIES, METRICS) if pair not in WITHOUT_ANGLES],
)
def test_every_instruction_set_is_exact_for_every_metric(
    family: str, dtype: type, metric: str, isa: str
) -> None:
    assert _core.isa() == isa
    check_family(family, dtype, metric)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("n", "d"), [(127, 16), (128, 3), (129, 65), (257, 1), (511, 8), (769, 16), (1025, 5)]
)
def test_medium_clouds_are_exact(n: int, d: int, dtype: type) -> None:
    points = gaussian(n, d, seed=9, dtype=dtype)
    assert_barcode(points, *computed(points), oracle_deaths(points))


@pytest.mark.parametrize("metric", METRICS)
def test_tied_grids_of_medium_size_have_kruskals_edges(metric: str) -> None:
    points = (grid(6, 3, seed=4) + 1).astype(np.float32)
    distances = exact_distances(points, metric)
    deaths, edges = computed(points, metric)
    assert_barcode(points, deaths, edges, scipy_tree(distances), metric)
    if metric != "cosine":
        assert (edges == kruskal(distances)[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["gaussian", "five clusters", "offset", "grid"])
def test_large_clouds_are_exact(kind: str, dtype: type) -> None:
    points = {
        "gaussian": gaussian(1500, 24, seed=1, dtype=np.float64),
        "five clusters": gaussian(1500, 6, seed=2, dtype=np.float64) * 1e-3
        + 1e3 * (np.arange(1500) % 5)[:, None],
        "offset": 1e3 + gaussian(1500, 12, seed=3, dtype=np.float64),
        "grid": grid(11, 3, seed=5),
    }[kind].astype(dtype)
    deaths, edges = computed(points)
    distances = exact_distances(points)
    assert_barcode(points, deaths, edges, scipy_tree(distances), distances=distances)
    if kind == "grid":
        assert (edges == kruskal(distances)[1]).all()


def delaunay_tree(points: Array) -> Array:
    """Deaths of a planar cloud: the Delaunay triangulation holds a minimum spanning tree."""
    wide = points.astype(np.longdouble)
    triangles = scipy.spatial.Delaunay(points.astype(np.float64)).simplices
    i, j = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2)), axis=0).T
    length = np.sqrt(((wide[i] - wide[j]) ** 2).sum(1))
    lengths, rank = np.unique(length, return_inverse=True)
    graph = scipy.sparse.coo_matrix((rank + 1, (i, j)), (len(points),) * 2)
    return lengths[np.sort(minimum_spanning_tree(graph).data.astype(np.int64)) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1500, 8192, 8193])
def test_large_planar_clouds_have_the_deaths_of_their_delaunay_triangulation(
    n: int, dtype: type, threads: None
) -> None:
    points = gaussian(n, 2, seed=4, dtype=dtype)
    torch.set_num_threads(2)
    deaths, edges = computed(points)
    assert_lengths(deaths, delaunay_tree(points))
    assert_spanning_tree(edges, n)
    ends = points[edges].astype(np.longdouble)
    assert_lengths(deaths, np.sqrt(((ends[:, 0] - ends[:, 1]) ** 2).sum(1)))
    # Out of the range of squares: every length is scaled, exactly, and no edge changes.
    exponent = (110 if dtype is np.float32 else 1000) * (-1 if n == 8192 else 1)
    scaled, same = computed(np.ldexp(points, exponent))
    assert (scaled == np.ldexp(deaths, exponent)).all()
    assert (same == edges).all()
    torch.set_num_threads(1)
    alone = computed(points)
    assert (alone[0] == deaths).all()
    assert (alone[1] == edges).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_thousand_copies_of_ten_points_have_nine_bars_of_positive_length(dtype: type) -> None:
    points = copies(10, 1000, 6).astype(dtype)
    deaths, edges = computed(points)
    assert (deaths[:-9] == 0).all()
    assert_lengths(deaths[-9:], oracle_deaths(np.unique(points, axis=0)))
    # Interleaved copies: the smallest index of each point's class is its residue mod 10.
    zero = np.stack([np.arange(10, 10000) % 10, np.arange(10, 10000)], -1)
    assert (edges[:-9] == zero[np.lexsort((zero[:, 1], zero[:, 0]))]).all()


@pytest.mark.filterwarnings("ignore:The input point cloud has more columns")
@pytest.mark.parametrize(("n", "d"), [(10, 2), (26, 30), (64, 4)])
def test_gudhi_and_ripser_given_the_points_agree(n: int, d: int) -> None:
    points = gaussian(n, d, seed=11, dtype=np.float64)
    deaths, _ = computed(points)
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=1)
    tree.compute_persistence(min_persistence=-1.0)
    by_gudhi = np.sort(tree.persistence_intervals_in_dimension(0)[:, 1])[:-1]
    by_ripser = np.sort(ripser(points, maxdim=0)["dgms"][0][:, 1])[:-1]
    np.testing.assert_allclose(deaths, by_gudhi, rtol=1e-12)
    np.testing.assert_allclose(deaths, by_ripser, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_points_of_dimension_zero_coincide(n: int, metric: str) -> None:
    h0 = h0_persistence(torch.zeros(n, 0), metric)
    assert h0.deaths.shape == (max(n - 1, 0),)
    assert h0.edges.shape == (max(n - 1, 0), 2)
    assert not h0.deaths.any()
    star = torch.stack([torch.zeros(max(n - 1, 0)).long(), torch.arange(1, max(n, 1))], -1)
    assert torch.equal(h0.edges, star)


@pytest.mark.parametrize("d", [1, 15, 16, 17, 768])
def test_identical_rows_give_exact_zeros_and_the_star_of_the_first_point(d: int) -> None:
    row = torch.randn(1, d, generator=torch.Generator().manual_seed(d))
    for metric in METRICS:
        h0 = h0_persistence(row.expand(40, d), metric)
        assert not h0.deaths.any(), f"{metric}: {h0.deaths.max()}"
        assert torch.equal(h0.edges, torch.stack([torch.zeros(39).long(), torch.arange(1, 40)], -1))


@pytest.mark.parametrize(
    "shape", [(0, 5, 3), (2, 0, 4, 2), (3, 0, 2), (3, 1, 2), (0, 0, 0), (0, 2)]
)
def test_empty_shapes_give_empty_barcodes(shape: tuple[int, ...]) -> None:
    h0 = h0_persistence(torch.zeros(shape))
    bars = max(shape[-2] - 1, 0)
    assert h0.deaths.shape == (*shape[:-2], bars)
    assert h0.edges.shape == (*shape[:-2], bars, 2)
    assert h0.edges.dtype == torch.int64
    assert h0.deaths.dtype == torch.float32


def test_every_size_from_zero_to_a_hundred_is_exact() -> None:
    for n in range(101):
        points = gaussian(n, 1 + n % 5, seed=8)
        assert_barcode(points, *computed(points), oracle_deaths(points), what=f"N = {n}")
    assert set(SIZES) <= set(range(101))
