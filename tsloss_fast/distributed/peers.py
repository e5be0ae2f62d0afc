"""Messages between the processes of a group, whose errors name the process that did not answer.

Everything goes from one process to another, never through a collective of the backend: a collective
that fails does not say because of which process. A process that gives up leaves a word for the
others in the store of torch.distributed: for which process it waited, and how long.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT_BYTES = 1024
# How long another process may take to leave its word, on a busy machine, before it counts as dead.
_GRACE_SECONDS = 5.0
_STORE_SECONDS = 3.0
# Waits that differ by less than this do not tell which process came last.
_CLEAR_SECONDS = 0.5
_GAVE_UP = "!"
_calls: Counter[str] = Counter()
_broken: dict[str, str] = {}  # groups in which messages may still be on their way


class PeerError(RuntimeError):
    """A process of the group died, came too late, did not answer, or could not take part.

    ``rank``: its number in the default group, or None where it cannot be told which process it
    was. No process has a result.
    """

    def __init__(self, message: str, rank: int | None) -> None:
        super().__init__(message, rank)  # what pickle makes it of again
        self.rank = rank

    def __str__(self) -> str:
        return str(self.args[0])


class _Wait(NamedTuple):
    """How long a process waited for another in vain, and whether its timeout ended that."""

    seconds: float
    timed_out: bool


class Peers:
    """The processes of a group, as seen by one of them.

    Every process makes the same calls in the same order. ``what`` names the step in errors.
    """

    def __init__(self, group: Any, caller: str) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                f"{caller}: torch.distributed is not initialised; start the program with torchrun "
                "and call torch.distributed.init_process_group() first"
            )
        self.group: Any = dist.group.WORLD if group is None else group
        rank = dist.get_rank(self.group)
        if rank < 0:
            raise ValueError(
                f"{caller}: this process (rank {dist.get_rank()}) is not in the group; call it in "
                "the processes of the group alone"
            )
        self._place(rank, dist.get_process_group_ranks(self.group), caller)
        # The same on every rank, whatever the points of each are.
        on_cpu = "cpu" in self._backends()
        self.device = torch.device("cpu" if on_cpu else "cuda")
        self._name: str = self.group.group_name  # type: ignore[union-attr]
        if self._name in _broken:
            raise RuntimeError(
                f"{caller}: an earlier call in this process group did not end "
                f"({_broken[self._name]}), and its messages may still be on their way; make a new "
                "group with torch.distributed.new_group() or start again"
            )
        _calls[self._name] += 1
        self._key = f"tsloss_fast/failed/{self._name}/{_calls[self._name]}"

    def _place(self, rank: int, ranks: list[int], caller: str) -> None:
        self.rank, self.ranks, self.size, self.caller = rank, ranks, len(ranks), caller
        self.device = torch.device("cpu")
        self._in_step = False

    def _backends(self) -> dict[str, str]:
        """The backend of messages by the kind of device."""
        config = str(dist.get_backend_config(self.group))
        return dict(part.split(":") for part in config.split(",") if ":" in part)

    def use(self, device: torch.device) -> None:
        """From now on messages go from this device, of the same kind on all, where they can."""
        backends = self._backends()
        # Gloo does not send from CUDA devices.
        if (device.type == "cpu" and "cpu" in backends) or backends.get(device.type) == "nccl":
            self.device = device

    @classmethod
    def alone(cls, caller: str) -> Peers:
        """One process, without torch.distributed."""
        peers = cls.__new__(cls)
        peers._place(0, [0], caller)
        return peers

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around all messages of a call. An error that not every rank has at the same place leaves
        messages on their way: the others are told, and the group is not used again."""
        try:
            yield
        except BaseException as error:
            if not self._in_step and self.size > 1:
                text = f"{type(error).__name__}: {error}"
                _broken[self._name] = text[:_TEXT_BYTES]
                if not isinstance(error, PeerError):
                    _from_store(lambda store: store.set(self._word(self.rank), _GAVE_UP + text))
                self._linger()
            raise

    def together(self, error: BaseException) -> NoReturn:
        """Raises an error that every rank raises at this place."""
        self._in_step = True
        raise error

    def post(
        self,
        what: str,
        send: Sequence[tuple[int, Tensor]] = (),
        receive: Sequence[tuple[int, Tensor]] = (),
    ) -> Exchange:
        """Starts to send contiguous tensors to, and to fill tensors from, ranks of the group.

        Messages between two processes arrive in order. Empty tensors are not sent.
        """
        began = time.monotonic()
        works = []
        waits = []
        for kind, messages in ((dist.irecv, receive), (dist.isend, send)):
            for peer, tensor in messages:
                if tensor.numel() == 0:
                    continue
                waits.append(peer)
                works.append(dist.P2POp(kind, tensor, self.ranks[peer], self.group))
        if not works:
            return Exchange(self, what, [], [])
        try:
            started = dist.batch_isend_irecv(works)
        except RuntimeError as error:
            self.fail(what, waits[0], began, error)
        if len(started) != len(works):  # some backends give one for all
            waits = waits[: len(started)]
        return Exchange(self, what, waits, started)

    def exchange(
        self,
        what: str,
        send: Sequence[tuple[int, Tensor]] = (),
        receive: Sequence[tuple[int, Tensor]] = (),
    ) -> None:
        self.post(what, send, receive).wait()

    def all_gather(self, what: str, own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """The tensors of all ranks, (sizes[r], ...) each, on the CPU or the device of messages."""
        own = own.contiguous()
        parts = [
            own if r == self.rank else own.new_empty((s, *own.shape[1:]))
            for r, s in enumerate(sizes)
        ]
        following, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        for k in range(self.size - 1):
            sent, received = (self.rank - k) % self.size, (self.rank - k - 1) % self.size
            self.exchange(what, [(following, parts[sent])], [(before, parts[received])])
        return parts

    def numbers(self, what: str, own: Sequence[float]) -> list[list[float]]:
        """A few numbers of each rank; exact up to 2**53."""
        tensor = torch.tensor([list(own)], dtype=torch.float64, device=self.device)
        return [part[0].tolist() for part in self.all_gather(what, tensor, [1] * self.size)]

    def agree(self, error: BaseException | None) -> None:
        """Raises on every rank if one of them cannot go on: there, the error itself."""
        text = "" if error is None else f"{type(error).__name__}: {error}"
        data = list(text.encode(errors="backslashreplace")[: _TEXT_BYTES - 1])
        own = torch.zeros((1, _TEXT_BYTES), dtype=torch.uint8, device="cpu")
        own[0, : len(data)] = torch.tensor(data, dtype=torch.uint8, device="cpu")
        parts = self.all_gather("check", own.to(self.device), [1] * self.size)
        if error is not None:
            self.together(error)
        for r, part in enumerate(parts):
            said = bytes(part[0].tolist()).rstrip(b"\0").decode(errors="replace")
            if said:
                self.together(
                    PeerError(
                        f"{self.caller}: rank {self.ranks[r]} could not take part: {said}",
                        self.ranks[r],
                    )
                )

    def fail(self, what: str, peer: int, began: float, error: BaseException) -> NoReturn:
        """Raise the PeerError for a message to or from `peer`, awaited since `began` in vain."""
        timed_out = "timed out" in str(error).lower()  # not refused or cut off
        culprit, why = self._culprit(peer, _Wait(time.monotonic() - began, timed_out))
        # The backend's own words come last, and are of use to the developers of the backend.
        raise PeerError(
            f"{self.caller}: in the {what}, {why}. No rank has a result. "
            f"({' '.join(str(error).split())})",
            None if culprit is None else self.ranks[culprit],
        ) from error

    def _word(self, rank: int) -> str:
        return f"{self._key}/{rank}"

    def _culprit(self, peer: int, own: _Wait) -> tuple[int | None, str]:
        """Return the process because of which this one waited in vain, or None, and the reason.

        The search follows which process waited for which, as far as those that gave up have left a
        word. Such a chain ends at a process that left none: it died, or is not there yet. Or the
        chain runs into a circle, if a late process has come meanwhile, found its messages refused
        and left a word as well: the late one waited least, and another for the whole timeout.
        """
        word = f"{peer} {own.seconds} {int(own.timed_out)}"
        _from_store(lambda store: store.set(self._word(self.rank), word))
        first, chain, waits = peer, [self.rank], [own]
        end = time.monotonic() + _GRACE_SECONDS
        while peer not in chain:
            answer = _from_store(functools.partial(_look, self._word(peer)))
            if answer is None:
                return None, (
                    f"{self._silence(first)}, and it cannot be told because of which rank: rank "
                    f"{self.ranks[peer]} died, was late, or itself waited in vain, or this rank "
                    "came after the others had given up; nor did the store of torch.distributed "
                    "answer, which most often is in rank 0"
                )
            if answer.startswith(_GAVE_UP):
                return peer, f"{self._silence(peer, first)}: it raised {answer[len(_GAVE_UP) :]}"
            if answer:
                chain.append(peer)
                awaited, seconds, timed_out = answer.split()
                peer = int(awaited)
                waits.append(_Wait(float(seconds), timed_out == "1"))
            elif time.monotonic() < end:
                time.sleep(0.05)
            else:
                return peer, (
                    f"{self._silence(peer, first)}: it died, or did not come within the timeout of "
                    "the process group"
                )
        start = chain.index(peer)
        late = _latest(waits[start:])
        if late is None:
            circle = ", ".join(str(self.ranks[rank]) for rank in sorted(chain[start:]))
            return None, (
                f"{self._silence(first)}, and it cannot be told because of which rank: ranks "
                f"{circle} waited for each other"
            )
        culprit = chain[start + late]
        if culprit == self.rank:
            return culprit, (
                f"rank {self.ranks[culprit]}, which is this process, came after the timeout of the "
                "process group: the others had given up waiting for it"
            )
        return culprit, (
            f"{self._silence(culprit, first)}: it came after the timeout of the process group"
        )

    def _silence(self, peer: int, first: int | None = None) -> str:
        """Which rank did not answer, and which one found that out."""
        via = "" if first is None or first == peer else f", as rank {self.ranks[first]} found,"
        return f"rank {self.ranks[peer]}{via} did not answer rank {self.ranks[self.rank]}"

    def _linger(self) -> None:
        """Leave the others time to look into the store before the process that has it may end."""
        if dist.get_rank() == 0:
            time.sleep(_GRACE_SECONDS)


def _latest(waits: Sequence[_Wait]) -> int | None:
    """The place of the process that came after another one's timeout, or None."""
    least, second, *_ = sorted(waits, key=lambda wait: wait.seconds)
    clear = second.seconds - least.seconds > _CLEAR_SECONDS
    return waits.index(least) if clear and any(wait.timed_out for wait in waits) else None


def _look(key: str, store: Any) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _from_store(ask: Callable[[Any], Any]) -> Any:
    """What ask(store) returns, or None: the process that has the store may have stopped, and some
    of its questions have no timeout. The store is private to torch."""
    answer: list[Any] = []

    def work() -> None:
        with contextlib.suppress(Exception):
            answer.append(ask(dist.distributed_c10d._get_default_store()))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_STORE_SECONDS)
    return answer[0] if answer else None


class Exchange:
    """Messages on their way."""

    def __init__(self, peers: Peers, what: str, waits: list[int], works: list[Any]) -> None:
        self._peers, self._what, self._waits, self._works = peers, what, waits, works
        self._began = time.monotonic()

    def wait(self) -> None:
        """Until they have arrived; again, it does nothing."""
        works, self._works = self._works, []
        for peer, work in zip(self._waits, works, strict=False):
            try:
                work.wait()
            except RuntimeError as error:
                self._peers.fail(self._what, peer, self._began, error)
