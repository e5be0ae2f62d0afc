"""Persistence in a few lines of plain torch, on any device: the oracle of the tests.

Kruskal's algorithm on the matrix of all lengths of each cloud, in float64 on the CPU; the deaths,
and so the gradient, come from autograd. Arguments and results are those of the functions of the
same name in `tsloss_fast`, for tensors. O(N² (D + log N)) time and O(N² D) memory a cloud.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _routing
from ._batch import Lengths, check_lengths, type_of_deaths
from .functional import H0Persistence

__all__ = ["h0_persistence", "h0_persistence_from_distances"]


def h0_persistence(
    points: Tensor,
    metric: str = "euclidean",
    lengths: Lengths | None = None,
    check_finite: bool | None = None,
) -> H0Persistence:
    """`tsloss_fast.h0_persistence` in plain torch; `metric` and `lengths` as there.

    Problems are errors on the CPU by default and NaN deaths elsewhere, unless `check_finite` says
    otherwise. An overflow of lengths is not looked for.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
        >>> h0_persistence(points).deaths.tolist()
        [1.0, 5.0]
    """

    def keys(cloud: Tensor) -> Tensor:
        x = cloud.detach().cpu().double()
        if metric == "cosine" and x.shape[1] > 0:
            x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)  # NaN for the zero vector
        gaps = x.unsqueeze(0) - x.unsqueeze(1)
        gaps = gaps.abs() if metric == "manhattan" else gaps.square()
        whole = x.isfinite().all()
        return torch.where(whole, gaps.sum(-1), torch.nan)

    def cut(cloud: Tensor, size: int) -> Tensor:
        return cloud[:size]

    def deaths(cloud: Tensor, edges: Tensor) -> Tensor:
        return _routing.edge_lengths(cloud, edges, metric)

    return _persistence(points, lengths, check_finite, cut, keys, deaths)


def h0_persistence_from_distances(
    distances: Tensor, lengths: Lengths | None = None, check_finite: bool | None = None
) -> H0Persistence:
    """`tsloss_fast.h0_persistence_from_distances` in plain torch; `lengths` and `check_finite` as
    there, but the matrix is only looked at for NaN and infinity.

    Example:
        >>> distances = torch.tensor([[0.0, 2.0, 5.0], [2.0, 0.0, 7.0], [5.0, 7.0, 0.0]])
        >>> h0_persistence_from_distances(distances).deaths.tolist()
        [2.0, 5.0]
    """

    def keys(matrix: Tensor) -> Tensor:
        d = matrix.detach()
        d = ((d + d.mT) / 2).cpu().double()
        unconnected = (d == math.inf).fill_diagonal_(False)
        return torch.where((d.isfinite() | unconnected).all(), d, torch.nan)

    def cut(matrix: Tensor, size: int) -> Tensor:
        return matrix[:size, :size]

    return _persistence(
        distances, lengths, check_finite, cut, keys, _routing.entries_of_edges, infinite=False
    )


def _persistence(
    values: Tensor,
    lengths: Lengths | None,
    check_finite: bool | None,
    cut: Callable[[Tensor, int], Tensor],
    keys_of: Callable[[Tensor], Tensor],
    deaths_of: Callable[[Tensor, Tensor], Tensor],
    infinite: bool = True,
) -> H0Persistence:
    """Bars of each cloud of a batch, from the part of it that is `cut` out as valid, the `keys`
    (n, n) by which its edges are ordered (NaN for a bad cloud) and the `deaths` of edges.

    Where there is a check, a bad cloud is an error, and one with infinite keys unless they are
    allowed.
    """
    x = values.to(type_of_deaths(values.dtype))
    batch, n = x.shape[:-2], x.shape[-2]
    sizes = check_lengths(lengths, batch, x.device, limit=n)
    clouds = x.reshape(math.prod(batch), *x.shape[-2:])
    sizes = torch.full((len(clouds),), n, device="cpu") if sizes is None else sizes.reshape(-1)
    all_deaths = [clouds[:, :1].sum() * 0 + x.new_zeros(0)] if not len(clouds) else []
    all_edges = [torch.empty((0, 2), dtype=torch.int64, device=x.device)] * len(all_deaths)
    check = check_finite is True or (check_finite is None and x.device.type == "cpu")
    for number, (cloud, size) in enumerate(zip(clouds, sizes.tolist(), strict=True)):
        valid = cut(cloud, size)
        keys = keys_of(valid)
        bad = bool(keys.isnan().any())
        if check and (bad or (not infinite and bool(keys.isinf().any()))):
            raise ValueError(
                f"cloud {number} contains NaN, infinity, or a zero vector under 'cosine'"
            )
        edges = _spanning_tree(keys.nan_to_num(0.0) if bad else keys).to(x.device)
        deaths = deaths_of(valid, edges) if size else cloud.sum() * 0 + edges[:, 0]
        order = deaths.detach().nan_to_num(math.inf).argsort(stable=True)
        deaths = deaths * 0 + math.nan if bad else deaths[order]
        room = max(n - 1, 0) - len(edges)
        all_deaths.append(torch.nn.functional.pad(deaths, (0, room)))
        all_edges.append(torch.nn.functional.pad(edges[order], (0, 0, 0, room), value=-1))
    shape = (*batch, max(n - 1, 0))
    return H0Persistence(
        torch.cat(all_deaths).reshape(shape), torch.cat(all_edges).reshape(*shape, 2)
    )


def _spanning_tree(keys: Tensor) -> Tensor:
    """The edges (n-1, 2) of the minimum spanning tree of a matrix of keys (n, n), ascending by
    index: of equal keys those with the smaller indices."""
    n = len(keys)
    pairs = torch.triu_indices(n, n, 1, device="cpu")
    order = keys[pairs[0], pairs[1]].argsort(stable=True)
    component, tree = list(range(n)), []
    for i, j in pairs[:, order].T.tolist():
        a, b = component[i], component[j]
        if a != b:
            component = [a if c == b else c for c in component]
            tree.append((i, j))
        if len(tree) == n - 1:
            break
    return torch.tensor(sorted(tree), dtype=torch.int64, device="cpu").reshape(-1, 2)
