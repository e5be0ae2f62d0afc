"""The smooth surrogate of TSLoss, reconstructed from arXiv 2602.16500: its constants are not
public."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _routing
from ._inputs import HALF, Lengths, as_tensor, check_lengths


def _softmax_mean(distances: Tensor, logits: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Σ softmax(logits)·distances over `dims` where mask holds; 0 where it holds nowhere."""
    logits = torch.where(mask, logits, float("-inf"))
    highest = logits.detach().amax(dims, keepdim=True)
    weight = torch.where(mask, (logits - torch.where(highest.isfinite(), highest, 0)).exp(), 0)
    norm = weight.sum(dims)
    mean = (weight * torch.where(mask, distances, 0)).sum(dims)
    return mean / torch.where(norm == 0, 1, norm)


def _distances(clouds: Tensor) -> Tensor:
    """Distances (B, N, N) by direct difference, derivative 0 at 0, any number of times.

    Not torch.cdist: its Gram form loses near points, and it has no second derivative.
    """
    batch, n, _ = clouds.shape
    i, j = torch.triu_indices(n, n, 1, device=clouds.device).unbind(0)
    pairs = torch.stack([i, j], dim=-1).expand(batch, -1, -1)
    lengths = _routing.edge_lengths(clouds, pairs, "euclidean")
    # The number of each pair at both its entries; the diagonal points at a zero after the last.
    number = torch.full((n, n), i.numel(), device=clouds.device)
    number[i, j] = number[j, i] = torch.arange(i.numel(), device=clouds.device)
    return torch.nn.functional.pad(lengths, (0, 1))[:, number]


def surrogate_terms(
    points: Tensor,
    lengths: Lengths | None,
    alpha: float,
    include_self: bool,
    weights: dict[str, float],
) -> dict[str, Tensor]:
    """The terms of weight above 0, (B,) each, of points (..., N, D). O(N² D) time and memory."""
    x = as_tensor(points, "points")
    if x.dim() < 2:
        raise ValueError(f"points: expected shape (N, D) or (..., N, D), got {tuple(x.shape)}")
    sizes = check_lengths(lengths, x.shape[:-2], x.device, limit=x.shape[-2])
    if x.dtype in HALF:
        x = x.float()
    clouds = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    batch, n, _ = clouds.shape
    if batch == 0 or n < 2:
        zero = clouds.sum((1, 2)) * 0 if batch else clouds.sum().reshape(1)
        return {name: zero for name in ("connectivity", "redundancy") if weights[name]}
    if sizes is None:
        valid = torch.ones((batch, n), dtype=torch.bool, device=x.device)
    else:
        valid = torch.arange(n, device=x.device) < sizes.reshape(-1, 1)
        clouds = torch.where(valid.unsqueeze(-1), clouds, torch.zeros_like(clouds))
    distances = _distances(clouds)
    both = valid.unsqueeze(1) & valid.unsqueeze(2)
    pairs = both & torch.ones((n, n), dtype=torch.bool, device=x.device).triu(1)
    count = pairs.sum((1, 2)).clamp(min=1).to(x.dtype)
    mean = torch.where(pairs, distances, 0).sum((1, 2)) / count
    scaled = distances * (alpha / torch.where(mean == 0, 1, mean)).reshape(-1, 1, 1)

    terms = {}
    if weights["connectivity"]:
        others = both if include_self else both & ~torch.eye(n, dtype=torch.bool, device=x.device)
        nearest = _softmax_mean(distances, -scaled, others, (2,))
        size = valid.sum(1).clamp(min=1).to(x.dtype)
        centre = (torch.where(valid, nearest, 0).sum(1) / size).unsqueeze(1)
        terms["connectivity"] = torch.where(valid, (nearest - centre).square(), 0).sum(1) / size
    if weights["redundancy"]:
        low = _softmax_mean(distances, -scaled, pairs, (1, 2)).reshape(-1, 1, 1)
        high = _softmax_mean(distances, scaled, pairs, (1, 2)).reshape(-1, 1, 1)
        outside = (low - distances).relu() + (distances - high).relu()
        terms["redundancy"] = torch.where(pairs, outside, 0).sum((1, 2)) / count
    return terms
