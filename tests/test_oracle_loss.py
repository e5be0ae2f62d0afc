"""TSLoss: every form against its formula in NumPy, its invariances and its derivatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clouds import crowded, gaussian
from oracles import METRICS, TIGHT, Array, exact_distances, needs_long_double, oracle_deaths

from tsloss_fast import TSLoss

pytestmark = needs_long_double
Terms = dict[str, float]


def exact_terms(x: Array, metric: str = "euclidean", rho: float = 0.5) -> Terms:
    d = oracle_deaths(x, metric).astype(np.float64)
    if not d.any():
        return {"connectivity": 0.0, "redundancy": 0.0}
    mean = d.mean()
    short = np.maximum(1 - d / (rho * mean), 0)
    return {"connectivity": d.var() / mean**2, "redundancy": (short**2).mean()}


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def surrogate_terms(x: Array, alpha: float = 10.0, include_self: bool = False) -> Terms:
    n = len(x)
    if n < 2:
        return {"connectivity": 0.0, "redundancy": 0.0}
    distances = exact_distances(x).astype(np.float64)
    pairs = distances[np.triu_indices(n, 1)]
    a = alpha / pairs.mean() if pairs.any() else 0.0
    rows = distances if include_self else distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    means = (softmax(-a * rows) * rows).sum(1)
    low, high = ((softmax(sign * a * pairs) * pairs).sum() for sign in (-1, 1))
    repelled, attracted = np.maximum(low - pairs, 0), np.maximum(pairs - high, 0)
    return {"connectivity": means.var(), "redundancy": (repelled + attracted).mean()}


def nearest_terms(x: Array, metric: str = "euclidean") -> Terms:
    if len(x) < 2:
        return {"connectivity": 0.0}
    nearest = (exact_distances(x, metric) + np.diag([np.inf] * len(x))).min(1)
    return {"connectivity": nearest.var() / nearest.mean() ** 2}


def total_terms(x: Array, p: float = 1.0, eta: float | None = None) -> Terms:
    d = oracle_deaths(x).astype(np.float64)
    return {"connectivity": float((d**p).sum() if eta is None else np.abs(d - eta).sum())}


FORMS: dict[str, tuple[dict[str, object], Callable[[Array], Terms]]] = {
    "exact": ({}, exact_terms),
    "exact, rho = 0.9": ({"rho": 0.9}, lambda x: exact_terms(x, rho=0.9)),
    "exact, manhattan": ({"metric": "manhattan"}, lambda x: exact_terms(x, "manhattan")),
    "exact, sqeuclidean": ({"metric": "sqeuclidean"}, lambda x: exact_terms(x, "sqeuclidean")),
    "exact, cosine": ({"metric": "cosine"}, lambda x: exact_terms(x, "cosine")),
    "nearest": ({"form": "nearest"}, nearest_terms),
    "nearest, manhattan": (
        {"form": "nearest", "metric": "manhattan"},
        lambda x: nearest_terms(x, "manhattan"),
    ),
    "surrogate": ({"form": "surrogate"}, surrogate_terms),
    "surrogate, alpha = 2": (
        {"form": "surrogate", "alpha": 2.0},
        lambda x: surrogate_terms(x, 2.0),
    ),
    "surrogate with self": (
        {"form": "surrogate", "alpha": 1.0, "include_self": True},
        lambda x: surrogate_terms(x, 1.0, include_self=True),
    ),
    "total": ({"form": "total"}, total_terms),
    "total, p = 2": ({"form": "total", "p": 2.0}, lambda x: total_terms(x, p=2.0)),
    "Hofer": ({"form": "total", "eta": 1.3}, lambda x: total_terms(x, eta=1.3)),
}
every_form = pytest.mark.parametrize("form", FORMS)
EUCLIDEAN = [form for form in FORMS if "cosine" not in form and "manhattan" not in form]


def module(form: str, **more: float) -> TSLoss:
    """The loss of a form, without the weights of terms that it does not have."""
    if FORMS[form][0].get("form") in ("nearest", "total"):
        more.pop("redundancy", None)
    return TSLoss(**FORMS[form][0], **more)


def value(terms: Terms, weights: Terms) -> float:
    return sum(weights[name] * term for name, term in terms.items())


WEIGHTS = {"connectivity": 1.7, "redundancy": 0.4}


@every_form
def test_the_loss_is_the_weighted_sum_of_its_formulas(form: str) -> None:
    for n, d in ((2, 3), (3, 2), (8, 4), (26, 5), (40, 33)):
        x = crowded(n, d)
        expected = FORMS[form][1](x)
        loss, terms = module(form, **WEIGHTS)(torch.from_numpy(x), return_terms=True)
        assert loss.shape == ()
        assert set(terms) == set(expected)
        for name, term in expected.items():
            assert terms[name].shape == ()
            np.testing.assert_allclose(terms[name].item(), term, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(loss.item(), value(expected, WEIGHTS), rtol=1e-10, atol=1e-13)
        alone = module(form, **WEIGHTS)(torch.from_numpy(x))
        torch.testing.assert_close(loss, alone, rtol=1e-14, atol=0)


def test_the_clouds_of_these_tests_have_terms_that_matter() -> None:
    for form, (_, formula) in FORMS.items():
        for name, term in formula(crowded(26, 5)).items():
            assert term > 1e-4, f"{form}: {name}"


@every_form
def test_a_batch_has_the_mean_loss_of_its_clouds(form: str) -> None:
    x = np.stack([crowded(9, 3, s) for s in range(6)])
    expected = np.mean([value(FORMS[form][1](cloud), WEIGHTS) for cloud in x])
    loss = module(form, **WEIGHTS)
    points = torch.from_numpy(x)
    np.testing.assert_allclose(loss(points).item(), expected, rtol=1e-10)
    np.testing.assert_allclose(loss(points.reshape(2, 3, 9, 3)).item(), expected, rtol=1e-10)


@every_form
@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan"), float("inf")])
def test_padding_never_enters_the_loss_or_its_gradient(form: str, garbage: float) -> None:
    lengths = [0, 1, 2, 7, 12]
    padded = torch.full((5, 12, 3), garbage, dtype=torch.float64)
    clouds = [crowded(n, 3, seed=n) for n in lengths]
    for row, cloud in zip(padded, clouds, strict=True):
        row[: len(cloud)] = torch.from_numpy(cloud)
    padded.requires_grad_()
    loss = module(form, **WEIGHTS)(padded, lengths=torch.tensor(lengths))
    expected = np.mean([value(FORMS[form][1](cloud), WEIGHTS) for cloud in clouds])
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)
    loss.backward()
    assert padded.grad.isfinite().all()
    for row, cloud in zip(padded.grad, clouds, strict=True):
        assert not row[len(cloud) :].any()
        if len(cloud) > 1:
            leaf = torch.from_numpy(cloud).requires_grad_()
            module(form, **WEIGHTS)(leaf).backward()
            torch.testing.assert_close(row[: len(cloud)], leaf.grad / 5, rtol=1e-10, atol=1e-13)


@every_form
def test_derivatives_agree_with_finite_differences(form: str) -> None:
    loss = module(form, **WEIGHTS)
    points = torch.from_numpy(np.stack([crowded(6, 3, s) for s in (1, 2)])).requires_grad_()
    lengths = torch.tensor([6, 4])
    assert torch.autograd.gradcheck(loss, points, **TIGHT)
    assert torch.autograd.gradcheck(lambda x: loss(x, lengths), points, **TIGHT)
    assert torch.autograd.gradgradcheck(loss, points, **TIGHT)


@every_form
def test_the_loss_does_not_depend_on_the_order_of_the_points(form: str) -> None:
    x = torch.from_numpy(crowded(20, 4))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    loss = module(form)
    torch.testing.assert_close(loss(x[order]), loss(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", EUCLIDEAN)
def test_the_loss_does_not_depend_on_the_place_or_the_direction_of_the_cloud(form: str) -> None:
    x = torch.from_numpy(crowded(20, 4))
    loss = module(form)
    rotation, _ = torch.linalg.qr(torch.from_numpy(gaussian(4, 4, 9, np.float64)))
    torch.testing.assert_close(loss(x + 3.7), loss(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(loss(x @ rotation), loss(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [2.0**-30, 3.0, 2.0**40])
def test_connectivity_and_redundancy_do_not_depend_on_the_scale(scale: float, metric: str) -> None:
    loss = TSLoss(metric=metric)
    x = torch.from_numpy(crowded(20, 4).astype(np.float32))
    a, b = x.clone().requires_grad_(), (scale * x).requires_grad_()
    torch.testing.assert_close(loss(b), loss(a), rtol=1e-5, atol=0)
    loss(a).backward()
    loss(b).backward()
    torch.testing.assert_close(b.grad * scale, a.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_the_gradient_does_not_change_the_scale_to_first_order(metric: str) -> None:
    """Euler's theorem: where f(c·x) = f(x), the gradient is orthogonal to x."""
    x = torch.from_numpy(crowded(20, 4)).requires_grad_()
    TSLoss(metric=metric)(x).backward()
    assert x.grad is not None
    assert (x.grad * x).abs().sum() > 0.1
    assert abs((x.grad * x).sum()) < 1e-12


@pytest.mark.parametrize("form", EUCLIDEAN)
def test_float32_points_far_from_the_origin_keep_their_loss(form: str) -> None:
    # Above 25 points a Gram formula would lose every distance here.
    x = (1e3 + 0.05 * gaussian(40, 33, dtype=np.float64)).astype(np.float32)
    expected = value(FORMS[form][1](x), WEIGHTS)
    got = module(form, **WEIGHTS)(torch.from_numpy(x)).item()
    np.testing.assert_allclose(got, expected, rtol=2e-4)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:.*coincide")
def test_a_coincident_cloud_has_loss_zero_and_gradient_zero(form: str, dtype: torch.dtype) -> None:
    for n in (2, 5, 40):
        row = torch.tensor([0.3, -1.7, 2.2], dtype=dtype)
        points = row.repeat(n, 1).requires_grad_()
        loss = module(form)(points)
        loss.backward()
        if form != "Hofer":  # its bars of length 0 are eta too short
            assert loss == 0
        assert not points.grad.any()


def test_a_coincident_cloud_warns_exactly_once_per_module() -> None:
    clouds = torch.from_numpy(np.stack([gaussian(5, 3, s) for s in range(3)]))
    clouds[1] = clouds[1, 0]
    for loss in (TSLoss(), TSLoss(connectivity=2.0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss(clouds[0])
            assert not caught
            for _ in range(3):
                loss(clouds)
                loss(clouds[1])
        assert len(caught) == 1
        assert "coincide" in str(caught[0].message)
        assert issubclass(caught[0].category, UserWarning)


@pytest.mark.filterwarnings("ignore:.*coincide")
def test_a_coincident_cloud_in_a_batch_counts_as_loss_zero() -> None:
    clouds = torch.from_numpy(np.stack([crowded(8, 3, s) for s in range(3)]))
    clouds[1] = clouds[1, 0]
    clouds.requires_grad_()
    loss = TSLoss(**WEIGHTS)(clouds)
    others = [exact_terms(clouds[k].detach().numpy()) for k in (0, 2)]
    expected = sum(value(terms, WEIGHTS) for terms in others) / 3
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-10)
    loss.backward()
    assert clouds.grad.isfinite().all()
    assert not clouds.grad[1].any()
    assert clouds.grad[[0, 2]].any()


@every_form
def test_some_coincident_points_give_a_finite_gradient(form: str) -> None:
    x = torch.from_numpy(crowded(30, 4).astype(np.float32))
    x[7] = x[3]
    x[20:25] = x[19]
    x.requires_grad_()
    loss = module(form)(x)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert x.grad.any()


@every_form
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (0, 5, 3), (2, 0, 3), (2, 1, 3)])
def test_clouds_without_bars_have_loss_zero_and_a_gradient(
    form: str, shape: tuple[int, ...]
) -> None:
    points = torch.ones(shape, requires_grad=True)
    loss, terms = module(form)(points, return_terms=True)
    assert loss == 0
    assert all(term == 0 for term in terms.values())
    loss.backward()
    assert points.grad.shape == shape
    assert not points.grad.any()


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(form: str, dtype: torch.dtype) -> None:
    points = torch.from_numpy(crowded(12, 6)).to(dtype).requires_grad_()
    wide = points.detach().float().requires_grad_()
    loss, expected = module(form)(points), module(form)(wide)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    assert points.grad.dtype == dtype
    torch.testing.assert_close(points.grad, wide.grad.to(dtype))


def test_terms_of_weight_zero_are_left_out() -> None:
    points = torch.from_numpy(crowded(9, 3))
    full, terms = TSLoss()(points, return_terms=True)
    for name, other in (("connectivity", "redundancy"), ("redundancy", "connectivity")):
        loss, left = TSLoss(**{other: 0.0})(points, return_terms=True)
        assert set(left) == {name}
        assert loss == terms[name]
    torch.testing.assert_close(full, terms["connectivity"] + terms["redundancy"])
