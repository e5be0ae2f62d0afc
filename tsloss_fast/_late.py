"""Numbers on a CUDA device, looked at when they have arrived: nobody waits for them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class LateCounts:
    """For each owner a count that is on its way to the host, in page-locked memory."""

    def __init__(self) -> None:
        self._underway: weakref.WeakKeyDictionary[Any, tuple[Any, Tensor]] = (
            weakref.WeakKeyDictionary()
        )

    def seen(self, owner: Any, count: Tensor) -> int:
        """The owner's last count that has arrived, else 0. `count` departs if none is underway,
        and not while a graph is captured, which would keep the copy."""
        if torch.cuda.is_current_stream_capturing():
            return 0
        arrived = 0
        if owner in self._underway:
            event, host = self._underway[owner]
            if not event.query():
                return 0
            arrived = int(host)
        else:
            host = torch.empty((), dtype=torch.int64, pin_memory=True)
        event = torch.cuda.Event()
        with torch.cuda.device(count.device):
            host.copy_(count, non_blocking=True)
            event.record()
        self._underway[owner] = event, host
        return arrived

    def forget(self, owner: Any) -> None:
        self._underway.pop(owner, None)
