"""Processes of a group as threads of one process: for numbers of them that no machine here has.

Messages are handed over in memory and counted; each thread's own processor time is measured, so the
work of a rank is known however many of them share a core.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tsloss_fast.distributed.peers import Exchange, Peers

_TIMEOUT_SECONDS = 600.0


@dataclass
class Traffic:
    """What one rank sent, by step, and how long its processor worked."""

    bytes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


class _Arrival:
    def __init__(self, source: queue.Queue[Tensor], into: Tensor) -> None:
        self._source, self._into = source, into

    def wait(self) -> None:
        self._into.copy_(self._source.get(timeout=_TIMEOUT_SECONDS))


class SimulatedPeers(Peers):
    """One of `size` ranks; `queues[a, b]` holds what a sent to b."""

    def __init__(
        self, rank: int, size: int, queues: dict[tuple[int, int], queue.Queue[Tensor]]
    ) -> None:
        self._place(rank, list(range(size)), "simulation")
        self._queues = queues
        self.traffic = Traffic()

    def post(
        self,
        what: str,
        send: Sequence[tuple[int, Tensor]] = (),
        receive: Sequence[tuple[int, Tensor]] = (),
    ) -> Exchange:
        step = what.split(" (")[0]
        for peer, tensor in send:
            if tensor.numel():
                size = tensor.numel() * tensor.element_size()
                self.traffic.bytes[step] = self.traffic.bytes.get(step, 0) + size
                self._queues[self.rank, peer].put(tensor.clone())
        sources = [(peer, tensor) for peer, tensor in receive if tensor.numel()]
        works = [_Arrival(self._queues[peer, self.rank], tensor) for peer, tensor in sources]
        return Exchange(self, what, [peer for peer, _ in sources], works)


def run(size: int, work: Callable[[Peers], Any]) -> tuple[list[Any], list[Traffic]]:
    """What work(peers) returns on each of `size` ranks, and what it cost them."""
    queues: dict[tuple[int, int], queue.Queue[Tensor]] = {
        (a, b): queue.Queue() for a in range(size) for b in range(size)
    }
    peers = [SimulatedPeers(rank, size, queues) for rank in range(size)]
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def serve(rank: int) -> None:
        start = time.thread_time()
        try:
            results[rank] = work(peers[rank])
        except BaseException as error:
            errors.append(error)
        peers[rank].traffic.seconds = time.thread_time() - start

    threads = [threading.Thread(target=serve, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            if errors:
                raise errors[0]
    if errors:
        raise errors[0]
    return results, [p.traffic for p in peers]
