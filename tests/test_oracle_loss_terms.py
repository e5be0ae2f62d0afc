"""The terms that a weight switches on: compactness with its reference, and loops through GUDHI."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
import torch
from clouds import crowded, gaussian
from oracles import METRICS, TIGHT, Array, exact_distances, needs_long_double, oracle_deaths
from ripser import ripser

from tsloss_fast import TSLoss

pytestmark = needs_long_double


def test_compactness_is_the_mean_death_over_a_given_or_first_seen_reference() -> None:
    first, second = (
        torch.from_numpy(np.stack([crowded(9, 3, s), crowded(9, 3, s + 1)])) for s in (1, 5)
    )
    means = [np.mean([oracle_deaths(x).mean() for x in pair.numpy()]) for pair in (first, second)]
    alone = {"connectivity": 0.0, "redundancy": 0.0, "compactness": 2.0}
    given = TSLoss(**alone, reference=0.25)
    np.testing.assert_allclose(given(first).item(), 2 * float(means[0]) / 0.25, rtol=1e-12)
    learned = TSLoss(**alone)
    for points, mean in ((first, means[0]), (second, means[1]), (first, means[0])):
        loss, terms = learned(points, return_terms=True)
        np.testing.assert_allclose(loss.item(), 2 * float(mean / means[0]), rtol=1e-6)
        np.testing.assert_allclose(terms["compactness"].item(), float(mean / means[0]), rtol=1e-6)
    assert torch.autograd.gradcheck(given, first.requires_grad_(), **TIGHT)


@pytest.mark.filterwarnings("ignore:.*coincide")
def test_the_reference_of_compactness_is_never_zero() -> None:
    loss = TSLoss(connectivity=0.0, redundancy=0.0, compactness=1.0)
    assert loss(torch.ones(5, 2)) == 0
    points = torch.from_numpy(crowded(6, 2))
    torch.testing.assert_close(loss(points).double(), torch.tensor(1.0).double())


def circle(n: int, seed: int, noise: float = 0.1) -> Array:
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], -1) + noise * gaussian(n, 2, seed, np.float64)


def total_h1(x: Array, metric: str = "euclidean") -> float:
    distances = exact_distances(x, metric).astype(np.float64)
    tree = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=2)
    tree.compute_persistence()
    bars = tree.persistence_intervals_in_dimension(1)
    by_ripser = ripser(distances, distance_matrix=True, maxdim=1)["dgms"][1]
    total = float((bars[:, 1] - bars[:, 0]).sum()) if len(bars) else 0.0
    np.testing.assert_allclose(total, (by_ripser[:, 1] - by_ripser[:, 0]).sum(), rtol=1e-4)
    return total


@pytest.mark.parametrize("metric", METRICS)
def test_loops_are_the_total_h1_persistence_over_the_mean_death(metric: str) -> None:
    loss = TSLoss(connectivity=0.0, redundancy=0.0, loops=1.5, metric=metric)
    for x in (circle(12, 1), gaussian(25, 3, 2, np.float64), gaussian(2, 3, 2, np.float64)):
        expected = 1.5 * total_h1(x, metric) / float(oracle_deaths(x, metric).mean())
        np.testing.assert_allclose(loss(torch.from_numpy(x)).item(), expected, rtol=1e-9)


def test_loops_of_a_padded_batch_are_the_mean_and_agree_with_finite_differences() -> None:
    padded = torch.full((4, 12, 2), float("nan"), dtype=torch.float64)
    clouds = [circle(12, 1), circle(9, 2), circle(1, 3), circle(7, 4)]
    for row, cloud in zip(padded, clouds, strict=True):
        row[: len(cloud)] = torch.from_numpy(cloud)
    lengths = torch.tensor([12, 9, 1, 7])
    loss = TSLoss(loops=0.7)
    got, terms = loss(padded, lengths, return_terms=True)
    expected = [total_h1(x) / float(oracle_deaths(x).mean()) if len(x) > 1 else 0.0 for x in clouds]
    assert min(expected[0], expected[1]) > 0.1
    np.testing.assert_allclose(terms["loops"].item(), np.mean(expected), rtol=1e-9)
    assert got > 0.7 * terms["loops"]
    leaf = padded.requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf, lengths), leaf)
    assert grad.isfinite().all()
    whole = torch.from_numpy(np.stack([circle(8, 5), circle(8, 6)])).requires_grad_()
    assert torch.autograd.gradcheck(loss, whole, **TIGHT)


@pytest.mark.filterwarnings("ignore:.*coincide")
def test_a_coincident_cloud_has_no_loops() -> None:
    points = torch.ones(8, 3, requires_grad=True)
    loss = TSLoss(loops=1.0, compactness=1.0)(points)
    loss.backward()
    assert loss == 0
    assert not points.grad.any()
