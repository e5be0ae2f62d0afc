"""The exact form with its terms: the value, the terms and all gradients are those of the formula
in torch on the deaths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from clouds import crowded
from drawn_clouds import EXAMPLES, clouds
from hypothesis import given
from hypothesis import strategies as st
from oracles import METRICS, TIGHT, Array
from torch import Tensor

from tsloss_fast import TSLoss, barcode, h0_persistence

Terms = dict[str, Tensor]
Combination = Callable[[Tensor, Terms], Tensor]
Lengths = Sequence[int] | Tensor | None

every_metric = pytest.mark.parametrize("metric", METRICS)
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
RELATIVE = {torch.float32: 2e-6, torch.float64: 1e-12}
WEIGHTS = {"connectivity": 1.7, "redundancy": 0.4}
# What is differentiated of the value and the terms: some leave outputs unused.
COMBINATIONS: dict[str, Combination] = {
    "the value": lambda value, _: value,
    "connectivity alone": lambda _, terms: terms["connectivity"],
    "redundancy alone": lambda _, terms: terms["redundancy"],
    "both terms": lambda _, terms: terms["connectivity"] * 0.3 + terms["redundancy"].square(),
    "everything": lambda value, terms: 2 * value + 3 * terms["connectivity"] - terms["redundancy"],
    "the value and one term": lambda value, terms: value.square() - terms["redundancy"],
}
# Batches: the number of points of each cloud, and whether the batch is padded.
BATCHES: dict[str, tuple[list[int], bool]] = {
    "one cloud": ([12], False),
    "a batch": ([9, 9, 9, 9], False),
    "a padded batch": ([12, 7, 3, 2], True),
    "clouds without bars": ([1, 0, 6], True),
    "clouds of two points": ([2, 2], False),
    "a large cloud": ([90], False),
}


def batch_of(name: str, dtype: torch.dtype, coincident: bool = False) -> tuple[Tensor, Lengths]:
    sizes, padded = BATCHES[name]
    x = torch.full((len(sizes), max(sizes), 4), float("nan"), dtype=dtype)
    for k, n in enumerate(sizes):
        x[k, :n] = torch.from_numpy(crowded(n, 4, k)).to(dtype)
    if coincident:
        x[0, : sizes[0]] = x[0, 0]
    return (x, torch.tensor(sizes)) if padded else (x.squeeze(0), None)


def formula(
    x: Tensor, lengths: Lengths = None, metric: str = "euclidean", rho: float = 0.5
) -> tuple[Tensor, Terms]:
    deaths = h0_persistence(x, metric, lengths).deaths
    terms = {
        "connectivity": barcode.relative_variance(deaths, lengths).mean(),
        "redundancy": barcode.redundancy(deaths, rho, lengths).mean(),
    }
    value = sum((WEIGHTS[name] * term for name, term in terms.items()), torch.zeros(()))
    return value, terms


def assert_same(
    loss: TSLoss, x: Tensor, lengths: Lengths, combine: Combination, slack: float, rho: float = 0.5
) -> None:
    """`slack`: the absolute error of a gradient, in units of its largest entry."""
    a, b = (x.detach().clone().requires_grad_() for _ in range(2))
    value, terms = loss(a, lengths, return_terms=True)
    expected, parts = formula(b, lengths, loss.metric, rho)
    assert set(terms) == set(parts)
    close = {"rtol": RELATIVE[x.dtype], "atol": RELATIVE[x.dtype] / 10}
    for name, term in terms.items():
        assert term.shape == ()
        assert term.dtype == x.dtype
        torch.testing.assert_close(term, parts[name], **close)
    torch.testing.assert_close(value, expected, **close)
    torch.testing.assert_close(loss(x, lengths), value, **close)
    (grad,) = torch.autograd.grad(combine(value, terms), a)
    (slope,) = torch.autograd.grad(combine(expected, parts), b)
    assert grad.isfinite().all()
    largest = float(slope.abs().max()) if slope.numel() else 0.0
    close = {"rtol": RELATIVE[x.dtype], "atol": slack * RELATIVE[x.dtype] * max(largest, 1e-3)}
    torch.testing.assert_close(grad, slope, **close)


@every_type
@every_metric
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_terms_and_gradients_of_any_combination_are_those_of_the_formula(
    combination: str, metric: str, dtype: torch.dtype
) -> None:
    loss = TSLoss(**WEIGHTS, metric=metric)
    for name in BATCHES:
        x, lengths = batch_of(name, dtype)
        assert_same(loss, x, lengths, COMBINATIONS[combination], slack=1.0)


@every_type
@pytest.mark.filterwarnings("ignore:.*coincide")
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_coincident_clouds_and_other_shares_of_short_bars_too(
    combination: str, dtype: torch.dtype
) -> None:
    for name in BATCHES:
        x, lengths = batch_of(name, dtype, coincident=True)
        assert_same(TSLoss(**WEIGHTS), x, lengths, COMBINATIONS[combination], slack=1.0)
    x, lengths = batch_of("a padded batch", dtype)
    loss = TSLoss(**WEIGHTS, rho=1.4)
    assert_same(loss, x, lengths, COMBINATIONS[combination], slack=1.0, rho=1.4)


@every_type
@pytest.mark.parametrize("present", ["connectivity", "redundancy"])
def test_a_term_of_weight_zero_is_absent_and_the_other_has_its_gradient(
    present: str, dtype: torch.dtype
) -> None:
    weights = {"connectivity": 0.0, "redundancy": 0.0, present: 2.5}
    for name in BATCHES:
        x, lengths = batch_of(name, dtype)
        a, b = (x.clone().requires_grad_() for _ in range(2))
        value, terms = TSLoss(**weights)(a, lengths, return_terms=True)
        assert set(terms) == {present}
        expected = formula(b, lengths)[1][present]
        close = {"rtol": RELATIVE[dtype], "atol": RELATIVE[dtype] / 10}
        torch.testing.assert_close(terms[present], expected, **close)
        torch.testing.assert_close(value, 2.5 * terms[present], rtol=RELATIVE[dtype], atol=0)
        (grad,) = torch.autograd.grad(value + terms[present], a)
        (slope,) = torch.autograd.grad(3.5 * expected, b)
        close = {"rtol": RELATIVE[dtype], "atol": RELATIVE[dtype]}
        torch.testing.assert_close(grad, slope, **close)


@every_metric
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_second_derivatives_through_the_terms_agree_with_finite_differences(
    combination: str, metric: str
) -> None:
    loss, combine = TSLoss(**WEIGHTS, metric=metric), COMBINATIONS[combination]
    x = torch.from_numpy(np.stack([crowded(6, 3, s) for s in (1, 2)])).requires_grad_()
    for lengths in (None, torch.tensor([6, 4])):

        def combined(x: Tensor, lengths: Lengths = lengths) -> Tensor:
            return combine(*loss(x, lengths, return_terms=True))

        assert torch.autograd.gradcheck(combined, x, **TIGHT)
        assert torch.autograd.gradgradcheck(combined, x, **TIGHT)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_transforms_and_compilers_give_the_terms_and_their_gradients(
    combination: str,
) -> None:
    loss, combine = TSLoss(**WEIGHTS), COMBINATIONS[combination]
    x, lengths = batch_of("a padded batch", torch.float64)
    x = x.nan_to_num(0.5)

    def combined(x: Tensor) -> Tensor:
        return combine(*loss(x, lengths, return_terms=True))

    leaf = x.clone().requires_grad_()
    expected = combine(*formula(leaf, lengths))
    (slope,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(torch.func.grad(combined)(x), slope, rtol=1e-11, atol=1e-13)
    torch._dynamo.reset()
    compiled = torch.compile(combined, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    got = compiled(leaf)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(got, leaf)[0], slope, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*coincide")
@pytest.mark.filterwarnings("ignore:.* is 1 cloud of")
@EXAMPLES
@given(
    clouds(low=1, nonzero=True),
    st.sampled_from(["euclidean", "manhattan"]),
    st.sampled_from(sorted(COMBINATIONS)),
    st.integers(0, 12),
)
def test_the_core_and_the_formula_agree_on_every_cloud(
    points: Array, metric: str, combination: str, size: int
) -> None:
    """The test is in float64, where the rounding of the formula itself is out of the way."""
    x = torch.from_numpy(points.astype(np.float64))
    loss, combine = TSLoss(**WEIGHTS, metric=metric), COMBINATIONS[combination]
    deaths = h0_persistence(x, metric).deaths
    # Where all bars are nearly equal, slopes of the size 1 / mean nearly cancel.
    mean = float(deaths.mean()) if deaths.any() else 1.0
    assert_same(loss, x, None, combine, slack=max(1.0, 1e3 / mean))
    padded = torch.stack([x, x.flip(0)])
    lengths = torch.tensor([len(x), min(size, len(x))])
    assert_same(loss, padded, lengths, combine, slack=max(1.0, 1e3 / mean))


def test_an_output_that_is_not_used_needs_no_gradient_and_a_graph_is_freed() -> None:
    x = torch.from_numpy(crowded(9, 3)).requires_grad_()
    value, terms = TSLoss(**WEIGHTS)(x, return_terms=True)
    first = torch.autograd.grad(terms["redundancy"], x, retain_graph=True)[0]
    second = torch.autograd.grad(value, x)[0]
    assert first.any()
    assert not torch.allclose(first, second)
    with torch.no_grad():
        quiet, parts = TSLoss(**WEIGHTS)(x, return_terms=True)
    assert torch.equal(quiet, value)
    assert not quiet.requires_grad
    assert all(torch.equal(parts[name], terms[name]) for name in terms)
