"""TSLoss(form="surrogate", detach_thresholds=True): thresholds of the redundancy are constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from clouds import crowded, gaussian
from oracles import TIGHT
from torch import Tensor

from tsloss_fast import TSLoss


def surrogate(detached: bool, **more: float) -> TSLoss:
    weights = {"connectivity": 0.0, "redundancy": 1.0}
    return TSLoss(form="surrogate", detach_thresholds=detached, **{**weights, **more})


def hinge(x: Tensor, alpha: float, constant: Callable[[Tensor], Tensor]) -> Tensor:
    """The redundancy of one cloud; `constant` says what becomes of its thresholds."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    pairs = torch.linalg.vector_norm(x[i] - x[j], dim=1)
    a = alpha / pairs.mean()
    low = constant(((-a * pairs).softmax(0) * pairs).sum())
    high = constant(((a * pairs).softmax(0) * pairs).sum())
    return ((low - pairs).relu() + (pairs - high).relu()).mean()


@pytest.mark.parametrize("alpha", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_formula_with_constant_thresholds(
    alpha: float, seed: int
) -> None:
    x = torch.from_numpy(crowded(9, 4, seed)).requires_grad_()
    grads = []
    for detached, constant in ((True, Tensor.detach), (False, lambda threshold: threshold)):
        expected = hinge(x, alpha, constant)
        loss = surrogate(detached, alpha=alpha)(x)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-15)
        (slope,) = torch.autograd.grad(expected, x)
        (grad,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-13)
        grads.append(grad)
    assert not torch.allclose(*grads, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("include_self", [False, True])
def test_values_and_connectivity_do_not_depend_on_it(include_self: bool) -> None:
    x = torch.from_numpy(np.stack([crowded(9, 4, s) for s in range(3)]))
    sizes = torch.tensor([9, 5, 1])
    leaves, terms = [x.clone().requires_grad_() for _ in range(2)], []
    for leaf, detached in zip(leaves, (False, True), strict=True):
        loss = surrogate(detached, connectivity=1.3, redundancy=0.7, include_self=include_self)
        terms.append(loss(leaf, sizes, return_terms=True))
    assert torch.equal(terms[0][0], terms[1][0])
    for name in ("connectivity", "redundancy"):
        assert torch.equal(terms[0][1][name], terms[1][1][name])
        assert terms[0][1][name] > 1e-4
    a, b = (
        torch.autograd.grad(t[1]["connectivity"], leaf)[0]
        for t, leaf in zip(terms, leaves, strict=True)
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_thresholds_of_a_batch_are_constants_in_each_of_its_clouds() -> None:
    x = torch.from_numpy(np.stack([crowded(9, 4, s) for s in range(3)])).requires_grad_()
    sizes = [9, 6, 2]
    loss = surrogate(True)(x, torch.tensor(sizes))
    expected = sum(hinge(c[:n], 10.0, Tensor.detach) for c, n in zip(x, sizes, strict=True)) / 3
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x)[0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(
        torch.func.grad(lambda x: surrogate(True)(x, torch.tensor(sizes)))(x.detach()), grad
    )


def test_thresholds_are_not_detached_unless_asked_for() -> None:
    x = torch.from_numpy(crowded(9, 4)).requires_grad_()
    (default,) = torch.autograd.grad(TSLoss(form="surrogate", connectivity=0.0)(x), x)
    (attached,) = torch.autograd.grad(surrogate(False)(x), x)
    assert torch.equal(default, attached)
    assert torch.autograd.gradcheck(TSLoss(form="surrogate", connectivity=0.0), x, **TIGHT)


def two_groups(gap: Tensor) -> Tensor:
    """Two groups of four points, each of width 1 and `gap` apart."""
    points = torch.from_numpy(gaussian(8, 3, dtype=np.float64)) / 4
    return points + gap * torch.tensor([[1.0, 0, 0]] * 4 + [[0.0] * 3] * 4).double()


@pytest.mark.parametrize("gap", [10.0, 100.0, 1e4])
def test_the_hinge_pulls_far_groups_together_only_if_its_thresholds_are_constants(
    gap: float,
) -> None:
    """A soft maximum that moves follows the long pairs, and the pull is lost."""
    pulls = []
    for detached in (True, False):
        leaf = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
        (pull,) = torch.autograd.grad(surrogate(detached)(two_groups(leaf)), leaf)
        pulls.append(float(pull))
    assert pulls[0] > 0.1
    assert abs(pulls[1]) < 0.1 * pulls[0]
