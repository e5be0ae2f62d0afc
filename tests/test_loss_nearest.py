"""TSLoss(form="nearest"): the relative variance of nearest-neighbour distances, against SciPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from clouds import FAMILIES, WITHOUT_ANGLES, crowded, gaussian
from drawn_clouds import EXAMPLES, clouds, metrics
from hypothesis import given
from oracles import METRICS, TIGHT, Array, neighbour_distances, neighbour_spread

from tsloss_fast import TSLoss

every_metric = pytest.mark.parametrize("metric", METRICS)


def nearest(metric: str = "euclidean", **more: float) -> TSLoss:
    return TSLoss(form="nearest", metric=metric, **more)


@every_metric
def test_the_loss_is_the_relative_variance_of_the_neighbour_distances(metric: str) -> None:
    for n, d in ((3, 2), (8, 4), (26, 5), (40, 33), (300, 3), (1500, 2)):
        x = crowded(n, d)
        expected = neighbour_spread(x, metric)
        assert expected > 1e-3
        loss, terms = nearest(metric, connectivity=1.7)(torch.from_numpy(x), return_terms=True)
        assert set(terms) == {"connectivity"}
        assert loss.shape == terms["connectivity"].shape == ()
        rtol = 1e-9 if metric == "cosine" else 1e-11
        np.testing.assert_allclose(terms["connectivity"].item(), expected, rtol=rtol, atol=1e-13)
        np.testing.assert_allclose(loss.item(), 1.7 * expected, rtol=rtol, atol=1e-13)
        torch.testing.assert_close(nearest(metric)(torch.from_numpy(x)), terms["connectivity"])


@every_metric
def test_ugly_clouds_have_their_loss_and_a_finite_gradient(metric: str) -> None:
    for family in ("spread", "clustered", "ties", "hubs"):
        for cloud in list(FAMILIES[family](np.float64))[::3]:
            if (family, metric) in WITHOUT_ANGLES or "times 2^" in cloud.name:
                continue
            points = cloud.points
            if metric == "cosine":
                points = points[(points != 0).any(1)]
                if "tight" in cloud.name or "identical" in cloud.name or "line" in cloud.name:
                    continue  # the directions differ in their last digits alone
            x = torch.from_numpy(points).requires_grad_()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*coincide")
                loss = nearest(metric)(x)
            tolerance = {"rtol": 1e-4, "atol": 1e-6} if metric == "cosine" else {"atol": 1e-9}
            np.testing.assert_allclose(
                loss.item(),
                neighbour_spread(points, metric),
                **{"rtol": 1e-9, **tolerance},
                err_msg=cloud.name,
            )
            loss.backward()
            assert x.grad.isfinite().all(), cloud.name


@pytest.mark.filterwarnings("ignore:.*coincide")
@pytest.mark.filterwarnings("ignore:.* is 1 cloud of 2 points")
@EXAMPLES
@given(clouds(nonzero=True), metrics)
def test_the_loss_of_any_cloud_is_scipys_and_its_gradient_is_finite(
    points: Array, metric: str
) -> None:
    x = torch.from_numpy(points).requires_grad_()
    loss = nearest(metric)(x)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert x.grad.isfinite().all()
    # Unit vectors that nearly agree have too few digits in float32.
    if metric != "cosine" or points.dtype == np.float64:
        expected = neighbour_spread(points, metric)
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-5, atol=1e-6)


@every_metric
def test_derivatives_agree_with_finite_differences_and_with_transforms(metric: str) -> None:
    x = torch.from_numpy(np.stack([crowded(7, 3, s) for s in (1, 2)])).requires_grad_()
    loss = nearest(metric)
    assert torch.autograd.gradcheck(loss, x, **TIGHT)
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor([7, 4])), x, **TIGHT)
    assert torch.autograd.gradgradcheck(loss, x, **TIGHT)
    leaf = x.detach()[0].requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(leaf.detach()), grad)
    each = torch.func.vmap(torch.func.grad(loss))(x.detach())
    torch.testing.assert_close(each[0], grad)


@every_metric
def test_the_loss_does_not_depend_on_order_place_direction_or_scale(metric: str) -> None:
    x = torch.from_numpy(crowded(20, 4))
    loss = nearest(metric)
    expected = loss(x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(x[order]), expected, rtol=1e-12, atol=0)
    for scale in (2.0**-30, 3.0, 2.0**40):
        torch.testing.assert_close(loss(scale * x), expected, rtol=1e-11, atol=0)
    rotation, _ = torch.linalg.qr(torch.from_numpy(gaussian(4, 4, 9, np.float64)))
    if metric != "manhattan":
        torch.testing.assert_close(loss(x @ rotation), expected, rtol=1e-10, atol=0)
    if metric != "cosine":
        torch.testing.assert_close(loss(x + 3.7), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_surrogate_tends_to_it_as_its_temperature_falls(seed: int) -> None:
    x = crowded(15, 4, seed)
    squared_mean = float(neighbour_distances(x).mean()) ** 2
    limit = nearest()(torch.from_numpy(x)).item()
    surrogate, errors = torch.from_numpy(x), []
    for alpha in (1e1, 1e2, 1e3, 1e4, 1e5):
        terms = TSLoss(form="surrogate", alpha=alpha)(surrogate, return_terms=True)[1]
        errors.append(abs(terms["connectivity"].item() / squared_mean / limit - 1))
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-9
    assert errors[3] < 1e-3
