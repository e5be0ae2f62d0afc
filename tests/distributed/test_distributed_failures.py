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
    for message, blamed, seconds in found:
        assert blamed is None
        assert "it cannot be told because of which rank" in message
        assert "which most often is in rank 0" in message
        assert seconds < TIMEOUT + SLACK
    assert any(f"rank {victim} died, was late" in message for message, _, _ in found)


def test_the_others_are_told_of_an_error(processes: Processes) -> None:
    for message, blamed, _ in answers(processes, 1, "ring (block 2", "raises"):
        assert blamed == 1
        assert "rank 1" in message
        assert "it raised MemoryError: no more" in message


def group_with_timeout(rank: int, seconds: float) -> None:
    _groups.append(dist.new_group(timeout=timedelta(seconds=seconds)))
    dist.barrier(_groups[-1])


def late(rank: int, grace: float, until_given_up: int | None) -> tuple[str, int | None]:
    """A call; with `until_given_up` it begins when that rank has left word that it gave up."""
    group = _groups[-1]
    if until_given_up is not None:
        call = peers._calls[group.group_name] + 1
        store = dist.distributed_c10d._get_default_store()
        store.wait([f"tsloss_fast/failed/{group.group_name}/{call}/{until_given_up}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "_GRACE_SECONDS", grace)
        patch.setattr(peers, "_CLEAR_SECONDS", 0.0)  # on a busy machine
        patch.setattr(peers.Peers, "_linger", lambda self: None)  # its process stays
        with pytest.raises(distributed.PeerError) as caught:
            distributed.h0_persistence(torch.zeros(3, 2), group)
    return str(caught.value), caught.value.rank


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("when", ["while the other looks for it", "when the other has raised"])
def test_a_rank_that_comes_after_the_timeout_is_named(
    pair: Processes, victim: int, when: str
) -> None:
    other = 1 - victim
    pair.run(group_with_timeout, 1.5)
    if when == "when the other has raised":
        pair.start(late, 0.1, None, ranks=[other])
        answer = pair.answer(other)
        pair.start(late, 0.1, None, ranks=[victim])
    else:
        pair.start(late, 20.0, None, ranks=[other])
        pair.start(late, 20.0, other, ranks=[victim])
        answer = pair.answer(other)
    for (found, error), own in ((answer, False), (pair.answer(victim), True)):
        assert error is None, error
        message, blamed = found
        assert blamed == victim, message
        if own:
            assert f"rank {victim}, which is this process, came after the timeout" in message
        else:
            assert f"rank {victim} did not answer rank {other}: it" in message


@pytest.mark.parametrize(
    ("waits", "late"),
    [
        ({0: "1 29.5 0", 1: "2 30.0 1", 2: "0 0.1 0"}, 2),
        ({0: "1 30.0 1", 1: "2 0.1 0", 2: "1 30.0 1"}, 1),  # rank 0 is not part of the circle
        ({0: "1 30.0 1", 1: "0 30.1 1"}, None),
        ({0: "1 20.0 0", 1: "0 0.1 0"}, None),  # a connection that was lost
    ],
)
def test_in_a_circle_of_waiting_ranks_the_late_one_waited_least(
    waits: dict[int, str], late: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {f"call/{rank}": word for rank, word in waits.items()}

    class Store:
        def check(self, keys: list[str]) -> bool:
            return keys[0] in words

        def get(self, key: str) -> bytes:
            return words[key].encode()

        def set(self, key: str, word: str) -> None:
            pass

    monkeypatch.setattr(peers, "_from_store", lambda ask: ask(Store()))
    for rank, word in waits.items():
        seen = peers.Peers.alone("a call")
        seen._place(rank, list(range(len(waits))), "a call")
        seen._key = "call"
        peer, seconds, timed_out = word.split()
        error = OSError("Timed out waiting" if timed_out == "1" else "Connection closed by peer")
        with pytest.raises(distributed.PeerError) as caught:
            seen.fail("step", int(peer), time.monotonic() - float(seconds), error)
        assert caught.value.rank == late
        told = "came after the timeout" if late is not None else "it cannot be told"
        assert told in str(caught.value)


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
