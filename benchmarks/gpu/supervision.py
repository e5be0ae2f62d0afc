"""Measuring processes do the work: a kernel that fails or hangs costs its own rows alone."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from tsloss_fast import _core

from ..machine import machine
from ..worker import Process, assignment
from .clock import Clock
from .parts import PARTS, TABLE
from .rows import Kernels, Row

# A measuring process that says nothing for this long is taken to hang.
PATIENCE_SECONDS = 60.0


def _about() -> dict[str, str]:
    facts = {**machine(), "CUDA of torch": str(torch.version.cuda), "device": "none"}
    if _core.has_cuda:
        facts["kernels built for"] = _core.cuda_architectures
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        facts["device"] = (
            f"{about.name} (sm_{about.major}{about.minor}), {about.multi_processor_count} "
            f"multiprocessors, {about.total_memory >> 30} GiB"
        )
    return facts


def worker() -> None:
    """The measuring process."""
    task, tell = assignment()
    tell(machine=_about())
    clock = Clock(task["rehearse"])
    parts = {name: part for group in PARTS for name, part in group.items()}
    for name in task["parts"]:
        for found in parts[name](clock):
            tell(**{"row" if isinstance(found, Row) else "kernels": asdict(found)})
        del found
        gc.collect()
        torch.cuda.empty_cache()
        tell(done=name)


def supervise(
    rehearse: bool, seconds: float, start: Callable[..., Any] = Process
) -> Iterator[dict[str, str] | Row | Kernels]:
    """The machine, and what the measuring processes found, or why they did not."""
    end = time.monotonic() + seconds
    for group in PARTS:
        remaining = list(group)
        while remaining:
            if time.monotonic() >= end:
                yield from (Row(name, reason="no time was left") for name in remaining)
                break
            began = False
            task = {"parts": remaining, "rehearse": rehearse}
            with start(task, dict(os.environ), __name__, "worker") as process:
                for event in process.events(lambda: min(PATIENCE_SECONDS, end - time.monotonic())):
                    if "machine" in event:
                        began = True
                        yield event["machine"]
                    elif "row" in event:
                        yield Row(**event["row"])
                    elif "kernels" in event:
                        yield Kernels(**event["kernels"])
                    else:
                        remaining.remove(event["done"])
                reason = f"the measuring process {process.ending()}"
                said = process.errors()
            if not remaining:
                break
            print(said, file=sys.stderr, flush=True)
            lost = [remaining.pop(0)] if began else remaining
            late = time.monotonic() >= end
            for name in lost:
                # A profiler that cannot run, or a slow host, is no fault of the kernels.
                ours = group is TABLE and not late
                yield Row(name, reason="no time was left" if late else reason, failed=ours)
            if not began:
                break
