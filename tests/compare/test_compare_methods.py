"""The terms that are compared, and the schedules of their weights, are what their names say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast import TSLoss
from tsloss_fast.compare.methods import METHODS, MeanPairwiseDistance, Method, find_method


def cloud(seed: int = 0, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64)


def deaths(points: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(linkage(points.numpy(), "single")[:, 2])


def test_pairwise_is_the_mean_distance_in_units_of_the_first() -> None:
    start, points = cloud(0), cloud(1)
    expected = pdist(points.numpy()).mean() / pdist(start.numpy()).mean()
    term = METHODS["pairwise"].make_term(start)
    assert term(points).item() == pytest.approx(expected)
    assert term(start).item() == pytest.approx(1.0)
    batch = torch.stack([start, points])
    assert term(batch).item() == pytest.approx((1 + expected) / 2)


def test_pairwise_has_no_gradient_between_coincident_points() -> None:
    points = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(METHODS["pairwise"].make_term(points)(points), points)
    assert torch.equal(gradient, torch.zeros(4, 3))
    assert MeanPairwiseDistance()(torch.ones(1, 3)).item() == 0.0


def test_hofer_counts_from_the_mean_death_of_the_start() -> None:
    start, points = cloud(0), cloud(1)
    eta = deaths(start).mean()
    expected = (deaths(points) - eta).abs().sum().item()
    assert METHODS["hofer"].make_term(start)(points).item() == pytest.approx(expected)


def test_l2_is_the_mean_squared_norm() -> None:
    points = cloud(1)
    expected = points.square().sum(1).mean().item()
    assert METHODS["l2"].make_term(points)(points).item() == pytest.approx(expected)


def test_the_exact_terms_are_those_of_the_barcode() -> None:
    points = cloud(3)
    d = deaths(points)
    mean = d.mean()
    connectivity = (d.var(correction=0) / mean**2).item()
    redundancy = torch.relu(1 - d / (0.5 * mean)).square().mean().item()
    value = {name: METHODS[name].make_term(points)(points).item() for name in METHODS}
    assert value["connectivity"] == pytest.approx(connectivity)
    assert value["redundancy"] == pytest.approx(redundancy, abs=1e-12)
    for name in ("tsloss", "tsloss-warmup", "tsloss-decay", "tsloss-hidden"):
        assert value[name] == pytest.approx(connectivity + redundancy)
    # Compactness is 1 at the start, times its weight.
    assert value["tsloss-compact"] == pytest.approx(connectivity + redundancy + 0.1)


def test_the_surrogates_parts_add_up() -> None:
    points = cloud(4)
    value = {
        name: METHODS[name].make_term(points)(points).item()
        for name in ("surrogate-h0", "surrogate-h1", "surrogate")
    }
    assert value["surrogate-h0"] > 0
    assert value["surrogate-h1"] > 0
    total = value["surrogate-h0"] + value["surrogate-h1"]
    assert value["surrogate"] == pytest.approx(total)
    assert value["surrogate"] == pytest.approx(TSLoss("surrogate")(points).item())


def test_loops_count_what_gudhi_counts() -> None:
    gudhi = pytest.importorskip("gudhi")
    angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    points = torch.stack((angles.cos(), angles.sin()), 1)
    tree = gudhi.RipsComplex(points=points.numpy()).create_simplex_tree(max_dimension=2)
    tree.persistence()
    bars = tree.persistence_intervals_in_dimension(1)
    total = float((bars[:, 1] - bars[:, 0]).sum())
    assert total > 0
    mean = deaths(points).mean().item()
    with_loops = METHODS["tsloss-loops"].make_term(points)(points).item()
    without = METHODS["tsloss"].make_term(points)(points).item()
    assert with_loops - without == pytest.approx(0.1 * total / mean)


def test_settings_make_the_same_method_again() -> None:
    for method in METHODS.values():
        assert Method(method.name, **method.settings()) == method


def test_schedules_begin_and_end_where_they_say() -> None:
    shares = {
        name: [find_method(f"tsloss-{name}").share(step, 40) for step in (1, 5, 10, 20, 30, 40)]
        for name in ("warmup", "decay", "anneal", "early")
    }
    assert shares["warmup"] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
    assert shares["decay"] == pytest.approx([39 / 40, 35 / 40, 30 / 40, 0.5, 0.25, 0])
    half = [0.5 * (1 + math.cos(math.pi * step / 40)) for step in (1, 5, 10, 20, 30, 40)]
    assert shares["anneal"] == pytest.approx(half)
    assert shares["early"] == [1, 1, 1, 0, 0, 0]
    assert find_method("tsloss").share(1, 40) == find_method("tsloss").share(40, 40) == 1.0
