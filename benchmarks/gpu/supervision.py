"""Measuring processes do the work: a kernel that fails or hangs costs its own rows alone."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from tsloss_fast import _core
from tsloss_fast.doctor import machine

from ..worker import Process, assignment
from .clock import Clock
from .parts import PARTS, TABLE
from .rows import Kernels, Row

# A measuring process that says nothing for this long is taken to hang.
PATIENCE_SECONDS = 60.0


def about() -> dict[str, str]:
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
    tell(machine=about())
    clock = Clock(task["rehearse"])
    parts = {name: part for group in PARTS for name, part in group.items()}
    for name in task["parts"]:
        for found in parts[name](clock):
            tell(**{"row" if isinstance(found, Row) else "kernels": asdict(found)})
        del found
        gc.collect()
        torch.cuda.empty_cache()
        tell(done=name)


def in_processes(
    names: Iterable[str],
    task: dict[str, Any],
    entry: tuple[str, str],
    end: float,
    start: Callable[..., Any] = Process,
    kind: Callable[[str], str] = str,
) -> Iterator[dict[str, Any]]:
    """Run the parts of a task in a process, and those that it does not finish in the next one.

    Yields the events of the processes but for {"done": part}, and {"lost": part, "ending": text}
    for each part that its process did not survive, or without a text if no time was left. A process
    that fails before its first event costs all parts. Parts of the kind of a lost one come last, as
    they are likely to fail too.
    """
    remaining = list(names)
    broken = set()
    while remaining:
        if time.monotonic() >= end:
            yield from ({"lost": name, "ending": ""} for name in remaining)
            return
        began = False
        with start({**task, "parts": remaining}, dict(os.environ), *entry) as process:
            for event in process.events(lambda: min(PATIENCE_SECONDS, end - time.monotonic())):
                began = True
                if "done" in event:
                    remaining.remove(event["done"])
                else:
                    yield event
            ending, said = process.ending(), process.errors()
        if not remaining:
            return
        print(said, file=sys.stderr, flush=True)
        lost, remaining = (remaining[:1], remaining[1:]) if began else (remaining, [])
        late = time.monotonic() >= end
        yield from ({"lost": name, "ending": "" if late else ending} for name in lost)
        broken.add(kind(lost[0]))
        remaining.sort(key=lambda name: kind(name) in broken)


def supervise(
    rehearse: bool,
    seconds: float,
    start: Callable[..., Any] = Process,
    wanted: Callable[[str], bool] = lambda name: True,
) -> Iterator[dict[str, str] | Row | Kernels]:
    """The machine, and what the measuring processes found, or why they did not."""
    end = time.monotonic() + seconds
    for group in PARTS:
        names, task = filter(wanted, group), {"rehearse": rehearse}
        for event in in_processes(names, task, (__name__, "worker"), end, start):
            if "machine" in event:
                yield event["machine"]
            elif "row" in event:
                yield Row(**event["row"])
            elif "kernels" in event:
                yield Kernels(**event["kernels"])
            elif event["ending"]:
                # A profiler that cannot run, or a slow host, is no fault of the kernels.
                reason = f"the measuring process {event['ending']}"
                yield Row(event["lost"], reason=reason, failed=group is TABLE)
            else:
                yield Row(event["lost"], reason="no time was left")
