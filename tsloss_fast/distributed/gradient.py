"""The gradient of the deaths, routed to the processes that own the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _routing
from .peers import Peers


@dataclass
class Owners:
    """Process r owns the points from starts[r] to starts[r + 1]."""

    starts: list[int]

    @property
    def sizes(self) -> list[int]:
        return [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]

    def range(self, rank: int) -> tuple[int, int]:
        return self.starts[rank], self.starts[rank + 1]


def route_gradient(
    grad: Tensor,
    points: Tensor,
    edges: Tensor,
    metric: str,
    owners: Owners,
    peers: Peers,
    block_bytes: int,
) -> Tensor:
    """The gradient (n, D) of sum(grad * deaths) at this process's points (n, D).

    grad (N-1,) and edges (N-1, 2) are the same on every process, so each knows which of its points
    the others need, and sends them; those of one process at a time, a block at a time.
    """
    # In double, as the kernels: differences of unit vectors would lose half their digits.
    result: Tensor = torch.zeros_like(points, dtype=torch.float64)
    grad = grad.double()
    first, end = owners.range(peers.rank)
    a, b = edges.T.contiguous()
    own_a, own_b = (a >= first) & (a < end), (b >= first) & (b < end)
    rows = max(block_bytes // (max(points.shape[1], 1) * 8), 1)

    inner = torch.nonzero(own_a & own_b).squeeze(1)
    for part in inner.split(rows):
        i, j = a[part] - first, b[part] - first
        at_i, at_j = _routing.edge_slopes(points[i].double(), points[j].double(), metric)
        result.index_add_(0, i, grad[part, None] * at_i)
        result.index_add_(0, j, grad[part, None] * at_j)

    for k in range(1, peers.size):
        to, source = (peers.rank + k) % peers.size, (peers.rank - k) % peers.size
        wanted = _ends_within(edges, owners.range(to), (first, end))
        coming = _ends_within(edges, (first, end), owners.range(source))
        sent, arriving = list(wanted.split(rows)), list(coming.split(rows))
        for step in range(max(len(sent), len(arriving))):
            what = f"exchange of the gradient (step {k} of {peers.size - 1})"
            messages: Any = ([], [])
            if step < len(sent) and len(sent[step]):
                outgoing = points[sent[step] - first].to(peers.device).contiguous()
                messages[0].append((to, outgoing))
            far = points.new_empty((0, points.shape[1]))
            ids = arriving[step] if step < len(arriving) else coming[:0]
            if len(ids):
                far = points.new_empty((len(ids), points.shape[1]), device=peers.device)
                messages[1].append((source, far))
            peers.exchange(what, *messages)
            far = far.to(points.device)
            for near_end, far_end in ((a, b), (b, a)):
                mine = (near_end >= first) & (near_end < end)
                place = torch.searchsorted(ids, far_end).clamp(max=max(len(ids) - 1, 0))
                if len(ids) == 0:
                    continue
                part = torch.nonzero(mine & (ids[place] == far_end)).squeeze(1)
                for some in part.split(rows):
                    i = near_end[some] - first
                    y = far[place[some]].double()
                    at_i, _ = _routing.edge_slopes(points[i].double(), y, metric)
                    result.index_add_(0, i, grad[some, None] * at_i)
    return result.to(points.dtype)


def _ends_within(edges: Tensor, near: tuple[int, int], far: tuple[int, int]) -> Tensor:
    """The points in `far` of edges whose other end is in `near`, ascending."""
    found = []
    for x, y in (edges.unbind(1), edges.flip(1).unbind(1)):
        mask = (x >= near[0]) & (x < near[1]) & (y >= far[0]) & (y < far[1])
        found.append(y[mask])
    ids: Tensor = torch.cat(found).unique()
    return ids
