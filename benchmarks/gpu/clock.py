"""The clouds that are measured, and times on one device."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsloss_fast import h0_persistence

from .rows import Kernels, Row

_GROUPS = 9  # of calls; the median group counts
_PROFILED = 3  # calls

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """Clouds and what is done with them. A rehearsal takes small ones."""

    shape: tuple[int, int, int]
    small: tuple[int, int, int]
    note: str = ""
    dtype: torch.dtype = torch.float32
    backward: bool = False

    @property
    def name(self) -> str:
        return f"{self.shape}{self.note}"


_BOTH = " forward + backward"
TINY = Work((1, 20, 2048), (1, 20, 16))
TINY_BOTH = Work((1, 20, 2048), (1, 20, 16), _BOTH, backward=True)
PROMPT = Work((1, 100, 4096), (1, 20, 16))
PROMPT_BOTH = Work((1, 100, 4096), (1, 20, 16), _BOTH, backward=True)
MANY = Work((1024, 20, 2048), (4, 20, 16), " float32")
MANY_HALF = Work((1024, 20, 2048), (4, 20, 16), " bfloat16", torch.bfloat16)
TOKENS = Work((2048, 100, 128), (4, 20, 16))
LARGE = Work((1, 4096, 768), (1, 64, 16))
VOCABULARY = Work((1, 49152, 576), (1, 70, 16))
WORKS = (TINY, TINY_BOTH, PROMPT, PROMPT_BOTH, MANY, MANY_HALF, TOKENS, LARGE, VOCABULARY)


class Clock:
    """Times on one device."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = "cpu" if rehearse else "cuda"
        torch.backends.cuda.matmul.allow_tf32 = False
        if not rehearse:
            self._warm_up()

    def _warm_up(self) -> None:
        """An idle device takes a while to reach its frequency."""
        x = torch.randn(4096, 4096, device=self.device)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            torch.mm(x, x)
            self.wait()

    def wait(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()

    def cloud(self, work: Work) -> Tensor:
        shape = work.small if self.rehearse else work.shape
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(self.device, work.dtype)

    def call(self, work: Work, x: Tensor | None = None) -> Call:
        points = self.cloud(work) if x is None else x
        if not work.backward:
            return lambda: h0_persistence(points)
        points = points.detach().requires_grad_()
        given = torch.ones_like(h0_persistence(points).deaths)
        return lambda: torch.autograd.grad(h0_persistence(points).deaths, points, given)

    def _groups(self, call: Call, calls: int, groups: int) -> float:
        times = []
        for _ in range(groups):
            if self.rehearse:
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                times.append((time.perf_counter() - start) / calls)
                continue
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / calls)
        return statistics.median(times)

    def _repeated(self, call: Call, most: int) -> float:
        """The median of groups of calls that take about a second in all, or one long call."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        once = max(time.perf_counter() - start, 1e-7)
        if once > 1:
            return once
        calls = max(1, min(most, int(0.03 / once)))
        return self._groups(call, calls, max(3, min(_GROUPS, int(1.0 / (once * calls)))))

    def replayed(self, call: Call, times: int = 1) -> float:
        """Seconds of a call, of which a CUDA graph has so many."""

        def several() -> None:
            for _ in range(times):
                call()

        if self.rehearse:
            return self._groups(several, 1, 3) / times
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            several()
        graph.replay()
        return self._repeated(graph.replay, 200) / times

    def eager(self, call: Call) -> float:
        """Seconds of a call by a host that queues one after another."""
        for _ in range(3):
            call()
        return self._repeated(call, 2 if self.rehearse else 50)

    def queued(self, call: Call) -> float:
        """Seconds that the host takes to queue a call; few at a time, so that it never waits."""
        call()
        times = []
        for _ in range(3 if self.rehearse else 30):
            self.wait()
            start = time.perf_counter()
            for _ in range(20):
                call()
            times.append((time.perf_counter() - start) / 20)
        self.wait()
        return statistics.median(times)

    def against(self, row: Row, call: Call, baseline: Call) -> Row:
        """The row with the times of two graphs. A baseline that fails does not take ours along."""
        row.measured = self.replayed(call)
        try:
            row.baseline_seconds = self.replayed(baseline)
        except RuntimeError as problem:
            row.reason = f"the baseline failed: {str(problem).splitlines()[0]}"
        return row

    def wrong(self, work: Work, x: Tensor) -> Iterator[Row]:
        """A failed row if the edges are not those of the CPU core."""
        edges = h0_persistence(x).edges.cpu()
        bad = (edges != h0_persistence(x.cpu()).edges).flatten(1).any(1).sum().item()
        if bad:
            reason = f"WRONG: the edges of {bad} of {len(x)} clouds are not those of the CPU core"
            yield Row(f"{work.name}, edges", reason=reason, failed=True)

    def synchronisations(self, calls: Sequence[Call]) -> int:
        """How often the host waits for the device, as torch counts it."""
        for call in calls:
            call()
        if self.rehearse:
            return 0
        one = torch.zeros(1, device=self.device)
        self.wait()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            if not waits([one.item]):
                raise RuntimeError("torch does not say when the host waits")
            return waits(calls)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def kernels(self, work: Work) -> Kernels:
        """As torch's profiler sees them."""
        from torch.profiler import ProfilerActivity, profile

        call = self.call(work)
        call()
        self.wait()
        activity = ProfilerActivity.CPU if self.rehearse else ProfilerActivity.CUDA
        with profile(activities=[activity]) as seen:
            for _ in range(_PROFILED):
                call()
            self.wait()
        found = []
        for event in seen.key_averages():
            if self.rehearse:
                microseconds = event.self_cpu_time_total
            elif event.device_type == torch.autograd.DeviceType.CUDA:
                microseconds = event.self_device_time_total
            else:
                continue
            found.append((event.key, event.count / _PROFILED, microseconds / _PROFILED))
        if not found:
            raise RuntimeError("the profiler saw no kernel")
        return Kernels(work.name, sorted(found, key=lambda kernel: -kernel[2]))


def waits(calls: Sequence[Call]) -> int:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for call in calls:
            call()
    return sum("called a synchronizing CUDA operation" in str(w.message) for w in seen)
