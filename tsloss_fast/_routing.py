"""Lengths of critical edges, and the gradient routed through them, in plain differentiable torch.

Used where the native kernels do not reach: second derivatives, ``torch.func`` transforms and
forward mode. All functions take clouds ``(..., N, D)`` and edges ``(..., M, 2)`` whose padding is
-1, and cost O(M·D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._batch import may_look


def _ends(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The points at both ends of each edge, (..., M, D) each, zero for padding, and the validity
    mask."""
    valid = edges[..., :1] >= 0
    first, second = _rows(x, edges.clamp(min=0))
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(valid, first, zero), torch.where(valid, second, zero), valid


def _rows(x: Tensor, edges: Tensor) -> list[Tensor]:
    """The points at the first and at the second end of each edge, none of which is padding."""
    *batch, n, d = x.shape
    if not batch:
        return [x.index_select(0, end) for end in edges.unbind(-1)]
    # Numbers among the points of all clouds.
    first = torch.arange(math.prod(batch), device=x.device) * n
    edges = edges + first.reshape(*batch, 1, 1)
    rows, shape = x.flatten(0, -2), (*edges.shape[:-1], d)
    return [rows.index_select(0, end.flatten()).reshape(shape) for end in edges.unbind(-1)]


def _nonzero(x: Tensor) -> Tensor:
    """x with 1 in place of 0: a divisor that gives 0/1 where the limit is taken to be 0."""
    return torch.where(x == 0, torch.ones_like(x), x)


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last dimension (kept), with derivative 0 at 0 and in range at any
    scale."""
    if x.shape[-1] == 0:
        return x.sum(-1, keepdim=True)
    if x.is_cpu and x.numel() and may_look(x):
        # Most lengths are in a range where neither squares nor derivatives leave that of the type,
        # and the same bits come without the factors below.
        norm = x.square().sum(-1, keepdim=True).sqrt()
        shortest, longest = (end.item() for end in norm.detach().aminmax())
        numbers = torch.finfo(x.dtype)
        if shortest > numbers.tiny ** (1 / 6) and longest < numbers.max ** (1 / 6):
            return norm
    # A power of two, so that scaling is exact: equal lengths stay equal.
    largest = _nonzero(x.detach().abs().amax(-1, keepdim=True))
    scale = largest / (2 * torch.frexp(largest).mantissa)
    square = (x / scale).square().sum(-1, keepdim=True)
    return torch.where(square > 0, _nonzero(square).sqrt(), torch.zeros_like(square)) * scale


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = _norm(x)
    return x / _nonzero(norm), norm


def edge_lengths(x: Tensor, edges: Tensor, metric: str, padded: bool = True) -> Tensor:
    """Differentiable lengths (..., M) of the edges under the metric; 0 for padding.

    `padded`: whether there may be any, which takes time.
    """
    first, second = _ends(x, edges)[:2] if padded else _rows(x, edges)
    if metric == "cosine":
        first, second = _unit(first)[0], _unit(second)[0]
        return (first - second).square().sum(-1) / 2
    difference = first - second
    if metric == "euclidean":
        return _norm(difference).squeeze(-1)
    if metric == "sqeuclidean":
        return difference.square().sum(-1)
    return difference.abs().sum(-1)


def edge_slopes(first: Tensor, second: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Derivatives (..., D) of the lengths of edges with respect to their ends (..., D)."""
    if metric == "cosine":
        u, norm_u = _unit(first)
        v, norm_v = _unit(second)
        gap = u - v
        death = gap.square().sum(-1, keepdim=True) / 2
        return (gap - death * u) / _nonzero(norm_u), (-gap - death * v) / _nonzero(norm_v)
    difference = first - second
    if metric == "euclidean":
        slope = difference / _nonzero(_norm(difference))
    elif metric == "sqeuclidean":
        slope = 2 * difference
    else:
        slope = difference.sign()
    return slope, -slope


def route_gradient(grad: Tensor, x: Tensor, edges: Tensor, metric: str) -> Tensor:
    """The gradient (..., N, D) of sum(grad * lengths), differentiable in grad (..., M) and x."""
    first, second, valid = _ends(x, edges)
    at_first, at_second = edge_slopes(first, second, metric)
    weight = torch.where(valid, grad.unsqueeze(-1), torch.zeros_like(grad).unsqueeze(-1))
    index, shape = edges.clamp(min=0), first.shape
    result = torch.zeros_like(x)
    result = result.scatter_add(-2, index[..., :1].expand(shape), weight * at_first)
    return result.scatter_add(-2, index[..., 1:].expand(shape), weight * at_second)


def route_to_matrix(grad: Tensor, edges: Tensor, points: int) -> Tensor:
    """Gradient (..., N, N) of matrices: half of grad (..., M) at (i, j), half at (j, i)."""
    valid = edges[..., 0] >= 0
    i, j = edges.clamp(min=0).unbind(-1)
    half = torch.where(valid, grad / 2, torch.zeros_like(grad))
    batch = edges.shape[:-2]
    flat = torch.zeros((*batch, points * points), dtype=grad.dtype, device=grad.device)
    index = torch.cat([i * points + j, j * points + i], dim=-1)
    routed = flat.scatter_add(-1, index, torch.cat([half, half], dim=-1))
    return routed.reshape(*batch, points, points)


def entries_of_edges(matrices: Tensor, edges: Tensor) -> Tensor:
    """Differentiable lengths (..., M) of edges in distance matrices (..., N, N).

    Each is the mean of the entries (i, j) and (j, i); 0 for padding.
    """
    i, j = edges.clamp(min=0).unbind(-1)
    points = matrices.shape[-1]
    flat = matrices.flatten(-2)
    mean = (flat.gather(-1, i * points + j) + flat.gather(-1, j * points + i)) / 2
    return torch.where(edges[..., 0] >= 0, mean, torch.zeros_like(mean))
