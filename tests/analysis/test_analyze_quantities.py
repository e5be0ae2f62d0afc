"""The numbers of a cloud: ours against ripser and SciPy, the authors' against GUDHI's complexes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

gudhi = pytest.importorskip("gudhi", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("sklearn")
scipy_distance = pytest.importorskip("scipy.spatial.distance")

from tsloss_fast.analysis.analyze.quantities import COLUMNS, measure, rips_diagrams  # noqa: E402

Array = np.ndarray


def authors(points: Array, cut: float = math.inf) -> dict[str, float]:
    """The published analysis, call for call."""
    rips = gudhi.RipsComplex(points=points, max_edge_length=cut)
    bars = rips.create_simplex_tree(max_dimension=2).persistence(homology_coeff_field=2)
    found: dict[str, float] = {}
    everything: list[float] = []
    for dimension in (0, 1):
        mine = [interval for d, interval in bars if d == dimension]
        finite = [death - birth for birth, death in mine if death != math.inf]
        everything += finite
        found[f"h{dimension}_bars"] = len(mine)
        found[f"h{dimension}_mean_lifetime"] = float(np.mean(finite)) if finite else 0.0
        found[f"h{dimension}_max_lifetime"] = max(finite, default=0.0)
    total = sum(everything)
    shares = [x / total for x in everything] if total > 1e-9 else []
    found["entropy"] = -sum(p * math.log(p) for p in shares)
    return found


def paper(measured: dict[str, Any], cut: bool = False) -> dict[str, float]:
    prefix = "paper_cut_" if cut else "paper_"
    return {
        name.removeprefix(prefix): value
        for name, value in measured.items()
        if name.startswith(prefix) and name.startswith("paper_cut_") == cut
    }


def assert_authors_numbers(points: Array, cut: float) -> None:
    measured = measure(torch.from_numpy(points), max_edge_length=cut)
    assert paper(measured) == pytest.approx(authors(points), rel=1e-12, abs=1e-13)
    assert paper(measured, cut=True) == pytest.approx(authors(points, cut), rel=1e-12, abs=1e-13)


def gaussian(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d))


# Small integers tie almost everywhere and meet the cut exactly, points coincide, and loops abound.
@st.composite
def ugly_clouds(draw: st.DrawFn) -> Array:
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    values = st.integers(-2, 2) if draw(st.booleans()) else st.floats(-2, 2, width=32)
    scale = draw(st.sampled_from([1.0, 1e-12, 1e-3, 1.0, 1e6]))
    rows = draw(st.lists(st.lists(values, min_size=d, max_size=d), min_size=n, max_size=n))
    points = np.array(rows, dtype=np.float64) * scale
    return points[draw(st.permutations(list(range(n)) + draw(st.sampled_from([[], [0, 0]]))))]


SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@settings(max_examples=200, deadline=None)
@given(ugly_clouds(), st.sampled_from([0.0, 1.0, 2.0, 3.0, 1e6, math.inf]))
@example(SQUARE, 1.0)  # edges and no triangle: GUDHI then gives no loop at all
@example(SQUARE * 1.2, 1.0)  # no edge: no bar at all
@example(np.zeros((3, 2)), 0.0)
def test_the_authors_numbers_are_those_of_gudhis_complex_of_triangles(
    points: Array, cut: float
) -> None:
    assert_authors_numbers(points, cut)


@pytest.mark.parametrize("seed", range(6))
def test_cuts_through_the_middle_leave_infinite_loops_as_gudhi_does(seed: int) -> None:
    points = gaussian(40, 3, seed)
    for cut in (0.3, 0.6, 0.9, 1.2, 3.0):
        assert_authors_numbers(points, cut)
    births = rips_diagrams(points)[1][:, 0]
    measured = measure(torch.from_numpy(points), max_edge_length=float(np.median(births)))
    assert measured["paper_cut_h1_bars"] == (births <= np.median(births)).sum()


def test_bars_are_gudhis_to_the_last_bit() -> None:
    points = gaussian(60, 40).astype(np.float32)
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    bars = tree.persistence(homology_coeff_field=2)
    deaths, loops, _ = rips_diagrams(points.astype(np.float64))
    assert deaths.tolist() == sorted(d for k, (_, d) in bars if k == 0 and d < math.inf)
    assert sorted(map(tuple, loops.tolist())) == sorted(bar for k, bar in bars if k == 1)


def test_loops_are_counted_over_the_field_of_two_elements() -> None:
    # Sixty points of a projective plane, in its embedding x xᵀ: its one loop has order two, and
    # is there over the field of two elements alone.
    k = np.arange(60)
    z = 1 - (2 * k + 1) / 120
    turn = k * math.pi * (3 - math.sqrt(5))
    r = np.sqrt(1 - z * z)
    sphere = np.stack([r * np.cos(turn), r * np.sin(turn), z], -1)
    points = np.einsum("ni,nj->nij", sphere, sphere).reshape(-1, 9)
    longest = measure(torch.from_numpy(points))["paper_h1_max_lifetime"]
    assert longest == authors(points)["h1_max_lifetime"]
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    others = [d - b for k, (b, d) in tree.persistence(homology_coeff_field=11) if k == 1]
    assert longest > 1.5 * max(others)


def test_three_places_in_41_points() -> None:
    """The authors' start, "x x … x": 41 rows of which 3 are distinct."""
    places = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    points = places[[0, *[1, 2] * 20]]
    measured = measure(torch.from_numpy(points), max_edge_length=3)
    assert measured["h0_bars"] == 40
    assert measured["h0_zero_bars"] == 38
    assert measured["h0_mean_lifetime"] == 7 / 40
    assert measured["paper_h0_bars"] == 3  # two finite ones and the infinite one
    assert measured["paper_h0_mean_lifetime"] == 3.5
    assert measured["paper_cut_h0_bars"] == 3  # one of the finite ones is infinite by now
    assert measured["paper_cut_h0_mean_lifetime"] == 3
    assert measured["paper_entropy"] == pytest.approx(
        -sum(p * math.log(p) for p in (3 / 7, 4 / 7)), rel=1e-14
    )
    assert str(measured["paper_cut_entropy"]) == "0.0"  # of one bar; not -0.0
    assert measured["h1_bars"] == measured["paper_h1_bars"] == 0


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (3, 3), (0, 0), (1, 0), (5, 0)])
def test_tiny_clouds_have_every_number(shape: tuple[int, int]) -> None:
    points = gaussian(*shape)
    measured = measure(torch.from_numpy(points))
    assert list(measured) == list(COLUMNS)
    for name, kind in COLUMNS.items():
        if name != "note":
            assert type(measured[name]) is kind, name
            assert measured[name] >= 0
    n, d = shape
    assert measured["h0_bars"] == max(n - 1, 0)
    assert measured["h0_zero_bars"] == (max(n - 1, 0) if d == 0 else 0)
    assert paper(measured) == pytest.approx(
        authors(points if n else np.zeros((1, 0))) | ({} if n else {"h0_bars": 0})
    )


def test_our_numbers_agree_with_scipy_and_ripser() -> None:
    ripser = pytest.importorskip("ripser").ripser
    points = gaussian(50, 3)
    points[:10] = points[10]
    measured = measure(torch.from_numpy(points))
    distances = scipy_distance.squareform(scipy_distance.pdist(points))
    loops = ripser(distances, distance_matrix=True, maxdim=1)["dgms"][1]
    linkage = pytest.importorskip("scipy.cluster.hierarchy").linkage(points, "single")[:, 2]
    for name, lifetimes, rel in (
        ("h0_", linkage, 1e-12),
        ("h1_", (loops[:, 1] - loops[:, 0]).astype(float), 1e-4),  # ripser.py has float32
    ):
        shares = lifetimes[lifetimes > 0] / lifetimes.sum()
        entropy = -(shares * np.log(shares)).sum()
        expected = {
            "bars": len(lifetimes),
            "total_persistence": lifetimes.sum(),
            "mean_lifetime": lifetimes.mean(),
            "max_lifetime": lifetimes.max(),
            "coefficient_of_variation": lifetimes.std() / lifetimes.mean(),
            "persistent_entropy": entropy,
            "entropy_gap": math.log(len(lifetimes)) - entropy,
        }
        assert {k: measured[name + k] for k in expected} == pytest.approx(expected, rel=rel)
    assert measured["h0_zero_bars"] == 10


def test_points_far_from_the_origin_keep_their_bars() -> None:
    points = torch.from_numpy(gaussian(40, 64, 1) * 1e-3)
    moved = measure(points + 100.0)
    for name, value in measure(points).items():
        if isinstance(value, float):
            assert moved[name] == pytest.approx(value, rel=1e-8), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_and_arrays_are_measured_as_the_float64_numbers_they_are(
    dtype: torch.dtype,
) -> None:
    points = torch.from_numpy(gaussian(12, 5)).to(dtype)
    expected = measure(points.double())
    assert measure(points) == expected
    array = points.double().numpy().astype(">f4")
    assert measure(array[::-1].copy()[::-1]) == expected


@pytest.mark.parametrize("n", [2, 41, 60])
def test_without_h1_the_rest_stays_and_what_needs_it_is_none(n: int) -> None:
    points = torch.from_numpy(np.concatenate([gaussian(n, 3), np.zeros((2, 3))]))
    whole = measure(points, max_edge_length=0.9)
    for without in (
        measure(points, max_edge_length=0.9, h1=False),
        measure(points, max_edge_length=0.9, max_points=n + 1),
    ):
        assert "no H1" in without["note"]
        for name, value in without.items():
            if "h1" in name or name.endswith("paper_entropy") or name == "paper_cut_entropy":
                assert value is None, name
            elif name != "note":
                assert value == pytest.approx(whole[name], rel=1e-13), name
    assert measure(points, max_points=n + 2)["note"] is None


INTEGERS = np.zeros((3, 2), np.int64)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (torch.tensor([[1, math.nan], [0, math.inf]]), ValueError, "2 of 4 coordinates are NaN or"),
        (torch.zeros(3), ValueError, r"\(N, D\)"),
        (torch.zeros(1, 3, 2), ValueError, r"\(N, D\)"),
        (torch.tensor([[1e300], [-1e300], [1.0]], dtype=torch.float64), ValueError, "overflow"),
        (torch.from_numpy(INTEGERS), TypeError, "points: expected"),
        (INTEGERS, TypeError, "points: expected"),
        ([[0.0, 1.0]], TypeError, "points: expected"),
    ],
)
def test_points_that_have_no_barcode_are_errors(
    points: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(points)


@pytest.mark.parametrize("cut", [-1.0, math.nan])
def test_the_cut_is_a_length(cut: float) -> None:
    with pytest.raises(ValueError, match="max_edge_length"):
        measure(torch.zeros(2, 2), max_edge_length=cut)
