"""Processes of a group that wait for work: to start them for each test would take seconds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import free_port

TIMEOUT_SECONDS = 120


def _serve(rank: int, size: int, port: int, timeout: float, backend: str, pipe: Connection) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    while True:
        work = pipe.recv()
        if work is None:
            dist.destroy_process_group()
            return
        function, args = work
        try:
            pipe.send((function(rank, *args), None))
        except Exception as error:
            error.add_note(traceback.format_exc()) if hasattr(error, "add_note") else None
            pipe.send((None, error))


class Processes:
    """`size` processes; the group's timeout in seconds. Over NCCL, each has a device."""

    def __init__(self, size: int, timeout: float = TIMEOUT_SECONDS, backend: str = "gloo") -> None:
        self.size = size
        if backend == "gloo":  # forks of a process that has torch start at once
            context: Any = mp.get_context("forkserver")
            context.set_forkserver_preload(["torch", "torch.distributed", "tsloss_fast"])
        else:
            context = mp.get_context("spawn")
        port = free_port()
        self.pipes, self.workers = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_serve, args=(rank, size, port, timeout, backend, theirs), daemon=True
            )
            worker.start()
            self.pipes.append(ours)
            self.workers.append(worker)

    def start(self, function: Callable[..., Any], *args: Any, ranks: Any = None) -> None:
        for rank in range(self.size) if ranks is None else ranks:
            self.pipes[rank].send((function, args))

    def answer(self, rank: int, timeout: float = TIMEOUT_SECONDS) -> tuple[Any, Exception | None]:
        assert self.pipes[rank].poll(timeout), f"rank {rank} does not answer"
        return self.pipes[rank].recv()  # type: ignore[no-any-return]

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What function(rank, *args) returns on each rank; its error, if there is one."""
        self.start(function, *args)
        answers = [self.answer(rank) for rank in range(self.size)]
        for _, error in answers:
            if error is not None:
                raise error
        return [result for result, _ in answers]

    def errors(self, function: Callable[..., Any], *args: Any) -> list[Exception | None]:
        self.start(function, *args)
        return [self.answer(rank)[1] for rank in range(self.size)]

    def close(self) -> None:
        for pipe, worker in zip(self.pipes, self.workers, strict=True):
            if worker.is_alive():
                pipe.send(None)
        for worker in self.workers:
            worker.join(10)
            worker.kill()
