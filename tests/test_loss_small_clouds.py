"""A batch whose clouds have too few points for the loss is warned of, once for each module."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

from tsloss_fast import TSLoss

FORMS = ("exact", "surrogate", "total", "nearest")
# The arguments, a shape, lengths, and whether no cloud has enough points for the loss.
TOO_FEW: list[tuple[dict[str, Any], tuple[int, ...], list[int] | None, bool]] = [
    ({}, (20, 1, 576), None, True),
    ({}, (20, 2, 5), None, True),
    ({}, (20, 3, 5), None, False),
    ({}, (1, 576), None, True),
    ({}, (20, 576), None, False),
    ({}, (3, 9, 5), [2, 1, 0], True),
    ({}, (3, 9, 5), [2, 3, 0], False),
    ({"connectivity": 0.0}, (4, 2, 5), None, True),
    ({"compactness": 0.5}, (4, 2, 5), None, False),
    ({"compactness": 0.5}, (4, 1, 5), None, True),
    ({"form": "surrogate"}, (2, 2, 5), None, True),
    ({"form": "surrogate"}, (2, 3, 5), None, False),
    ({"form": "surrogate"}, (2, 7, 5), [2, 2], True),
    ({"form": "nearest"}, (2, 2, 5), None, True),
    ({"form": "nearest"}, (2, 3, 5), None, False),
    ({"form": "nearest"}, (2, 7, 5), [2, 2], True),
    ({"form": "total"}, (2, 2, 5), None, False),
    ({"form": "total"}, (2, 1, 5), None, True),
    ({"form": "total", "eta": 1.0}, (2, 7, 5), [2, 1], False),
    ({"form": "total"}, (2, 7, 5), [1, 1], True),
]


def warnings_of(loss: Any, *arguments: Any, **more: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss(*arguments, **more)
    return [str(w.message) for w in caught if "cloud" in str(w.message)]


@pytest.mark.parametrize("return_terms", [False, True])
@pytest.mark.parametrize(("arguments", "shape", "lengths", "too_few"), TOO_FEW)
def test_a_batch_of_clouds_that_are_too_small_is_warned_of_once(
    arguments: dict[str, Any],
    shape: tuple[int, ...],
    lengths: list[int] | None,
    too_few: bool,
    return_terms: bool,
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    loss = TSLoss(**arguments)
    assert len(warnings_of(loss, x, lengths, return_terms)) == int(too_few)
    assert not warnings_of(loss, x, lengths, return_terms)
    for dtype in (torch.float64, torch.bfloat16):
        leaf = x.to(dtype).requires_grad_()
        assert len(warnings_of(TSLoss(**arguments), leaf, lengths, return_terms)) == int(too_few)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((20, 1, 576), "(20, 1, 576) is 20 clouds of 1 point"),
        ((2, 2, 5), "(2, 2, 5) is 2 clouds of 2 points"),
        ((1, 576), "(1, 576) is 1 cloud of 1 point"),
        ((2, 3), "(2, 3) is 1 cloud of 2 points"),
        ((2, 3, 1, 5), "(2, 3, 1, 5) is 6 clouds of 1 point"),
    ],
)
def test_the_warning_says_how_the_shape_is_read(shape: tuple[int, ...], words: str) -> None:
    for form in ("exact", "surrogate", "nearest"):
        (message,) = warnings_of(TSLoss(form=form), torch.randn(shape))
        assert re.search(re.escape(words) + r"\b", message)


def test_jagged_clouds_that_are_too_small_are_warned_of() -> None:
    for offsets, count in (([0, 2, 3], 1), ([0, 1, 4], 0)):
        points = torch.randn(offsets[-1], 3)
        jagged = torch.nested.nested_tensor_from_jagged(points, torch.tensor(offsets))
        assert len(warnings_of(TSLoss(), jagged)) == count


@pytest.mark.parametrize("form", FORMS)
def test_transforms_and_compilers_are_not_warned_of_small_clouds(form: str) -> None:
    x, loss = torch.randn(4, 1, 3), TSLoss(form=form)
    for transformed in (
        torch.func.grad(loss),
        torch.func.vmap(loss),
        torch.compile(loss, backend="eager", fullgraph=True),
    ):
        torch._dynamo.reset()
        assert not warnings_of(transformed, x)
    assert len(warnings_of(loss, x)) == 1
