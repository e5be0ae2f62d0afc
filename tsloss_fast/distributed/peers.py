"""Messages between the processes of a group, whose errors name who did not answer.

Everything goes from one process to another, never through a collective of the backend: those, where
they fail, do not say because of whom. Who gives up leaves word for the others in the store of
torch.distributed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT_BYTES = 1024
_GRACE_SECONDS = 2.0
_STORE_SECONDS = 3.0
_GAVE_UP = "!"
_calls: Counter[str] = Counter()
_broken: dict[str, str] = {}  # groups in which messages may still be on their way


class PeerError(RuntimeError):
    """A process of the group died, did not answer in time, or could not take part.

    ``rank``: its number in the default group. No process has a result.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message, rank)  # what pickle makes it of again
        self.rank = rank

    def __str__(self) -> str:
        return str(self.args[0])


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
            self.fail(what, waits[0], error)
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
        own = torch.zeros((1, _TEXT_BYTES), dtype=torch.uint8)
        own[0, : len(data)] = torch.tensor(data, dtype=torch.uint8)
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

    def fail(self, what: str, peer: int, error: BaseException) -> NoReturn:
        culprit, said, sure = self._culprit(peer)
        rank, own = self.ranks[culprit], self.ranks[self.rank]
        via = "" if culprit == peer else f", as rank {self.ranks[peer]} found,"
        if said:
            why = f"it raised {said}"
        elif sure:
            why = "it died, or did not come within the timeout of the process group"
        else:
            why = (
                "it died, was late, or itself waited in vain; nor did the store of "
                "torch.distributed answer, which most often is in rank 0"
            )
        raise PeerError(
            f"{self.caller}: in the {what}, rank {rank}{via} did not answer rank {own}: {why}. No "
            f"rank has a result. ({' '.join(str(error).split())})",
            rank,
        ) from error

    def _word(self, rank: int) -> str:
        return f"{self._key}/{rank}"

    def _culprit(self, peer: int) -> tuple[int, str, bool]:
        """Follows who waited for whom, as far as those who gave up have left word.

        The last of them, what it said, and whether that is all there is to know: it is not if the
        store has gone, with the process that has it.
        """
        _from_store(lambda store: store.set(self._word(self.rank), str(peer)))
        seen = {self.rank}
        end = time.monotonic() + _GRACE_SECONDS
        while peer not in seen:
            answer = _from_store(functools.partial(_look, self._word(peer)))
            if answer is None:
                return peer, "", False
            if answer.startswith(_GAVE_UP):
                return peer, answer[len(_GAVE_UP) :], True
            if answer:
                seen.add(peer)
                peer = int(answer)
            elif time.monotonic() < end:
                time.sleep(0.05)
            else:
                break
        return peer, "", True

    def _linger(self) -> None:
        """Whoever has the store gives the others time to look before its process may end."""
        if dist.get_rank() == 0:
            time.sleep(_GRACE_SECONDS)


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

    def wait(self) -> None:
        """Until they have arrived; again, it does nothing."""
        works, self._works = self._works, []
        for peer, work in zip(self._waits, works, strict=False):
            try:
                work.wait()
            except RuntimeError as error:
                self._peers.fail(self._what, peer, error)
