"""Diagrams in the conventions of other libraries: they are taken back and forth unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")
pytest.importorskip("gudhi")
pytest.importorskip("sklearn")

import gudhi

from tsloss_fast import h0_persistence
from tsloss_fast.analysis.diagrams import RipsH0, from_gudhi, h0_diagram, to_gudhi
from tsloss_fast.analysis.record.h1 import h1_diagram


def cloud(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3))


def gudhi_persistence(points: np.ndarray) -> list[tuple[int, tuple[float, float]]]:
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    return tree.persistence(min_persistence=-1)


@pytest.mark.parametrize("n", [2, 3, 12, 30])
def test_the_diagram_of_h0_is_gudhis(n: int) -> None:
    ours = h0_diagram(h0_persistence(cloud(n)).deaths)
    theirs = from_gudhi(gudhi_persistence(cloud(n)))[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert ours.shape == (n, 2)


def test_one_point_is_one_bar_that_never_dies() -> None:
    assert h0_diagram(h0_persistence(cloud(1)).deaths).tolist() == [[0.0, np.inf]]


def test_ripser_has_the_same_convention() -> None:
    ripser = pytest.importorskip("ripser").ripser
    theirs = ripser(cloud(20), maxdim=0)["dgms"][0]
    ours = h0_diagram(h0_persistence(cloud(20)).deaths)
    np.testing.assert_allclose(ours, theirs[np.argsort(theirs[:, 1])], rtol=1e-6)


def test_persim_takes_the_diagrams() -> None:
    persim = pytest.importorskip("persim")
    a, b = (h0_diagram(h0_persistence(cloud(15, s)).deaths, infinite=False) for s in (1, 2))
    assert persim.bottleneck(a, b) == pytest.approx(gudhi.bottleneck_distance(a, b))


def test_gudhis_persistence_goes_to_diagrams_and_back() -> None:
    persistence = gudhi_persistence(cloud(25))
    diagrams = from_gudhi(persistence)
    assert len(diagrams) == 2
    assert len(diagrams[1]) > 0
    back = to_gudhi(diagrams)
    assert sorted(back) == sorted(persistence)
    # GUDHI's order: the highest dimension first, the longest bar first.
    assert [bar[0] for bar in back] == sorted((bar[0] for bar in back), reverse=True)
    lengths = [death - birth for dimension, (birth, death) in back if dimension == 0]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == np.inf


def test_gudhi_draws_what_to_gudhi_gives() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    axes = figure().subplots()
    gudhi.plot_persistence_barcode(to_gudhi(from_gudhi(gudhi_persistence(cloud(10)))), axes=axes)
    assert len(axes.patches) + len(axes.lines) + len(axes.collections) > 0


def test_empty_and_missing_dimensions_are_empty_arrays() -> None:
    assert [d.shape for d in from_gudhi([], dimensions=2)] == [(0, 2), (0, 2)]
    assert from_gudhi([]) == []
    (first, second) = from_gudhi([(1, (0.5, 1.0))])
    assert (first.shape, second.tolist()) == ((0, 2), [[0.5, 1.0]])
    assert to_gudhi([np.empty((0, 2)), np.array([[1.0, 2.0]])]) == [(1, (1.0, 2.0))]


def test_coincident_points_are_kept_or_left_out_as_gudhi_does() -> None:
    points = np.repeat(cloud(5), 3, axis=0)
    deaths = h0_persistence(points).deaths
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=1)
    for zero_length, least in ((True, -1), (False, 0)):
        theirs = from_gudhi(tree.persistence(min_persistence=least), 1)[0]
        np.testing.assert_allclose(h0_diagram(deaths, zero_length=zero_length), theirs, rtol=1e-12)


def test_what_is_no_diagram_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pairs \(dimension, \(birth, death\)\), got 3"):
        from_gudhi([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"\[2\] do not fit in 2 diagrams"):
        from_gudhi([(2, (0.0, 1.0))], dimensions=2)
    with pytest.raises(ValueError, match=r"shape \(n, 2\), got \(2, 3\)"):
        to_gudhi([np.zeros((2, 3))])
    with pytest.raises(ValueError, match=r"bars of one cloud, got \(2, 3\)"):
        h0_diagram(np.zeros((2, 3)))


def test_the_transformer_stands_in_for_gudhis_in_a_pipeline() -> None:
    from gudhi.representations import DiagramSelector, Entropy
    from gudhi.sklearn.rips_persistence import RipsPersistence
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    clouds = [cloud(n, n) for n in (5, 9, 30)]
    theirs = RipsPersistence(homology_dimensions=0, threshold=np.inf).fit_transform(clouds)
    ours = clone(RipsH0(infinite=True)).fit_transform(clouds)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, np.asarray(b)[np.argsort(np.asarray(b)[:, 1])], rtol=1e-6)
    features = [
        make_pipeline(step, DiagramSelector(use=True), Entropy(mode="scalar")).fit_transform(clouds)
        for step in (RipsH0(), RipsPersistence(homology_dimensions=0, threshold=np.inf))
    ]
    np.testing.assert_allclose(features[0], features[1], rtol=1e-6)
    assert RipsH0(metric="cosine").get_params()["metric"] == "cosine"
    assert RipsH0(infinite=True).transform([np.zeros((0, 3))])[0].shape == (0, 2)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the checks
def test_the_transformer_says_what_it_takes() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    if "on_fail" not in inspect.signature(checks.check_estimator).parameters:
        pytest.skip("needs scikit-learn 1.6")
    tags = pytest.importorskip("sklearn.utils").get_tags(RipsH0())
    assert not tags.requires_fit
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)
    failed = [c for c in checks.check_estimator(RipsH0(), on_fail=None) if c["status"] == "failed"]
    assert failed == []


@pytest.mark.parametrize("sizes", [(5, 9), (5, 5), (1,)])
def test_set_output_gives_the_table_of_gudhis_transformer(sizes: tuple[int, ...]) -> None:
    pandas = pytest.importorskip("pandas")
    from gudhi.sklearn.rips_persistence import RipsPersistence
    from sklearn import config_context
    from sklearn.base import clone

    clouds = [cloud(n, n) for n in sizes]
    asked = clone(RipsH0(infinite=True).set_output(transform="pandas"))
    theirs = RipsPersistence(homology_dimensions=[0]).set_output(transform="pandas")
    with config_context(transform_output="pandas"):
        ours = [asked.transform(clouds), RipsH0(infinite=True).fit_transform(clouds)]
        assert isinstance(RipsH0().set_output(transform="default").transform(clouds), list)
    expected = theirs.fit_transform(clouds)
    for table in ours:
        assert isinstance(table, pandas.DataFrame)
        assert list(table.columns) == list(expected.columns) == ["H0"]
        for a, b in zip(table["H0"], expected["H0"], strict=True):
            np.testing.assert_allclose(a, np.sort(np.asarray(b), 0), rtol=1e-6)
    assert asked.transform([]).shape == (0, 1)
    assert isinstance(RipsH0().transform(clouds), list)


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_another_default_device_changes_no_diagram(kind: Callable[..., Any]) -> None:
    points = kind(cloud(12))
    expected = RipsH0().transform([points])[0], h1_diagram(points)
    with torch.device("meta"):
        found = RipsH0().transform([points])[0], h1_diagram(points)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_cloud_that_is_not_finite_is_named() -> None:
    clouds = [cloud(3), np.array([[0.0], [np.nan]])]
    with pytest.raises(ValueError, match="X: cloud 1 contains NaN or infinity; remove such points"):
        RipsH0().transform(clouds)


def test_h1_takes_any_tensor() -> None:
    points = torch.from_numpy(cloud(12)).float()
    expected = h1_diagram(points.double().numpy())
    np.testing.assert_array_equal(h1_diagram(points.requires_grad_()), expected)
    assert h1_diagram(points.bfloat16()).shape[1] == 2
