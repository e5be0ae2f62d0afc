"""TSLoss takes the barcode of its points from outside: values and gradients stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from clouds import crowded
from drawn_clouds import EXAMPLES, clouds, metrics
from hypothesis import given
from oracles import METRICS, TIGHT, Array
from torch import Tensor

from tsloss_fast import H0Persistence, TSLoss, h0_persistence

FORMS: dict[str, dict[str, Any]] = {
    "exact": {"connectivity": 1.7, "redundancy": 0.4},
    "one term": {"redundancy": 0.0},
    "exact, rho = 0.9": {"rho": 0.9},
    "compact": {"compactness": 0.5, "reference": 2.0},
    "loops": {"loops": 0.5},
    "surrogate": {"form": "surrogate"},
    "total": {"form": "total"},
    "Hofer": {"form": "total", "eta": 1.3},
    "nearest": {"form": "nearest"},
}
BITWISE = ("exact", "one term", "exact, rho = 0.9")
every_form = pytest.mark.parametrize("form", FORMS)
CASES = [(f, m) for f in FORMS for m in METRICS if f != "surrogate" or m == "euclidean"]


def padded(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([12, 7, 3, 2, 1, 0])
    x = torch.full((6, 12, 3), float("nan"), dtype=dtype)
    for row, n in zip(x, sizes.tolist(), strict=True):
        row[:n] = torch.from_numpy(crowded(n, 3, seed=n))
    return x, sizes


def assert_unchanged(form: str, x: Tensor, sizes: Tensor | None, metric: str) -> None:
    loss = TSLoss(**FORMS[form], metric=metric)
    h0 = h0_persistence(x.detach(), metric, sizes)
    a, b, c = (x.clone().requires_grad_() for _ in range(3))
    value, terms = loss(a, sizes, return_terms=True)
    same, parts = loss(b, sizes, return_terms=True, h0=h0)
    alone = loss(c, sizes, h0=h0)
    plain = loss(c, sizes)
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if value.dtype == torch.float32 else {"atol": 1e-14}
    close = {"rtol": 0, "atol": 0} if form in BITWISE else {"rtol": 1e-12, **tolerance}
    torch.testing.assert_close(same, value, **close)
    torch.testing.assert_close(alone, plain, **close)
    assert set(parts) == set(terms)
    for name, term in terms.items():
        torch.testing.assert_close(parts[name], term, **close)
        (grad,) = torch.autograd.grad(parts[name], b, retain_graph=True)
        (expected,) = torch.autograd.grad(term, a, retain_graph=True)
        torch.testing.assert_close(grad, expected, **close)
    (grad,), (expected,) = torch.autograd.grad(same, b), torch.autograd.grad(value, a)
    assert expected.any()
    torch.testing.assert_close(grad, expected, **close)
    (grad,), (expected,) = torch.autograd.grad(alone, c), torch.autograd.grad(plain, c)
    torch.testing.assert_close(grad, expected, **close)


@pytest.mark.parametrize(("form", "metric"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_of_a_given_barcode_is_the_loss(
    form: str, metric: str, dtype: torch.dtype
) -> None:
    x = torch.from_numpy(np.stack([crowded(9, 3, s) for s in range(4)])).to(dtype)
    assert_unchanged(form, x, None, metric)
    assert_unchanged(form, x[0], None, metric)
    assert_unchanged(form, x.reshape(2, 2, 9, 3), None, metric)
    assert_unchanged(form, torch.from_numpy(crowded(90, 3)).to(dtype), None, metric)
    assert_unchanged(form, *padded(dtype), metric)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_given_barcode_is_used_and_not_computed_again(dtype: torch.dtype) -> None:
    """Here it is that of a path, which no minimum spanning tree of these points is."""
    x = torch.from_numpy(crowded(9, 3)).to(dtype)
    steps = torch.stack([torch.arange(8), torch.arange(1, 9)], 1)
    lengths = (x[1:] - x[:-1]).norm(dim=1)
    deaths, order = lengths.sort()
    h0 = H0Persistence(deaths, steps[order])
    assert deaths.sum() > 1.5 * h0_persistence(x).deaths.sum()
    leaf, plain = (x.clone().requires_grad_() for _ in range(2))
    path = (plain[1:] - plain[:-1]).norm(dim=1)
    for form, expected in (
        ({"redundancy": 0.0}, (path / path.mean()).var(unbiased=False)),
        ({"form": "total", "p": 2.0}, path.square().sum()),
    ):
        value = TSLoss(**form)(leaf, h0=h0)
        torch.testing.assert_close(value, expected)
        (grad,), (slope,) = (
            torch.autograd.grad(value, leaf),
            torch.autograd.grad(expected, plain, retain_graph=True),
        )
        torch.testing.assert_close(grad, slope)


@pytest.mark.filterwarnings("ignore:.*coincide")
@pytest.mark.filterwarnings("ignore:.* is 1 cloud of")
@EXAMPLES
@given(clouds(nonzero=True), metrics)
def test_every_cloud_has_the_same_bits_with_its_barcode(points: Array, metric: str) -> None:
    x, loss = torch.from_numpy(points), TSLoss(metric=metric)
    grads = []
    for h0 in (None, h0_persistence(x, metric)):
        leaf = x.clone().requires_grad_()
        value, terms = loss(leaf, return_terms=True, h0=h0)
        (grad,) = torch.autograd.grad(value - 2 * terms["redundancy"], leaf)
        grads.append((value, *terms.values(), grad))
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", ["exact", "compact", "total", "nearest"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_have_the_loss_of_their_barcode(form: str, dtype: torch.dtype) -> None:
    x = padded(dtype)
    loss, (points, sizes) = TSLoss(**FORMS[form]), x
    h0 = h0_persistence(points, lengths=sizes)
    a, b = (points.clone().requires_grad_() for _ in range(2))
    value, expected = loss(a, sizes, h0=h0), loss(b, sizes)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    (grad,), (slope,) = torch.autograd.grad(value, a), torch.autograd.grad(expected, b)
    torch.testing.assert_close(grad, slope)


@every_form
def test_derivatives_of_a_given_barcode_agree_with_finite_differences(form: str) -> None:
    loss = TSLoss(**FORMS[form])
    x = torch.from_numpy(np.stack([crowded(6, 3, s) for s in (1, 2)])).requires_grad_()

    def given_barcode(x: Tensor) -> Tensor:
        return loss(x, h0=h0_persistence(x.detach()))

    assert torch.autograd.gradcheck(given_barcode, x, **TIGHT)
    if form != "loops":
        assert torch.autograd.gradgradcheck(given_barcode, x, **TIGHT)


@pytest.mark.parametrize("form", ["exact", "total", "nearest"])
def test_transforms_and_compilers_take_a_given_barcode(form: str) -> None:
    loss, x = TSLoss(**FORMS[form]), torch.from_numpy(crowded(9, 3))
    h0 = h0_persistence(x)

    def given_barcode(x: Tensor) -> Tensor:
        return loss(x, h0=h0)

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(given_barcode)(x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(given_barcode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)


def shaped(deaths: tuple[int, ...], edges: tuple[int, ...]) -> H0Persistence:
    return H0Persistence(
        torch.ones(deaths, dtype=torch.float64), torch.zeros(edges, dtype=torch.int64)
    )


@pytest.mark.parametrize("form", ["exact", "compact", "total", "nearest"])
@pytest.mark.parametrize(
    "h0",
    [
        shaped((3, 6), (3, 6, 2)),
        shaped((3, 4), (3, 4, 2)),
        shaped((2, 5), (2, 5, 2)),
        shaped((5,), (5, 2)),
        shaped((1, 3, 5), (1, 3, 5, 2)),
        shaped((3, 5), (3, 5, 3)),
        shaped((3, 5), (3, 4, 2)),
        shaped((3, 4), (3, 5, 2)),
        shaped((3, 5), (3, 5)),
    ],
    ids=lambda h0: f"{tuple(h0.deaths.shape)} {tuple(h0.edges.shape)}",
)
def test_a_barcode_of_another_shape_is_refused(form: str, h0: H0Persistence) -> None:
    x = torch.from_numpy(np.stack([crowded(6, 2, s) for s in range(3)]))
    for return_terms in (False, True):
        with pytest.raises(ValueError, match=r"\bh0\b") as caught:
            TSLoss(**FORMS[form])(x, return_terms=return_terms, h0=h0)
        shapes = (str(tuple(h0.deaths.shape)), str(tuple(h0.edges.shape)))
        assert any(shape in str(caught.value) for shape in shapes)


@every_form
def test_lengths_are_checked_beside_a_given_barcode_too(form: str) -> None:
    x = torch.from_numpy(crowded(18, 2)).reshape(3, 6, 2)
    with pytest.raises(ValueError, match=r"lengths: expected numbers between 0 and 6.*got 100"):
        TSLoss(**FORMS[form])(x, [100, 4, 3], h0=h0_persistence(x))


def test_a_barcode_of_another_kind_is_refused_and_one_of_another_layout_taken() -> None:
    x = torch.from_numpy(crowded(12, 2)).reshape(2, 6, 2)
    h0, loss = h0_persistence(x), TSLoss()
    arrays = h0_persistence(x.numpy())
    for wrong in (h0.deaths, (h0.deaths,), "bars"):
        with pytest.raises(TypeError, match=r"h0: got .*, expected what h0_persistence returns"):
            loss(x, h0=wrong)
    strided = torch.stack([h0.deaths, h0.deaths], -1)[..., 0]
    for like in (
        arrays,
        tuple(h0),
        H0Persistence(strided, h0.edges.int()),
        (h0.deaths.float(), h0.edges),
    ):
        torch.testing.assert_close(loss(x, h0=like), loss(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["exact", "total", "compact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_memory_that_cannot_be_had_is_a_memory_error(form: str, dtype: torch.dtype) -> None:
    huge = torch.zeros(1, 1, dtype=dtype).expand(10**7, 10**6)
    with pytest.raises(MemoryError, match=r"TSLoss needs .* bytes at once"):
        TSLoss(**FORMS[form])(huge)
