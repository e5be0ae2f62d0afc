"""Long random uses of the Python API: clouds, their barcodes, and what must not change either.

Whatever was done before (another thread count, instruction set or path, other clouds in the batch)
and however a cloud is passed (padded, in a row with others, as distances), it has one barcode, to
the last bit.
"""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)
from oracles import METRICS, assert_spanning_tree, bits

from tsloss_fast import (
    H0Persistence,
    TSLoss,
    _core,
    _ops_cpu,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
    reference,
)

seeds = st.integers(0, 2**32 - 1)

pytestmark = pytest.mark.usefixtures("core_defaults")


@dataclass
class Known:
    """A cloud and its barcode. `lattice`: small integers, whose differences are exact."""

    points: torch.Tensor
    metric: str
    lattice: bool
    h0: H0Persistence

    def is_that_of(self, deaths: torch.Tensor, edges: torch.Tensor) -> bool:
        return bits(deaths) == bits(self.h0.deaths) and torch.equal(edges, self.h0.edges)


def known(points: torch.Tensor, metric: str, lattice: bool) -> Known:
    return Known(points, metric, lattice, h0_persistence(points, metric))


def edge_set(edges: torch.Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, edges.tolist()))


class Barcodes(RuleBasedStateMachine):
    pool = Bundle("pool")

    @initialize()
    def start(self) -> None:
        _core.set_overrides()
        torch.set_num_threads(1)

    @rule(
        target=pool,
        seed=seeds,
        n=st.integers(1, 12),
        d=st.integers(1, 20),
        metric=st.sampled_from(METRICS),
        double=st.booleans(),
        lattice=st.booleans(),
    )
    def new_cloud(
        self, seed: int, n: int, d: int, metric: str, double: bool, lattice: bool
    ) -> Known:
        r = np.random.default_rng(seed)
        x = r.integers(-3, 4, (n, d)) if lattice else r.standard_normal((n, d))
        points = torch.from_numpy(x).to(torch.float64 if double else torch.float32)
        if metric == "cosine":
            points[:, 0] += 8  # no zero vector
        own = known(points, metric, lattice)
        assert_spanning_tree(own.h0.edges.numpy(), n)
        plain = reference.h0_persistence(points, metric)
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(own.h0.deaths, plain.deaths.to(points.dtype), **tolerance)
        return own

    # ---- what the result may not depend on ----

    @rule(threads=st.integers(1, 4))
    def take_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @rule(name=st.sampled_from(_core.supported_isas()))
    def take_instruction_set(self, name: str) -> None:
        _core.set_isa(name)

    @rule(path=st.integers(0, 4), coded=st.integers(-1, 1), wave=st.integers(-1, 3), seed=seeds)
    def take_path(self, path: int, coded: int, wave: int, seed: int) -> None:
        _core.set_overrides(path, wave_one_in=wave, coded=coded, seed=seed)

    @rule(own=pool)
    def again(self, own: Known) -> None:
        assert own.is_that_of(*h0_persistence(own.points, own.metric))
        assert own.is_that_of(
            *map(torch.from_numpy, h0_persistence(own.points.numpy(), own.metric))
        )

    @rule(own=pool, columns=st.booleans())
    def other_strides(self, own: Known, columns: bool) -> None:
        n, d = own.points.shape
        view = (
            own.points.t().contiguous().t() if columns else own.points.new_empty(n, 2 * d)[:, ::2]
        )
        view.copy_(own.points)
        assert own.is_that_of(*h0_persistence(view, own.metric))

    @rule(pair=st.lists(pool, min_size=1, max_size=4), room=st.integers(0, 3))
    def padded_batch(self, pair: list[Known], room: int) -> None:
        first = pair[0]
        rows, (_, d) = max(len(k.points) for k in pair) + room, first.points.shape
        same = [k for k in pair if k.points.shape[1] == d and k.points.dtype == first.points.dtype]
        batch = torch.full((len(same), rows, d), torch.nan, dtype=first.points.dtype)
        for row, k in zip(batch, same, strict=True):
            row[: len(k.points)] = k.points
        lengths = torch.tensor([len(k.points) for k in same])
        deaths, edges = h0_persistence(batch, first.metric, lengths)
        for b, k in enumerate(same):
            bars = len(k.points) - 1
            assert (deaths[b, bars:] == 0).all()
            assert (edges[b, bars:] == -1).all()
            if k.metric == first.metric:
                assert k.is_that_of(deaths[b, :bars], edges[b, :bars])

    @rule(pair=st.lists(pool, min_size=1, max_size=4))
    def in_a_row(self, pair: list[Known]) -> None:
        first = pair[0]
        same = [
            k
            for k in pair
            if (k.metric, k.points.shape[1], k.points.dtype)
            == (first.metric, first.points.shape[1], first.points.dtype)
        ]
        offsets = [0, *np.cumsum([len(k.points) for k in same]).tolist()]
        found = h0_persistence_varlen(
            torch.cat([k.points for k in same]), torch.tensor(offsets), first.metric
        )
        for k, begin, end in zip(same, found.offsets[:-1], found.offsets[1:], strict=True):
            assert k.is_that_of(found.deaths[begin:end], found.edges[begin:end])

    @rule(own=pool)
    def from_distances(self, own: Known) -> None:
        if not own.lattice or own.metric not in ("sqeuclidean", "manhattan"):
            return
        keys = _ops_cpu.pairwise_keys(own.points[None], own.metric)[0]
        assert own.is_that_of(*h0_persistence_from_distances(keys))

    @rule(own=pool, how=st.sampled_from([copy.deepcopy, copy.copy, "pickle", "save"]))
    def copies_of_the_result(self, own: Known, how: object) -> None:
        if how == "pickle":
            other = pickle.loads(pickle.dumps(own.h0))
        elif how == "save":
            file = io.BytesIO()
            torch.save(tuple(own.h0), file)
            file.seek(0)
            other = H0Persistence(*torch.load(file))
        else:
            other = how(own.h0)
        assert isinstance(other, H0Persistence)
        assert own.is_that_of(*other)

    @rule(own=pool)
    def gradient(self, own: Known) -> None:
        gradients = []
        before = torch.get_num_threads()
        for threads in (1, before):
            torch.set_num_threads(threads)
            leaf = own.points.clone().requires_grad_()
            h0_persistence(leaf, own.metric).deaths.sum().backward()
            gradients.append(leaf.grad)
        torch.set_num_threads(before)
        assert bits(gradients[0]) == bits(gradients[1])
        assert gradients[0].isfinite().all()
        if own.metric != "cosine":  # nothing changes where all points move together
            assert gradients[0].sum(0).abs().max() <= 1e-3

    # ---- other clouds, whose barcodes are known ----

    @rule(target=pool, own=pool, seed=seeds)
    def permuted(self, own: Known, seed: int) -> Known:
        order = np.random.default_rng(seed).permutation(len(own.points))
        other = known(own.points[torch.from_numpy(order)], own.metric, own.lattice)
        assert bits(other.h0.deaths) == bits(own.h0.deaths)
        return other

    @rule(target=pool, own=pool, exponent=st.integers(0, 8))
    def translated(self, own: Known, exponent: int) -> object:
        if not own.lattice or own.metric == "cosine" or own.points.abs().max() > 2**10:
            return multiple()
        other = known(own.points + 2.0**exponent, own.metric, True)
        assert own.is_that_of(*other.h0)
        return other

    @rule(own=pool, exponent=st.integers(-20, 20))
    def scaled(self, own: Known, exponent: int) -> None:
        power = {"sqeuclidean": 2 * exponent, "cosine": 0}.get(own.metric, exponent)
        other = h0_persistence(own.points * 2.0**exponent, own.metric)
        assert own.is_that_of(other.deaths * 2.0**-power, other.edges)

    @rule(target=pool, own=pool, index=st.integers(0, 11))
    def with_a_copy(self, own: Known, index: int) -> object:
        if len(own.points) > 16:
            return multiple()
        point = own.points[index % len(own.points)]
        first = int((own.points == point).all(1).nonzero()[0])
        other = known(torch.cat([own.points, point[None]]), own.metric, own.lattice)
        assert bits(other.h0.deaths) == bits(torch.cat([point.new_zeros(1), own.h0.deaths]))
        new = edge_set(other.h0.edges) - edge_set(own.h0.edges)
        # Under cosine another point of the same direction may come first.
        assert new == {(first, len(own.points))} or own.metric == "cosine"
        return other

    @rule(target=pool, own=pool, seed=seeds)
    def with_a_point(self, own: Known, seed: int) -> object:
        if len(own.points) > 16:
            return multiple()
        r = np.random.default_rng(seed)
        point = torch.from_numpy(r.integers(-3, 4, own.points.shape[1])).to(own.points.dtype)
        point[0] += 8 if own.metric == "cosine" else 0
        other = known(torch.cat([own.points, point[None]]), own.metric, own.lattice)
        # At every scale there is at most one component more.
        more, bars = other.h0.deaths.flip(0), own.h0.deaths.flip(0)
        assert (more[1:] <= bars).all()
        return other

    @rule(own=pool, compactness=st.booleans(), seed=seeds)
    def loss_after_a_restart(self, own: Known, compactness: bool, seed: int) -> None:
        if len(own.points) < 2 or own.h0.deaths[-1] == 0:
            return
        first = TSLoss(compactness=float(compactness), metric=own.metric)
        value = first(own.points)  # sets the reference of the compactness
        other = TSLoss(compactness=float(compactness), metric=own.metric)
        other.load_state_dict(copy.deepcopy(first.state_dict()))
        factor = 1 + np.random.default_rng(seed).integers(4)
        assert torch.equal(other(own.points), value)
        assert torch.equal(other(own.points * factor), first(own.points * factor))


TestBarcodes = Barcodes.TestCase
TestBarcodes.settings = settings(
    deadline=None, derandomize=True, max_examples=30, stateful_step_count=30
)
