"""The gradient of the deaths, routed to the processes that own the points."""

from __future__ import annotations

from dataclasses import dataclass

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
    own_a, own_b = _within(a, (first, end)), _within(b, (first, end))
    rows = max(block_bytes // (max(points.shape[1], 1) * 8), 1)

    inner = torch.nonzero(own_a & own_b).squeeze(1)
    for part in inner.split(rows):
        i, j = a[part] - first, b[part] - first
        at_i, at_j = _routing.edge_slopes(points[i].double(), points[j].double(), metric)
        result.index_add_(0, i, grad[part, None] * at_i)
        result.index_add_(0, j, grad[part, None] * at_j)

    # Edges with one end here, as seen from it.
    at_a, at_b = own_a & ~own_b, own_b & ~own_a
    near = torch.cat([a[at_a], b[at_b]]) - first
    far = torch.cat([b[at_a], a[at_b]])
    weight = torch.cat([grad[at_a], grad[at_b]])
    for k in range(1, peers.size):
        to, source = (peers.rank + k) % peers.size, (peers.rank - k) % peers.size
        sent = near[_within(far, owners.range(to))].unique().split(rows)
        theirs = torch.nonzero(_within(far, owners.range(source))).squeeze(1)
        arriving = far[theirs].unique().split(rows)
        for step in range(max(len(sent), len(arriving))):
            outgoing, incoming = [], []
            if step < len(sent):
                outgoing.append((to, points[sent[step]].to(peers.device).contiguous()))
            if step < len(arriving):
                ids = arriving[step]
                block = points.new_empty((len(ids), points.shape[1]), device=peers.device)
                incoming.append((source, block))
            peers.exchange(
                f"exchange of the gradient (step {k} of {peers.size - 1})", outgoing, incoming
            )
            if not incoming or len(ids) == 0:
                continue
            block = block.to(points.device)
            here = theirs[(far[theirs] >= ids[0]) & (far[theirs] <= ids[-1])]
            for part in here.split(rows):
                y = block[torch.searchsorted(ids, far[part])].double()
                at_i, _ = _routing.edge_slopes(points[near[part]].double(), y, metric)
                result.index_add_(0, near[part], weight[part, None] * at_i)
    return result.to(points.dtype)


def _within(points: Tensor, range_of: tuple[int, int]) -> Tensor:
    return (points >= range_of[0]) & (points < range_of[1])
