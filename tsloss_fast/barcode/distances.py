"""Distances between two barcodes.

Deaths `a` (..., M) and `b` (..., M'), `lengths_a` and `lengths_b` as in `tsloss_fast.barcode`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .._inputs import Lengths, can_bypass_dispatcher
from ._bars import finite_bars, power, require_deaths


def _pair(
    a: Tensor, b: Tensor, lengths_a: Lengths | None, lengths_b: Lengths | None
) -> tuple[Tensor, Tensor]:
    """Deaths of two barcodes, zero-padded to one size, broadcast, descending."""
    require_deaths(a, "a")
    require_deaths(b, "b")
    a, b = finite_bars(a, lengths_a)[0], finite_bars(b, lengths_b)[0]
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
    a: Tensor,
    b: Tensor,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Tensor:
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
    a, b = _pair(a, b, lengths_a, lengths_b)
    if a.shape[-1] == 0:
        return (a + b).sum(-1)
    return torch.minimum((a - b).abs(), torch.maximum(a, b) / 2).amax(-1)


def wasserstein_distance(
    a: Tensor,
    b: Tensor,
    p: float = 1.0,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Tensor:
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
    if not p >= 1:
        raise ValueError(f"p: expected a number >= 1, got {p}")
    a, b = _pair(a, b, lengths_a, lengths_b)
    dtype = a.dtype
    if a.device.type != "mps":
        a, b = a.double(), b.double()
    wanted = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if not wanted and can_bypass_dispatcher(a) and can_bypass_dispatcher(b):
        # The same recurrence: on short rows it is calls that cost, and those of NumPy cost less.
        cost = torch.from_numpy(_matching_cost(a.detach().numpy(), b.detach().numpy(), p))
        return _root(cost, p).to(dtype)
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
    return _root(cost[..., -1], p).to(dtype)


def _matching_cost(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """The loop of `wasserstein_distance` in NumPy: (..., M) and (..., M') descending -> (...)."""
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
