"""Persistence in plain torch, on any device: the oracle of the tests.

Prim's algorithm on all clouds of a batch at once; the lengths, and so the gradient, come from
autograd. `metric`, `lengths` and `check_finite` are those of `tsloss_fast.h0_persistence`. A
ValueError is raised for what it refuses; edges have the same order, by which the tree is unique.
O(N² D) time in N sequential steps, O(N D) memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _routing
from ._batch import HALF, Lengths, check_lengths
from .functional import H0Persistence

__all__ = ["h0_persistence", "h0_persistence_from_distances"]


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _spanning_edges(row: Callable[[Tensor], Tensor], lengths: Tensor, n: int) -> Tensor:
    """Edges (B, N-1, 2) of the minimum spanning trees in the order of Prim, padding -1.

    `row(u)` gives the lengths (B, N) from vertex u (B,) of each cloud to all its vertices.
    """
    device = lengths.device
    batch = lengths.shape[0]
    inf = float("inf")
    index = torch.arange(n, device=device).expand(batch, n)
    outside = (index < lengths[:, None]) & (index > 0)
    u = torch.zeros(batch, dtype=torch.int64, device=device)
    best = torch.full((batch, n), inf, dtype=_wide(device), device=device)
    source = torch.full((batch, n), n, dtype=torch.int64, device=device)
    found_edges = []
    for _ in range(n - 1):
        d = row(u).to(best.dtype)
        closer = (d < best) | ((d == best) & (u[:, None] < source))
        best, source = torch.where(closer, d, best), torch.where(closer, u[:, None], source)
        code = torch.minimum(source, index) * n + torch.maximum(source, index)
        least = best.masked_fill(~outside, inf).amin(1, keepdim=True)
        code = code.masked_fill(~(outside & (best == least)), n * n)
        u = code.argmin(1)
        code = code.gather(1, u[:, None]).squeeze(1)
        found_edges.append(torch.where(outside.any(1), code, -1))
        outside = outside & (index != u[:, None])
    codes = torch.stack(found_edges, 1)
    edges = torch.stack([codes // n, codes % n], dim=-1)
    return torch.where(codes[..., None] < 0, -1, edges)


def _in_order(edges: Tensor, deaths: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Edges and deaths ordered by (death, i, j), the padding last."""
    padded = edges[..., 0] < 0
    order = (edges[..., 0] * n + edges[..., 1]).masked_fill(padded, n * n).argsort(dim=1)
    sizes = deaths.detach().masked_fill(padded, float("inf")).gather(1, order)
    order = order.gather(1, sizes.argsort(dim=1, stable=True))
    return edges.gather(1, order[..., None].expand(-1, -1, 2)), deaths.gather(1, order)


def _lengths_or_full(lengths: Tensor | None, batch: int, n: int, device: torch.device) -> Tensor:
    if lengths is None:
        return torch.full((batch,), n, dtype=torch.int64, device=device)
    return lengths.reshape(-1)


def _finish(
    x: Tensor,
    deaths: Tensor,
    edges: Tensor,
    bad: Tensor,
    check: bool | None,
    refused: Tensor | None = None,
) -> H0Persistence:
    """Mark the bad clouds (B,) with NaN and restore the shape of the batch; where there is a check,
    raise ValueError for the first cloud that is refused (by default the bad ones)."""
    refused = bad if refused is None else refused
    if check is not False and (check or x.device.type == "cpu") and bool(refused.any()):
        cloud = int(refused.nonzero()[0])
        raise ValueError(f"cloud {cloud} contains NaN, infinity, or a zero vector under 'cosine'")
    padded = edges[..., 0] < 0
    deaths = torch.where(bad[:, None] & ~padded, float("nan"), deaths)
    batch = x.shape[:-2]
    return H0Persistence(deaths.reshape(*batch, -1), edges.reshape(*batch, -1, 2))


def h0_persistence(
    points: Tensor,
    metric: str = "euclidean",
    lengths: Lengths | None = None,
    check_finite: bool | None = None,
) -> H0Persistence:
    """`tsloss_fast.h0_persistence` in plain torch: the same arguments, tensors only, any device.

    The tree is found in float64 (float32 on MPS). Problems are errors on the CPU by default and NaN
    deaths elsewhere, unless `check_finite` says otherwise.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
        >>> h0_persistence(points).deaths.tolist()
        [1.0, 5.0]
    """
    x = points.float() if points.dtype in HALF else points
    checked = check_lengths(lengths, x.shape[:-2], x.device)
    clouds = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    batch, n, dim = clouds.shape
    sizes = _lengths_or_full(checked, batch, n, x.device)
    padding = torch.arange(n, device=x.device)[None, :] >= sizes[:, None]
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    clouds = torch.where(padding[..., None], zero, clouds)
    bad = ~clouds.isfinite().flatten(1).all(1)
    if n < 2:
        empty = clouds.sum((1, 2))[:, None].expand(-1, 0)
        return _finish(
            x, empty, empty.new_empty((batch, 0, 2), dtype=torch.int64), bad, check_finite
        )
    with torch.no_grad():
        wide = torch.where(bad[:, None, None], zero, clouds).to(_wide(x.device))
        if metric == "cosine" and dim > 0:
            norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            bad = bad | ((norm.squeeze(-1) == 0) & ~padding).any(1)
            wide = wide / torch.where(norm == 0, 1, norm)

        def row(u: Tensor) -> Tensor:
            difference = wide - wide.gather(1, u[:, None, None].expand(-1, 1, dim))
            if metric == "manhattan":
                return difference.abs().sum(-1)
            return difference.square().sum(-1)

        edges = _spanning_edges(row, sizes, n)
    edges, deaths = _in_order(edges, _routing.edge_lengths(clouds, edges, metric), n)
    return _finish(x, deaths, edges, bad, check_finite)


def h0_persistence_from_distances(
    distances: Tensor, lengths: Lengths | None = None, check_finite: bool | None = None
) -> H0Persistence:
    """`tsloss_fast.h0_persistence_from_distances` in plain torch, without the checks of the
    matrix.

    Example:
        >>> distances = torch.tensor([[0.0, 2.0, 5.0], [2.0, 0.0, 7.0], [5.0, 7.0, 0.0]])
        >>> h0_persistence_from_distances(distances).deaths.tolist()
        [2.0, 5.0]
    """
    d = distances.float() if distances.dtype in HALF else distances
    n = d.shape[-1]
    checked = check_lengths(lengths, d.shape[:-2], d.device)
    matrices = d.reshape(math.prod(d.shape[:-2]), n, n)
    batch = matrices.shape[0]
    sizes = _lengths_or_full(checked, batch, n, d.device)
    padding = torch.arange(n, device=d.device)[None, :] >= sizes[:, None]
    outside = padding[:, :, None] | padding[:, None, :]
    matrices = torch.where(outside, torch.zeros((), dtype=d.dtype, device=d.device), matrices)
    matrices = (matrices + matrices.mT) / 2
    # An infinite distance is that of points which are not connected; deaths may be infinite then.
    infinite = (matrices == math.inf) & ~torch.eye(n, dtype=torch.bool, device=d.device)
    refused = ~matrices.isfinite().flatten(1).all(1)
    bad = ~(matrices.isfinite() | infinite).flatten(1).all(1)
    if n < 2:
        empty = matrices.sum((1, 2))[:, None].expand(-1, 0)
        return _finish(
            d, empty, empty.new_empty((batch, 0, 2), dtype=torch.int64), bad, check_finite
        )
    with torch.no_grad():
        usable = torch.where(bad[:, None, None], 0, matrices)
        rows = torch.arange(batch, device=d.device)
        edges = _spanning_edges(lambda u: usable[rows, u], sizes, n)
    index = edges.clamp(min=0)
    deaths = matrices[rows[:, None], index[..., 0], index[..., 1]]
    deaths = torch.where(edges[..., 0] < 0, torch.zeros_like(deaths), deaths)
    edges, deaths = _in_order(edges, deaths, n)
    return _finish(d, deaths, edges, bad, check_finite, refused)
