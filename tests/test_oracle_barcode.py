"""Functionals of barcodes: against their formulas, GUDHI, Hera and SciPy, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable

import gudhi
import gudhi.hera
import gudhi.representations
import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.sparse.csgraph
import scipy.spatial.distance
import torch
from clouds import copies, gaussian, grid
from oracles import TIGHT, Array

from tsloss_fast import H0Persistence, barcode, h0_persistence

Functional = Callable[..., torch.Tensor]


def reference_entropy(d: Array, base: float = np.e) -> float:
    shares = d[d > 0] / d.sum() if d.any() else np.ones(1)
    return float(-(shares * np.log(shares)).sum() / np.log(base))


def reference_redundancy(d: Array, rho: float) -> float:
    mean = d.mean() if d.any() else np.inf
    return float((np.maximum(1 - d / (rho * mean), 0) ** 2).mean()) if d.any() else 0.0


# Each functional (deaths, lengths) -> (...), and its formula for one cloud's bars, empty or not.
FUNCTIONALS: dict[str, tuple[Functional, Callable[[Array], float]]] = {
    "total persistence": (
        lambda d, lengths=None: barcode.total_persistence(d, lengths=lengths),
        lambda d: d.sum(),
    ),
    "total persistence, p = 2.5": (
        lambda d, lengths=None: barcode.total_persistence(d, 2.5, lengths),
        lambda d: (d**2.5).sum(),
    ),
    "total persistence, p = 1/2": (
        lambda d, lengths=None: barcode.total_persistence(d, p=0.5, lengths=lengths),
        lambda d: np.sqrt(d).sum(),
    ),
    "mean death": (barcode.mean_death, lambda d: d.mean() if len(d) else 0.0),
    "variance": (barcode.variance, lambda d: d.var() if len(d) else 0.0),
    "coefficient of variation": (
        barcode.coefficient_of_variation,
        lambda d: d.std() / d.mean() if d.any() else 0.0,
    ),
    "entropy": (barcode.persistent_entropy, reference_entropy),
    "entropy, base 2": (
        lambda d, lengths=None: barcode.persistent_entropy(d, lengths, base=2.0),
        lambda d: reference_entropy(d, 2),
    ),
    "entropy, normalized": (
        lambda d, lengths=None: barcode.persistent_entropy(d, lengths, normalize=True),
        lambda d: reference_entropy(d) / np.log(len(d)) if len(d) > 1 else 0.0,
    ),
    "redundancy": (barcode.redundancy, lambda d: reference_redundancy(d, 0.5)),
    "redundancy, rho = 0.9": (
        lambda d, lengths=None: barcode.redundancy(d, 0.9, lengths),
        lambda d: reference_redundancy(d, 0.9),
    ),
    "smooth number of components": (
        lambda d, lengths=None: barcode.num_components(d, 0.7, lengths, smoothing=0.3),
        lambda d: 1 + (1 / (1 + np.exp(-(d - 0.7) / 0.3))).sum(),
    ),
}
named = pytest.mark.parametrize("name", FUNCTIONALS)


def ascending(m: int, seed: int, zeros: int = 0) -> Array:
    d = np.sort(np.random.default_rng(seed).gamma(1.5, 1.0, m))
    d[:zeros] = 0
    return d


def diagram(d: Array) -> Array:
    return np.stack([np.zeros(len(d)), d], -1)


@named
def test_a_functional_is_its_formula(name: str) -> None:
    functional, formula = FUNCTIONALS[name]
    for m in (0, 1, 2, 3, 19, 64):
        for zeros in {0, 1, m // 2, m} - ({1} if m == 0 else set()):
            d = ascending(m, m, zeros)
            got = functional(torch.from_numpy(d))
            assert got.shape == ()
            np.testing.assert_allclose(got.item(), formula(d), rtol=1e-12, atol=1e-14)


@named
def test_a_functional_of_a_batch_is_that_of_each_cloud(name: str) -> None:
    functional, formula = FUNCTIONALS[name]
    d = np.stack([ascending(9, s, zeros=s) for s in range(6)]).reshape(2, 3, 9)
    got = functional(torch.from_numpy(d))
    assert got.shape == (2, 3)
    expected = np.apply_along_axis(lambda x: np.float64(formula(x)), -1, d)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-14)


@named
def test_padding_is_ignored_whatever_it_holds(name: str) -> None:
    functional, formula = FUNCTIONALS[name]
    lengths = [0, 1, 2, 5, 12, 7]
    clouds = [ascending(max(n - 1, 0), n, zeros=min(n // 6, 1)) for n in lengths]
    for garbage in (0.0, 9.0, float("inf"), float("nan")):
        d = torch.full((6, 11), garbage, dtype=torch.float64)
        for row, cloud in zip(d, clouds, strict=True):
            row[: len(cloud)] = torch.from_numpy(cloud)
        d.requires_grad_()
        got = functional(d, lengths=torch.tensor(lengths))
        expected = [formula(cloud) for cloud in clouds]
        if "components" in name:
            expected[0] = 0.0  # no points, no components
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12, atol=1e-14)
        (grad,) = torch.autograd.grad(got.sum(), d)
        assert grad.isfinite().all()
        for row, cloud in zip(grad, clouds, strict=True):
            assert not row[len(cloud) :].any()


@named
def test_a_functional_agrees_with_its_finite_differences(name: str) -> None:
    functional, _ = FUNCTIONALS[name]
    d = torch.from_numpy(np.stack([ascending(7, s) + 0.1 for s in (1, 2)])).requires_grad_()
    lengths = torch.tensor([8, 5])
    assert torch.autograd.gradcheck(functional, d, **TIGHT)
    assert torch.autograd.gradcheck(lambda x: functional(x, lengths=lengths), d, **TIGHT)
    assert torch.autograd.gradgradcheck(functional, d, **TIGHT)


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_and_all_zero_bars_give_no_nan_in_value_or_gradient(
    name: str, dtype: torch.dtype
) -> None:
    functional, formula = FUNCTIONALS[name]
    for shape in ((0,), (1,), (5,), (3, 4), (0, 4), (2, 0)):
        d = torch.zeros(shape, dtype=dtype, requires_grad=True)
        value = functional(d)
        assert value.shape == shape[:-1]
        assert value.dtype == dtype
        torch.testing.assert_close(
            value, torch.full_like(value, float(formula(np.zeros(shape[-1])))), rtol=1e-6, atol=0
        )
        (grad,) = torch.autograd.grad(value.sum(), d)
        assert grad.isfinite().all()


@named
def test_equal_bars_and_single_bars_give_finite_gradients(name: str) -> None:
    functional, _ = FUNCTIONALS[name]
    for d in (torch.full((6,), 2.0), torch.tensor([3.0]), torch.tensor([0.0, 0.0, 1.0])):
        (grad,) = torch.autograd.grad(functional(d.requires_grad_()), d)
        assert grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_free_functionals_are_so_at_every_scale_of_float32(scale: float) -> None:
    d = torch.from_numpy(ascending(20, 3).astype(np.float32))
    for name in ("coefficient of variation", "entropy", "entropy, normalized", "redundancy"):
        functional, _ = FUNCTIONALS[name]
        torch.testing.assert_close(functional(d * scale), functional(d), rtol=1e-5, atol=1e-6)


def test_entropy_is_gudhis_and_at_most_the_logarithm_of_the_number_of_bars() -> None:
    for m in (2, 5, 40):
        d = ascending(m, m)
        by_gudhi = gudhi.representations.Entropy(mode="scalar")(diagram(d)).item()
        got = barcode.persistent_entropy(torch.from_numpy(d)).item()
        np.testing.assert_allclose(got, by_gudhi, rtol=1e-12)
        assert got < np.log(m)
        equal = barcode.persistent_entropy(torch.full((m,), 0.3, dtype=torch.float64))
        np.testing.assert_allclose(equal.item(), np.log(m), rtol=1e-12)


def test_the_betti_curve_is_gudhis_plus_the_infinite_bar() -> None:
    d = ascending(30, 4, zeros=3)
    scales = np.linspace(0, 1.1 * d[-1], 57)
    by_gudhi = gudhi.representations.BettiCurve(predefined_grid=scales)(diagram(d))
    got = barcode.betti_curve(torch.from_numpy(d), torch.from_numpy(scales))
    assert not got.dtype.is_floating_point
    assert (got.numpy() == by_gudhi + 1).all()


def test_components_merge_at_the_scale_of_the_death_itself() -> None:
    d = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.5, 1.0, 3.0, 3.0]])
    scales = torch.tensor([0.0, 0.5, 1.0, 2.0, 2.5, 3.0])
    expected = torch.tensor([[4, 4, 2, 1, 1, 1], [5, 4, 3, 3, 3, 1]])
    assert torch.equal(barcode.betti_curve(d, scales), expected)
    for k, scale in enumerate(scales.tolist()):
        assert torch.equal(barcode.num_components(d, scale), expected[:, k])
    padded = barcode.betti_curve(d, scales, lengths=torch.tensor([3, 1]))
    assert torch.equal(padded, torch.tensor([[2, 2, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]))
    empty = barcode.betti_curve(d, scales, lengths=torch.tensor([0, 0]))
    assert not empty.any()


def test_the_number_of_components_is_that_of_the_graph_of_short_edges() -> None:
    points = gaussian(30, 3, seed=1, dtype=np.float64)
    distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(points))
    deaths = h0_persistence(torch.from_numpy(points)).deaths
    for scale in (0.0, 0.3, 0.7, 1.0, 1.4, 9.0):
        expected, _ = scipy.sparse.csgraph.connected_components(distances <= scale)
        assert barcode.num_components(deaths, scale).item() == expected


def test_smooth_counts_approach_the_exact_ones_and_can_be_differentiated() -> None:
    d = torch.from_numpy(ascending(12, 6) + 0.05).requires_grad_()
    scales = torch.linspace(0.1, 4, 9, dtype=torch.float64, requires_grad=True)
    sharp = barcode.betti_curve(d, scales, smoothing=1e-6)
    torch.testing.assert_close(sharp, barcode.betti_curve(d, scales).double())
    assert torch.autograd.gradcheck(
        lambda x, s: barcode.betti_curve(x, s, smoothing=0.4), (d, scales), **TIGHT
    )


CLOUDS = {
    "gaussian": gaussian(40, 3, dtype=np.float64),
    "two points": gaussian(2, 3, dtype=np.float64),
    "one hundred": gaussian(100, 7, dtype=np.float64),
    "grid": grid(5, 2, seed=1),
    "copies": copies(5, 6, 3),
    "line": np.arange(20.0)[:, None] ** 1.5,
}


@pytest.mark.parametrize("name", CLOUDS)
def test_single_linkage_is_scipys_dendrogram(name: str) -> None:
    points = CLOUDS[name]
    condensed = scipy.spatial.distance.pdist(points)
    expected = scipy.cluster.hierarchy.linkage(condensed, "single")
    got = barcode.single_linkage(h0_persistence(torch.from_numpy(points))).numpy()
    assert got.dtype == np.float64
    assert got.shape == expected.shape
    assert scipy.cluster.hierarchy.is_valid_linkage(got)
    assert scipy.cluster.hierarchy.is_monotonic(got)
    assert (got[:, 0] < got[:, 1]).all()
    cophenetic = scipy.cluster.hierarchy.cophenet
    np.testing.assert_allclose(cophenetic(got), cophenetic(expected), rtol=1e-12, atol=1e-14)
    if name in ("gaussian", "two points", "one hundred"):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_single_linkage_of_a_batch_is_that_of_each_cloud_and_carries_the_gradient() -> None:
    points = torch.from_numpy(np.stack([gaussian(9, 3, s, np.float64) for s in range(6)]))
    points = points.reshape(2, 3, 9, 3).requires_grad_()
    h0 = h0_persistence(points)
    linkage = barcode.single_linkage(h0)
    assert linkage.shape == (2, 3, 8, 4)
    for index in np.ndindex(2, 3):
        alone = barcode.single_linkage(h0_persistence(points[index]))
        assert torch.equal(linkage[index], alone)
    (a,) = torch.autograd.grad(linkage[..., 2].square().sum(), points, retain_graph=True)
    (b,) = torch.autograd.grad(h0.deaths.square().sum(), points)
    assert torch.equal(a, b)


def test_single_linkage_of_padded_clouds_is_refused() -> None:
    points = torch.from_numpy(np.stack([gaussian(6, 2, s) for s in range(2)]))
    h0 = h0_persistence(points, lengths=torch.tensor([6, 4]))
    with pytest.raises(ValueError, match=r"(?i)padd"):
        barcode.single_linkage(h0)
    sliced = H0Persistence(h0.deaths[1, :3], h0.edges[1, :3])
    assert torch.equal(
        barcode.single_linkage(sliced), barcode.single_linkage(h0_persistence(points[1, :4]))
    )


@pytest.mark.parametrize("n", [0, 1])
def test_single_linkage_without_bars_is_empty(n: int) -> None:
    assert barcode.single_linkage(h0_persistence(torch.zeros(n, 2))).shape == (0, 4)
    assert barcode.single_linkage(h0_persistence(torch.zeros(3, n, 2))).shape == (3, 0, 4)
