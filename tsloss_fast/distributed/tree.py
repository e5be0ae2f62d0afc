"""The minimum spanning tree of a cloud whose points are shared out over processes.

Exact, and that of one process to the last bit: what decides is the order of (exact key, smaller
index, larger index), under which the tree is unique. See csrc/README.md for the cycle property and
the order of the points by which it is asked of all pairs.

1. Sample. Some points of every process are gathered everywhere; each process looks for near ones of
   them for its own. The minimum spanning forest of what all find, merged, is some spanning tree F.
2. Own pairs. Pairs of points of one process that F does not rule out give a better F.
3. Ring. Blocks of points travel round the processes, half way, so that each pair of blocks meets
   once; each process keeps the edges that could replace one of F.
4. Kruskal's algorithm on what all kept, merged pairwise in a tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _core
from .._batch import METRICS
from .cloud import Block, Cloud, Edges, Shard, empty_block
from .filters import make_filter
from .merge import merge
from .peers import Exchange, Peers
from .watch import Begun, Watch

SAMPLE_POINTS = 4096  # at most
_SAMPLE_ONE_IN = 16
_LEAST_SAMPLE = 256
# A process takes a better forest of its own after these parts of a stage.
_IMPROVE_AT = (1 / 64, 1 / 16, 1 / 4)
# Slots of the filter.
_SAMPLE, _OWN, _OTHER, _VISITOR, _FIRST_KEPT = range(5)
_FEW = 256


@dataclass
class Tree:
    edges: Edges
    robust: bool  # keys are lengths


def spanning_tree(
    cloud: Cloud, shard: Shard, peers: Peers, device: torch.device, watch: Watch
) -> Tree:
    """Every process gets the same tree. Memory beyond the shard: its codes, three blocks, O(N)."""
    if cloud.points < 2:
        return Tree(Edges.none(), False)
    search = _Search(cloud, shard, peers, device, watch)
    tree = search.tree(robust=False)
    good = _core.keys_in_range(cloud.code, METRICS[cloud.metric], cloud.dim, tree.keys)
    # As in one process: an angle whose square is lost is 0.
    lengths = cloud.metric in ("euclidean", "sqeuclidean")
    lost = peers.numbers(
        "check of the squares", [float(lengths and (search.lost_digits or not good))]
    )
    if not any(number[0] for number in lost):
        return Tree(tree, False)
    # Rare: squares leave the range of the type.
    return Tree(search.tree(robust=True), True)


class _Search:
    def __init__(
        self, cloud: Cloud, shard: Shard, peers: Peers, device: torch.device, watch: Watch
    ) -> None:
        self.cloud, self.shard, self.peers = cloud, shard, peers
        self.device, self.watch = device, watch
        self.lost_digits = False
        self._loaded: set[int] = set()  # own blocks that stand in slots of their own

    def tree(self, robust: bool) -> Edges:
        self.filter = make_filter(self.cloud, robust, self.device)
        self._loaded.clear()
        forest = self._first_forest()
        self._set_forest(forest)
        forest = merge(
            self.peers, self.cloud.points, "merge of the own pairs", forest, self._own_pairs(forest)
        )
        if self.peers.size > 1:
            self._set_forest(forest)
            forest = merge(self.peers, self.cloud.points, "last merge", forest, self._ring(forest))
        self.lost_digits = self.lost_digits or self.filter.lost_digits
        return forest

    @property
    def _own_blocks(self) -> int:
        return len(self.shard.sizes)

    def _set_forest(self, forest: Edges) -> None:
        self.filter.set_forest(self.cloud.points, forest)
        self._loaded.clear()

    def _begin(self, stage: str, units: int) -> Begun:
        begun = self.watch.begin(stage, units)
        self.lost_digits = self.lost_digits or begun.lost
        return begun

    def _done(self, begun: Begun, units: int, forest: Edges) -> None:
        begun.units, begun.lost = units, self.lost_digits or self.filter.lost_digits
        self.watch.done(begun, forest)

    def _load_own(self, c: int, slot: int) -> int:
        """The slot of an own block: one that it keeps, if the points are in memory anyway."""
        if self.shard.resident:
            slot = _FIRST_KEPT + c
            if c in self._loaded:
                return slot
            self._loaded.add(c)
        self.filter.load(slot, self.shard.block(c))
        return slot

    # ---- 1 ----

    def _first_forest(self) -> Edges:
        sample = self._sample()
        self.filter.load(_SAMPLE, sample)
        begun = self._begin("sample", self._own_blocks)
        for c in range(begun.units, self._own_blocks):
            begun.found.append(self.filter.near(self._load_own(c, _OWN), _SAMPLE))
            self._done(begun, c + 1, Edges.none())
        found = Edges.join([self.shard.joined, *begun.found])
        forest = merge(self.peers, self.cloud.points, "merge of the sample", Edges.none(), found)
        return self._connected(forest, sample)

    def _sample(self) -> Block:
        """Points of all processes, the same on each."""
        counts = self.cloud.counts
        total, most = sum(counts), max(max(sizes, default=0) for sizes in self.cloud.sizes)
        wanted = min(sample_size(total), most)
        # At least one of every process, since each point is to be joined to one of the sample.
        sizes = [min(m, max(1, m * wanted // total)) for m in counts]
        own = self.shard.sample(sizes[self.peers.rank], self.peers.rank)
        rows = self._gather("exchange of the sample", own.rows, sizes)
        ids = self._gather("exchange of the sample", own.ids, sizes)
        return Block(rows, ids)

    def _gather(self, what: str, own: Tensor, sizes: list[int]) -> Tensor:
        parts = self.peers.all_gather(what, own.to(self.peers.device), sizes)
        return torch.cat(parts).to(own.device)

    def _connected(self, forest: Edges, sample: Block) -> Edges:
        """Joins the components, each of which has a point in the sample: by a minimum spanning tree
        of one point of each if they are few, else in a row."""
        if len(forest) == self.cloud.points - 1:
            return forest
        roots = components(forest, self.cloud.points)[sample.ids]
        order = torch.argsort(roots, stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = roots[order][1:] != roots[order][:-1]
        chosen = order[first]
        if len(chosen) <= _FEW:
            a, b = torch.combinations(torch.arange(len(chosen), device="cpu"), 2).unbind(1)
        else:
            a = torch.arange(len(chosen) - 1, device="cpu")
            b = a + 1
        bridges = self.filter.edges(sample, chosen[a], chosen[b])
        return Edges.join([forest, bridges]).forest(self.cloud.points)

    # ---- 2 ----

    def _own_pairs(self, forest: Edges) -> Edges:
        blocks = self._own_blocks
        units = blocks * (blocks + 1) // 2
        begun = self._begin("own pairs", units)
        at, found = begun.units, begun.found
        if found:
            self._improve(forest, found)
        unit = 0
        for b in range(blocks):
            if unit + b + 1 <= at:
                unit += b + 1
                continue
            own = self._load_own(b, _OWN)
            for a in range(b + 1):
                unit += 1
                if unit <= at:
                    continue
                other = self._load_own(a, _OTHER) if a < b else own
                found.append(self.filter.between(other, own))
                self._compact(found)
                self._done(begun, unit, forest)
                if self._improves(unit, units):
                    self._improve(forest, found)
                    own = self._load_own(b, _OWN)
        return Edges.join([Edges.none(), *found])

    @staticmethod
    def _improves(unit: int, units: int) -> bool:
        return any(unit == max(round(part * units), 1) for part in _IMPROVE_AT) and unit < units

    def _improve(self, forest: Edges, found: list[Edges]) -> None:
        """From now on this process works with the best forest that it knows. It need not be that of
        the others: whatever it rules out, its edges are among those that it found."""
        self._set_forest(Edges.join([forest, *found]).forest(self.cloud.points))

    def _compact(self, found: list[Edges]) -> None:
        if sum(map(len, found)) > 4 * self.cloud.points + 4096:
            found[:] = [Edges.join(found).forest(self.cloud.points)]

    # ---- 3 ----

    def _ring(self, forest: Edges) -> Edges:
        """At step k a process is visited by the blocks of the k-th before it."""
        peers, sizes = self.peers, self.cloud.sizes
        rounds, steps = max(map(len, sizes)), peers.size // 2
        begun = self._begin("ring", rounds)
        found = begun.found
        # Others may have been stopped a round earlier; what is found twice does no harm.
        first = min(int(n) for (n,) in peers.numbers("ring", [begun.units]))
        if found:
            self._improve(forest, found)
        for c in range(first, rounds):
            what = f"ring (block {c + 1} of {rounds}, step {{}} of {steps})"
            visitor, coming = self._pass_on(what.format(1), self._own_or_empty(c), 1, c)
            coming.wait()
            for k in range(1, steps + 1):
                here = visitor
                if k < steps:  # the next one is on its way while this one is met
                    visitor, coming = self._pass_on(what.format(k + 1), here, k + 1, c)
                self._meet(k, c, here, found)
                coming.wait()
            self._done(begun, c + 1, forest)
            if self._improves(c + 1, rounds):
                self._improve(forest, found)
        return Edges.join([Edges.none(), *found])

    def _own_or_empty(self, c: int) -> Block:
        return self.shard.block(c) if c < self._own_blocks else self._room(c, self.peers.rank)

    def _room(self, c: int, owner: int) -> Block:
        sizes = self.cloud.sizes[owner]
        count = sizes[c] if c < len(sizes) else 0
        return empty_block(count, self.cloud.dim, self.cloud.dtype)

    def _pass_on(self, what: str, visitor: Block, k: int, c: int) -> tuple[Block, Exchange]:
        """Sends a block to the next process, and receives block c of the k-th process before."""
        peers = self.peers
        following, before = (peers.rank + 1) % peers.size, (peers.rank - 1) % peers.size
        coming = self._room(c, (peers.rank - k) % peers.size).to(peers.device)
        visitor = visitor.to(peers.device)
        exchange = peers.post(
            what,
            [(following, visitor.rows.contiguous()), (following, visitor.ids)],
            [(before, coming.rows), (before, coming.ids)],
        )
        return coming, exchange

    def _meet(self, k: int, c: int, visitor: Block, found: list[Edges]) -> None:
        if len(visitor) == 0:
            return
        self.filter.load(_VISITOR, visitor)
        # At the last step of an even ring both processes are visited: each does half.
        shared = 2 * k == self.peers.size
        upper = self.peers.rank >= k
        for a in range(self._own_blocks):
            if shared and (a + c) % 2 != upper:
                continue
            found.append(self.filter.between(self._load_own(a, _OWN), _VISITOR))
            self._compact(found)


def sample_size(points: int) -> int:
    return min(max(points // _SAMPLE_ONE_IN, _LEAST_SAMPLE), SAMPLE_POINTS, points)


def components(forest: Edges, points: int) -> Tensor:
    """A label for each point, the same within a tree of the forest."""
    label = torch.arange(points, device="cpu")
    a, b = forest.ends.unbind(1)
    while True:
        least = torch.minimum(label[a], label[b])
        new = label.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new
