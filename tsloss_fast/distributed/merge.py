"""One forest of what every process found: Kruskal's algorithm, pairwise in a tree of processes."""

from __future__ import annotations

import torch

from .cloud import Edges
from .peers import Peers


def merge(peers: Peers, points: int, what: str, forest: Edges, found: Edges) -> Edges:
    """The minimum spanning forest of `forest`, which all have, and what each one found."""
    merged = Edges.join([forest, found]).forest(points)
    new = merged.without(forest, points)
    step = 1
    while step < peers.size:
        if peers.rank % (2 * step) == step:
            _send(peers, what, new, peers.rank - step)
            break
        if peers.rank + step < peers.size:
            other = _receive(peers, what, peers.rank + step)
            merged = Edges.join([merged, other]).forest(points)
            new = merged.without(forest, points)
        step *= 2
    # And back, down the same tree.
    if peers.rank > 0:
        new = _receive(peers, what, peers.rank - step)
    step //= 2
    while step > 0:
        if peers.rank + step < peers.size:
            _send(peers, what, new, peers.rank + step)
        step //= 2
    return Edges.join([forest, new]).forest(points)


def _send(peers: Peers, what: str, edges: Edges, peer: int) -> None:
    device = peers.device
    count = torch.tensor([len(edges)], device=device)
    parts = [count, edges.keys.to(device), edges.ends.to(device)]
    peers.exchange(what, [(peer, t) for t in parts])


def _receive(peers: Peers, what: str, peer: int) -> Edges:
    device = peers.device
    count = torch.empty(1, dtype=torch.int64, device=device)
    peers.exchange(what, [], [(peer, count)])
    keys = torch.empty(int(count), dtype=torch.float64, device=device)
    ends = torch.empty((int(count), 2), dtype=torch.int64, device=device)
    peers.exchange(what, [], [(peer, keys), (peer, ends)])
    return Edges(keys.cpu(), ends.cpu())
