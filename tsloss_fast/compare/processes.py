"""The processes that train for a scheduler: begun, asked to stop, and found dead."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tsloss_fast.compare.plan import Job
from tsloss_fast.compare.results import ResultsFile
from tsloss_fast.compare.worker import work

__all__ = ["Worker", "start_workers", "stop_workers", "worker_died"]


@dataclass
class Worker:
    process: Any
    connection: Connection
    job: Job | None = None


@contextmanager
def start_workers(
    processes: int, threads: int, device: str, checkpoint_every: int
) -> Iterator[dict[int, Worker]]:
    context = multiprocessing.get_context("spawn")
    workers: dict[int, Worker] = {}
    # Before torch is imported there: OpenMP reads these once, and idle threads must not spin.
    variables = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work,
                args=(theirs, threads, _device(device, index), checkpoint_every),
                name=f"tsloss compare {index}",
                daemon=True,
            )
            process.start()
            # Only the child may hold its end, or nobody would see that it is gone.
            theirs.close()
            workers[index] = Worker(process, ours)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        yield workers
    finally:
        for worker in workers.values():
            worker.connection.close()
        for worker in workers.values():
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def stop_workers(workers: dict[int, Worker], results: ResultsFile) -> list[str]:
    """Ask everybody to write its state, and wait for that; a second interrupt does not wait.
    The errors that came instead."""
    errors = []
    for worker in workers.values():
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(None)
    for worker in workers.values():
        with suppress(EOFError, ConnectionResetError):
            # Until it closes its end: what it sends meanwhile may be the end of its work.
            while True:
                kind, content = worker.connection.recv()
                if kind == "done":
                    results.append(content)
                elif kind == "error":
                    errors.append(content[0])
        worker.process.join()
    return errors


def worker_died(worker: Worker, results: ResultsFile) -> RuntimeError:
    worker.process.join(5)
    code = worker.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    doing = f"while it trained {worker.job.label}" if worker.job is not None else "while it waited"
    return RuntimeError(
        f"a process ended with {how} {doing}. What was finished is in {results.path}, and the same "
        "command goes on; if memory ran out, use fewer processes or a smaller cohort"
    )


def _device(device: str, index: int) -> str:
    if device != "cuda":
        return device
    import torch

    return f"cuda:{index % max(1, torch.cuda.device_count())}"
