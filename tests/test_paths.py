"""Every path through the forward pass gives the same bits, and Kruskal's tree in float64.

The paths: tiles over the dimension, packed panels, "sample, order, filter, repair" with the
distances themselves or low-precision codes as the filter, and a k-d tree in low dimensions; each on
every instruction set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from clouds import clusters, copies, gaussian, grid, rng, star
from oracles import Array, assert_barcode, exact_distances, kruskal, needs_long_double, scipy_tree

from tsloss_fast import H0Persistence, _core, h0_persistence

pytestmark = [needs_long_double, pytest.mark.usefixtures("core_defaults")]

SMALL, PACKED, LARGE, SPATIAL = 1, 2, 3, 4
DIMENSIONS = (1, 2, 15, 16, 17, 63, 64, 65)


@dataclass(frozen=True)
class Way:
    """Arguments of `_core.set_overrides`, and a name."""

    name: str
    path: int
    sample_one_in: int = 0
    wave_one_in: int = 0
    coded: int = -1
    seed: int = 0

    def take(self) -> None:
        _core.set_overrides(self.path, self.sample_one_in, self.wave_one_in, self.coded, self.seed)


DENSE = (Way("small", SMALL), Way("packed", PACKED))
KD_TREE = Way("k-d tree", SPATIAL)
LARGE_WAYS = (
    Way("large by distances", LARGE, coded=0),
    Way("large by codes", LARGE, coded=1),
    Way("large by codes, other sample", LARGE, 2, 3, 1, seed=12345),
    Way("large by distances, poor sample", LARGE, 1000000, -1, 0, seed=7),
    Way("large by codes, poor sample", LARGE, 1000000, -1, 1, seed=8),
)


def every_way(points: Array, metric: str = "euclidean") -> Iterator[tuple[str, H0Persistence]]:
    x = torch.from_numpy(points)
    for isa in _core.supported_isas():
        _core.set_isa(isa)
        for way in (*DENSE, *LARGE_WAYS, *([KD_TREE] if points.shape[1] <= 4 else [])):
            way.take()
            yield f"{isa}, {way.name}", h0_persistence(x, metric)


def check(points: Array, metric: str = "euclidean", edges: bool = True) -> None:
    """All ways agree to the last bit with the first, and that with the oracle."""
    ways = every_way(points, metric)
    _, first = next(ways)
    for name, other in ways:
        assert torch.equal(other.edges, first.edges), name
        assert torch.equal(other.deaths, first.deaths), name
    distances = exact_distances(points, metric)
    found = first.deaths.numpy(), first.edges.numpy()
    assert_barcode(points, *found, scipy_tree(distances), metric, distances=distances)
    if edges and len(points) < 1200:
        by_length = np.sort(first.edges.numpy().view("i8,i8").ravel())
        expected = np.sort(
            kruskal(squared(points) if metric == "euclidean" else distances)[1]
            .view("i8,i8")
            .ravel()
        )
        assert (by_length == expected).all()


def squared(points: Array) -> Array:
    """Squared distances in a wider type: their ties are those of the lengths, before rounding."""
    return exact_distances(points, "sqeuclidean")


def tails(n: int, d: int) -> Array:
    return np.clip(rng(n + d).standard_t(1.2, (n, d)), -1e12, 1e12)


KINDS: dict[str, Callable[[int, int], Array]] = {
    "five tight clusters": lambda n, d: clusters(5, n, d, seed=n, width=1e-3),
    "two clusters far apart": lambda n, d: clusters(2, n, d, seed=n, width=1e-5),
    "all points equal": lambda n, d: np.broadcast_to(rng(d).standard_normal(d), (n, d)).copy(),
    "copies": lambda n, d: rng(n).standard_normal((10, d))[np.arange(n) % 10],
    "line": lambda n, d: np.outer(rng(n).standard_normal(n), rng(d).standard_normal(d)),
    "heavy tails": tails,
    "offset 1e3": lambda n, d: 1e3 + rng(n).standard_normal((n, d)),
    "offset 1e6": lambda n, d: 1e6 + rng(n).standard_normal((n, d)),
    "near ties": lambda n, d: rng(n).integers(0, 3, (n, d)) * 0.1,
    "one huge coordinate": lambda n, d: rng(n).standard_normal((n, d)) + 1e5 * np.eye(n, d),
    "tiny": lambda n, d: 1e-12 * rng(n).standard_normal((n, d)),
    "Gaussian": lambda n, d: rng(n).standard_normal((n, d)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_path_finds_the_tree_of_an_ugly_cloud(kind: str, d: int, dtype: type) -> None:
    points = KINDS[kind](110 + d, d).astype(dtype)
    # Sums that tie exactly may differ in the last bit of a double, according to their order; and
    # squares in a wider type than float64 can tie where those of float64 do not.
    check(points, edges=dtype is np.float32 and kind != "near ties")


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 47, 48, 49, 95, 96, 97, 143, 144, 145, 161])
def test_every_path_is_right_where_panels_and_tiles_end(n: int) -> None:
    for d in (3, 40, 65):
        check(gaussian(n, d, seed=5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_massive_ties_and_hubs_have_kruskals_edges(dtype: type) -> None:
    check(grid(18, 2, seed=1).astype(dtype))
    check(grid(7, 3, seed=2).astype(dtype))
    check(star(130).astype(dtype))
    check(np.eye(150, dtype=dtype))
    check(rng(3).integers(-1, 2, (260, 5)).astype(dtype))
    check(star(140, seed=4).astype(dtype), edges=False)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "manhattan"])
def test_every_path_is_right_for_every_metric(metric: str) -> None:
    for kind in ("Gaussian", "five tight clusters", "copies", "heavy tails"):
        for d in (2, 17, 65):
            check(KINDS[kind](150, d).astype(np.float32), metric, edges=False)


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize(("switch", "d"), [(1024, 100), (1536, 60), (2048, 6)])
def test_nothing_happens_where_the_path_changes(switch: int, d: int, offset: int) -> None:
    points = gaussian(switch + offset, d, seed=6)
    x = torch.from_numpy(points)
    chosen = h0_persistence(x)
    for way in (*DENSE, *LARGE_WAYS[:2]):
        way.take()
        other = h0_persistence(x)
        assert torch.equal(other.edges, chosen.edges), way.name
        assert torch.equal(other.deaths, chosen.deaths), way.name
    assert_barcode(
        points, chosen.deaths.numpy(), chosen.edges.numpy(), scipy_tree(exact_distances(points))
    )


@pytest.mark.parametrize("kind", [*KINDS, "unit vectors"])
def test_the_choice_of_the_path_changes_no_bit(kind: str) -> None:
    n, d = 1030, 100
    points = np.eye(n) if kind == "unit vectors" else KINDS[kind](n, d)
    x = torch.from_numpy(points.astype(np.float32))
    chosen = h0_persistence(x)
    for path in (SMALL, LARGE):
        _core.set_overrides(path)
        other = h0_persistence(x)
        assert torch.equal(other.edges, chosen.edges)
        assert torch.equal(other.deaths, chosen.deaths)


def test_a_rotated_simplex_whose_distances_differ_in_the_last_bits_only() -> None:
    rotation = np.linalg.qr(rng(0).standard_normal((200, 200)))[0]
    check(rotation.astype(np.float32))
    check(rotation, edges=False)


def test_threads_seeds_and_batch_positions_do_not_change_a_bit_of_a_large_cloud() -> None:
    x = torch.from_numpy(np.stack([gaussian(1100, 100, seed) for seed in range(3)]))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results += [h0_persistence(x)]
        results += [H0Persistence(*map(torch.stack, zip(*map(h0_persistence, x), strict=True)))]
        for seed in (1, 2):
            _core.set_overrides(seed=seed)
            results += [h0_persistence(x)]
        _core.set_overrides()
    for other in results[1:]:
        assert torch.equal(other.edges, results[0].edges)
        assert torch.equal(other.deaths, results[0].deaths)


@pytest.mark.slow
@pytest.mark.parametrize("isa", _core.supported_isas())
@pytest.mark.parametrize("coded", [0, 1])
def test_a_thousand_copies_of_ten_points(isa: str, coded: int) -> None:
    _core.set_isa(isa)
    _core.set_overrides(LARGE, coded=coded)
    points = copies(10, 1000, 17).astype(np.float32)
    h0 = h0_persistence(points)
    assert (h0.deaths[:-9] == 0).all()
    zero = np.stack([np.arange(10, 10000) % 10, np.arange(10, 10000)], -1)
    assert (h0.edges[:-9] == zero[np.lexsort((zero[:, 1], zero[:, 0]))]).all()
    expected = kruskal(squared(points[:10]))
    np.testing.assert_allclose(h0.deaths[-9:], np.sqrt(expected[0]), rtol=1e-6)
    assert (h0.edges[-9:] == expected[1]).all()


@pytest.mark.slow
def test_masses_of_ties_are_decided_within_bounded_memory() -> None:
    """All of 3000 * 2999 / 2 distances tie: far more links than the filter keeps."""
    points = torch.eye(3000)
    _core.set_overrides(LARGE)
    h0 = h0_persistence(points)
    star_edges = torch.stack([torch.zeros(2999).long(), torch.arange(1, 3000)], -1)
    assert torch.equal(h0.edges, star_edges)
    assert torch.equal(h0.deaths, torch.full((2999,), 2.0).sqrt())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("coded", [0, 1])
def test_a_large_cloud_names_its_first_bad_point(bad: float, coded: int) -> None:
    _core.set_overrides(LARGE, coded=coded)
    points = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    points[[70, 211], 3] = bad
    with pytest.raises(ValueError, match="point 70 "):
        h0_persistence(points)
    assert h0_persistence(points, check_finite=False).deaths.isnan().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("coded", [0, 1])
def test_a_large_cloud_out_of_the_range_of_squares_is_rescued(scale: float, coded: int) -> None:
    points = gaussian(200, 12, seed=2)
    plain = h0_persistence(points)
    _core.set_overrides(LARGE, coded=coded)
    scaled = h0_persistence((points.astype(np.float64) * scale).astype(np.float32))
    assert (scaled.edges == plain.edges).mean() > 0.99
    np.testing.assert_allclose(scaled.deaths / scale, plain.deaths, rtol=1e-5)
