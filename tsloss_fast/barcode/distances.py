"""Distances between two barcodes.

Deaths `a` (..., M) and `b` (..., M'), `lengths_a` and `lengths_b` as in `tsloss_fast.barcode`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._batch import Lengths, can_bypass_dispatcher
from ._bars import Deaths, as_given, check_number, finite_bars, power


def _pair(
    first: Any, second: Any, lengths_a: Lengths | None, lengths_b: Lengths | None
) -> tuple[Tensor, Tensor]:
    """Deaths of two barcodes, zero-padded to one size, broadcast, descending."""
    a = finite_bars(first, lengths_a, "a").deaths
    b = finite_bars(second, lengths_b, "b").deaths
    if isinstance(first, np.ndarray) != isinstance(second, np.ndarray):
        raise TypeError(
            f"a and b: got {type(first).__name__} and {type(second).__name__}, expected two "
            "tensors or two NumPy arrays; convert one of them, for example with torch.from_numpy"
        )
    dtype = torch.promote_types(a.dtype, b.dtype)
    size = max(a.shape[-1], b.shape[-1])
    a = torch.nn.functional.pad(a.to(dtype), (0, size - a.shape[-1]))
    b = torch.nn.functional.pad(b.to(dtype), (0, size - b.shape[-1]))
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        raise ValueError(
            f"a and b: expected batches that broadcast, got {tuple(a.shape[:-1])} and "
            f"{tuple(b.shape[:-1])}"
        ) from error
    return a.sort(-1, descending=True).values, b.sort(-1, descending=True).values


def bottleneck_distance(
    a: Deaths,
    b: Deaths,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Deaths:
    """Bottleneck distance (...) between the finite parts of two H0 barcodes (..., M) and (..., M').

    The ground metric is L∞, as in GUDHI and Hera: ``|a - b|`` between two bars, a/2 from a bar to
    the diagonal. Closed form, O(M log M): since all births are 0, matching the k-th longest bar
    with the k-th longest is optimal, each pair at ``min(|a - b|, max(a, b) / 2)``. (Exchange
    argument: a bar above 2r must be matched within r, and then it can be with the longest of the
    other side.) The infinite bars match each other at no cost.

    Example:
        >>> bottleneck_distance(torch.tensor([1.0, 4.0]), torch.tensor([3.5])).item()
        0.5
    """
    x, y = _pair(a, b, lengths_a, lengths_b)
    if x.shape[-1] == 0:
        return as_given((x + y).sum(-1), a)
    return as_given(torch.minimum((x - y).abs(), torch.maximum(x, y) / 2).amax(-1), a)


def wasserstein_distance(
    a: Deaths,
    b: Deaths,
    p: float = 1.0,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Deaths:
    """p-Wasserstein distance (...), p >= 1, between the finite parts of two H0 barcodes.

    The ground metric is L∞, as in GUDHI and Hera (`internal_p=inf`): ``|a - b|`` between two bars,
    a/2 from a bar to the diagonal. Unlike for the bottleneck distance, matching in order of length
    is not optimal ({4} against {5, 3.9}: 4-3.9 and 5 alone beat 4-5 and 3.9 alone), but an optimal
    matching never crosses, since ``|a - b|**p`` is convex: dynamic programming over the sorted
    bars, O(M·M') in M vectorised steps, in float64. Differentiable through the optimal matching.

    Example:
        >>> wasserstein_distance(torch.tensor([1.0, 4.0]), torch.tensor([3.5])).item()
        1.0
    """
    if p == math.inf:
        raise ValueError("p: got infinity, expected a finite number; call bottleneck_distance")
    check_number(p, "p", 1, inclusive=True)
    x, y = _pair(a, b, lengths_a, lengths_b)
    dtype = x.dtype
    if x.device.type != "mps":
        x, y = x.double(), y.double()
    wanted = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    if not wanted and can_bypass_dispatcher(x) and can_bypass_dispatcher(y):
        # The same recurrence: on short rows it is calls that cost, and those of NumPy cost less.
        cost = torch.from_numpy(_matching_cost(x.detach().numpy(), y.detach().numpy(), p))
    else:
        cost = _matching_cost_in_torch(x, y, p)
    return as_given(_root(cost, p).to(dtype), a)


def _matching_cost_in_torch(a: Tensor, b: Tensor, p: float) -> Tensor:
    """Cost (...) of the optimal matching of bars (..., M) and (..., M'), both descending."""
    alone_a, alone_b = power(a / 2, p), power(b / 2, p)
    # cost[j]: the bars of a so far against the first j of b. A run of unmatched bars of b costs a
    # difference of prefix sums, so the scan over j is a running minimum.
    prefix = torch.nn.functional.pad(alone_b.cumsum(-1), (1, 0))
    cost = prefix
    for k in range(a.shape[-1]):
        skip = cost + alone_a[..., k : k + 1]
        match = cost[..., :-1] + power((a[..., k : k + 1] - b).abs(), p)
        cost = torch.cat([skip[..., :1], torch.minimum(skip[..., 1:], match)], dim=-1)
        cost = prefix + (cost - prefix).cummin(-1).values
    return cost[..., -1]


def _matching_cost(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """`_matching_cost_in_torch` in NumPy."""
    alone_a, alone_b = (a / 2) ** p, (b / 2) ** p
    prefix = np.zeros((*b.shape[:-1], b.shape[-1] + 1))
    np.cumsum(alone_b, axis=-1, out=prefix[..., 1:])
    cost = prefix.copy()
    for k in range(a.shape[-1]):
        match = np.abs(a[..., k : k + 1] - b)
        if p != 1:
            match **= p
        match += cost[..., :-1]
        cost += alone_a[..., k : k + 1]
        np.minimum(cost[..., 1:], match, out=cost[..., 1:])
        cost -= prefix
        np.minimum.accumulate(cost, axis=-1, out=cost)
        cost += prefix
    return np.asarray(cost[..., -1])


def _root(cost: Tensor, p: float) -> Tensor:
    """The p-th root of a matching's cost, with derivative 0 at 0."""
    # Differences of prefix sums can leave a rounding error of either sign where the distance is 0.
    total = cost.clamp(min=0)
    zero = total == 0
    root = total if p == 1 else torch.where(zero, torch.ones_like(total), total).pow(1 / p)
    return torch.where(zero, torch.zeros_like(total), root)
