"""The terms that are compared, and the schedules of their weights, are what their names say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from tsloss_fast.benchmarks.study.methods import METHODS, SCHEDULES, Method, make_term

from tsloss_fast import TSLoss


def cloud(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(7, 5, generator=generator, dtype=torch.float64)


def deaths(points: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(linkage(points.numpy(), "single")[:, 2])


def value(name: str, points: torch.Tensor, start: torch.Tensor | None = None) -> float:
    settings = Method(name, **METHODS[name]).settings()
    return float(make_term(settings, points if start is None else start)(points))


def test_the_plainer_terms_are_those_of_their_definitions() -> None:
    start, points = cloud(0), cloud(1)
    ratio = pdist(points.numpy()).mean() / pdist(start.numpy()).mean()
    assert value("pairwise", points, start) == pytest.approx(ratio)
    settings = Method("pairwise", "pairwise").settings()
    both = make_term(settings, start)(torch.stack([start, points]))
    assert float(both) == pytest.approx((1 + ratio) / 2)
    eta = deaths(start).mean()
    assert value("hofer", points, start) == pytest.approx(float((deaths(points) - eta).abs().sum()))
    assert value("l2", points) == pytest.approx(float(points.square().sum(1).mean()))
    assert value("ce", points) == 0.0


def test_pairwise_has_no_gradient_between_coincident_points() -> None:
    points = torch.zeros(4, 3, requires_grad=True)
    term = make_term(Method("pairwise", "pairwise").settings(), points)
    assert torch.equal(torch.autograd.grad(term(points), points)[0], torch.zeros(4, 3))
    assert float(term(torch.ones(1, 3))) == 0.0


def test_the_parts_of_tsloss_are_those_of_the_barcode() -> None:
    points = cloud(3)
    d = deaths(points)
    connectivity = float(d.var(correction=0) / d.mean() ** 2)
    redundancy = float(torch.relu(1 - d / (0.5 * d.mean())).square().mean())
    assert value("connectivity", points) == pytest.approx(connectivity)
    assert value("redundancy", points) == pytest.approx(redundancy, abs=1e-12)
    for name in ("tsloss", "tsloss-warmup", "tsloss-decay"):
        assert value(name, points) == pytest.approx(connectivity + redundancy)
    # Compactness is 1 at the start, times its weight.
    assert value("tsloss-compact", points) == pytest.approx(connectivity + redundancy + 0.1)


def test_the_parts_of_the_surrogate_add_up_and_the_other_forms_are_those_of_the_package() -> None:
    points = cloud(4)
    parts = [value("surrogate-h0", points), value("surrogate-h1", points)]
    assert min(parts) > 0
    assert value("surrogate", points) == pytest.approx(sum(parts))
    assert value("nearest", points) == pytest.approx(float(TSLoss("nearest")(points)))


def test_schedules_begin_and_end_where_they_say() -> None:
    expected = {
        "constant": [1, 1, 1],
        "warmup": [0.4, 1, 1],
        "decay": [0.9, 0.5, 0],
        "anneal": [(1 + math.cos(math.pi / 10)) / 2, 0.5, 0],
        "early": [1, 0, 0],
    }
    shares = {name: [share(time) for time in (0.1, 0.5, 1)] for name, share in SCHEDULES.items()}
    assert shares == {name: pytest.approx(values) for name, values in expected.items()}
