"""A process that dies, or does not answer: the others fail in time, and say who and where."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import Processes

from tsloss_fast import distributed
from tsloss_fast.distributed import peers

TIMEOUT = 3.0  # of the group
# What the processes may take beyond the timeout: to find the culprit, on a busy machine.
SLACK = 20.0


_groups: list[Any] = []  # of a process


def until(rank: int, victim: int, step: str, how: str) -> Any:
    """A call in which the victim dies, stops or raises at the first message of a step."""
    post = peers.Peers.post

    def fatal(self: Any, what: str, send: Any = (), receive: Any = ()) -> Any:
        if rank == victim and what.startswith(step):
            if how == "dies":
                os._exit(1)
            if how == "raises":
                raise MemoryError("no more")
            os.kill(os.getpid(), signal.SIGSTOP)
        return post(self, what, send, receive)

    peers.Peers.post = fatal
    group = dist.new_group(timeout=timedelta(seconds=TIMEOUT))
    _groups.append(group)
    dist.barrier(group)  # who dies while others still connect is found out by torch alone
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(rank)).requires_grad_()
    start = time.monotonic()
    try:
        h0 = distributed.h0_persistence(x, group, block_bytes=48 * 64 * 4)
        h0.deaths.sum().backward()
    except distributed.PeerError as error:
        return str(error), error.rank, time.monotonic() - start
    finally:
        peers.Peers.post = post
    return None


STEPS = (
    "handshake",
    "exchange of the sample",
    "merge of the own pairs",
    "ring (block 2",
    "exchange of the gradient",
)
SIZE = 4


def answers(processes: Processes, victim: int, *args: Any) -> list[tuple[str, int, float]]:
    """What the others say, how they blame, and after how long."""
    processes.start(until, victim, *args)
    found = []
    for rank in range(SIZE):
        if rank != victim:
            result, error = processes.answer(rank, TIMEOUT * 3 + SLACK)
            assert error is None, error
            assert result is not None, f"rank {rank} has a result"
            found.append(result)
    return found


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes(SIZE)
    yield processes
    for worker in processes.workers:
        worker.kill()


@pytest.mark.parametrize(
    ("how", "step"), [*(("dies", s) for s in STEPS), *(("stops", s) for s in STEPS[::2])]
)
def test_the_others_name_the_rank_and_the_step(processes: Processes, step: str, how: str) -> None:
    victim = 2
    for message, blamed, seconds in answers(processes, victim, step, how):
        assert blamed == victim, message
        assert f"rank {victim}" in message
        assert "h0_persistence" in message
        assert seconds < TIMEOUT + SLACK


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_the_store_may_be_gone_with_its_process(processes: Processes, how: str) -> None:
    """Of the others only the neighbours can know; none hangs, and none says more than it knows."""
    victim = 0
    found = answers(processes, victim, "ring (block 2", how)
    for message, _, seconds in found:
        assert "it died, was late, or itself waited in vain" in message
        assert "which most often is in rank 0" in message
        assert seconds < TIMEOUT + SLACK
    assert victim in [blamed for _, blamed, _ in found]


def test_the_others_are_told_of_an_error(processes: Processes) -> None:
    for message, blamed, _ in answers(processes, 1, "ring (block 2", "raises"):
        assert blamed == 1
        assert "rank 1" in message
        assert "it raised MemoryError: no more" in message


def again(rank: int) -> None:
    distributed.h0_persistence(torch.zeros(3, 2), _groups[-1])


def test_a_group_with_messages_on_their_way_is_not_used_again(processes: Processes) -> None:
    answers(processes, 1, "ring (block 2", "raises")
    error = processes.answer(1)[1]
    assert isinstance(error, MemoryError)
    for refused in processes.errors(again):
        assert isinstance(refused, RuntimeError)
        assert "an earlier call in this process group did not end" in str(refused)
        assert "new_group" in str(refused)
