"""The measuring process, and the supervision of it.

Thread counts must be in the environment before libgomp, MKL and OpenBLAS load, so measurements run
in a process of their own. That also keeps a library that crashes, hangs or is killed for memory
from taking the run with it: its cell says so, and the rest is measured by a new process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import IO, Any

from tsloss_fast.doctor import machine

from .environment import pinned
from .measure import load_average, measure
from .ours import implementations
from .records import Measurement, Row, row_from
from .workloads import Workload, parse

# A process that says nothing for this long is taken to hang.
PATIENCE_SECONDS = 600.0


class WorkerError(RuntimeError):
    """The measuring process could not start; the message is its last line."""


def assignment() -> tuple[dict[str, Any], Callable[..., None]]:
    """In a measuring process: its task, and what tells the parent of an event."""
    # Libraries may print: only this descriptor speaks to the parent.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**event: Any) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    return json.loads(sys.argv[1]), tell


def main() -> None:
    """Measure what the task asks for."""
    task, tell = assignment()
    import torch

    torch.set_num_threads(task["threads"])
    tell(machine=machine())
    for name in task["workloads"]:
        workload = parse(name)

        def progress(label: str, name: str = name) -> None:
            tell(at=name, label=label)

        progress("")
        try:
            row = measure(
                workload,
                implementations(workload),
                seconds=task["seconds"],
                threads=task["threads"],
                limit=task["limit"],
                failures=task["failures"].get(name),
                progress=progress,
            )
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            row = failed_row(workload, reason.splitlines()[0])
        tell(row=asdict(row))


def failed_row(workload: Workload, reason: str) -> Row:
    """A row that shows that the whole workload could not be measured, and why."""
    cells = [
        Measurement(i.label, i.role, i.about, status="failed", reason=reason)
        for i in implementations(workload)
    ]
    return Row(workload.name, load_average(), cells)


def supervise(
    workloads: Sequence[Workload],
    *,
    seconds: float,
    threads: int,
    isa: str | None,
    limit: float,
    progress: Callable[[Workload, str], None],
) -> Iterator[dict[str, str] | Row]:
    """Yield the machine, then a row for each workload, even if the process dies.

    Workloads on the same number of threads share a process, so rows come in another order.
    """

    def count_of(workload: Workload) -> int:
        return workload.threads or threads

    for count, group in groupby(sorted(workloads, key=count_of), key=count_of):
        yield from _supervise(list(group), seconds, count, isa, limit, progress)


def _supervise(
    workloads: Sequence[Workload],
    seconds: float,
    threads: int,
    isa: str | None,
    limit: float,
    progress: Callable[[Workload, str], None],
) -> Iterator[dict[str, str] | Row]:
    remaining = {w.name: w for w in workloads}
    failures: dict[str, dict[str, str]] = {}
    while remaining:
        task = {
            "workloads": list(remaining),
            "seconds": seconds,
            "threads": threads,
            "limit": limit,
            "failures": failures,
        }
        at, label = "", ""
        with Process(task, {**os.environ, **pinned(threads, isa)}) as process:
            for event in process.events():
                if "machine" in event:
                    yield event["machine"]
                elif "row" in event:
                    row = row_from(event["row"])
                    del remaining[row.workload]
                    yield row
                else:
                    at, label = event["at"], event["label"]
                    progress(remaining[at], label)
            reason = process.ending()
        if not remaining:
            return
        if not at:
            raise WorkerError(f"the measuring process {reason}")
        if at in remaining and label and label not in failures.get(at, {}):
            failures.setdefault(at, {})[label] = f"its process {reason}"
        elif at in remaining:
            yield failed_row(remaining.pop(at), f"the measuring process {reason}")


class Process:
    """A measuring process, which calls `entry` of a module: its events, and how it ended."""

    def __init__(
        self,
        task: dict[str, Any],
        environment: dict[str, str],
        module: str = __name__,
        entry: str = "main",
    ) -> None:
        # The parent's path, not the working directory: a source tree must not hide the package.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {entry}; {entry}()"
        without_site = ["-S"] * sys.flags.no_site
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, *without_site, "-c", code, json.dumps(task)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._waited: float | None = None  # in vain
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def events(
        self, patience: Callable[[], float] = lambda: PATIENCE_SECONDS
    ) -> Iterator[dict[str, Any]]:
        """Until its end, or until it has said nothing for as many seconds as there is patience."""
        while True:
            seconds = max(patience(), 0.0)
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                self._waited = seconds
                self._process.kill()
                return
            if line is None:
                return
            yield json.loads(line)

    def ending(self) -> str:
        """How the process ended, as the end of a sentence."""
        code = self._process.wait()
        if self._waited is not None:
            return f"gave no answer for {self._waited:.0f} s"
        if code < 0:
            return f"was ended by signal {signal.Signals(-code).name}"
        last = self.errors().strip().splitlines()[-1:]
        return f"ended with status {code}" + "".join(f": {line}" for line in last)

    def errors(self) -> str:
        """All that it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()
