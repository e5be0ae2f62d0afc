"""The CUDA kernels against what else a GPU could do with the same numbers, and against the goals.

Run as ``python -m tsloss_fast.benchmarks.gpu --output gpu.md``; also writes gpu.json and
kernels.md, the time of every kernel, beside it. With ``--rehearse`` the same code runs small clouds
on the CPU: its figures mean nothing, and it says so.

Measuring processes do the work, so that a kernel that fails or hangs costs its own rows alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsloss_fast import TSLoss, _core, h0_persistence

from .machine import machine
from .report import duration
from .suite import replace, target_file
from .worker import Process, assignment

_GROUPS = 9  # of calls; the median group counts
_PROFILED = 3  # calls
# A measuring process that says nothing for this long is taken to hang.
PATIENCE_SECONDS = 60.0

Call = Callable[[], object]


@dataclass
class Row:
    """Seconds or a count, perhaps as a ratio to a baseline, and what was hoped for."""

    work: str
    measured: float | None = None
    baseline: str = ""
    baseline_seconds: float | None = None
    goal: float | None = None  # the largest ratio, or without a baseline the most measured
    unit: str = "s"  # or what is counted
    reason: str = ""  # why something was not measured, or what was wrong
    failed: bool = False

    @property
    def value(self) -> float | None:
        """What the goal is about."""
        if self.measured is None or not self.baseline:
            return self.measured
        return None if self.baseline_seconds is None else self.measured / self.baseline_seconds

    @property
    def met(self) -> bool | None:
        return None if self.goal is None or self.value is None else self.value <= self.goal

    @property
    def missing(self) -> bool:
        """Whether it could not be measured, through nobody's fault."""
        return self.value is None and not self.failed


@dataclass
class Kernels:
    """What one call of some work runs on the device: names, times launched, microseconds."""

    work: str
    found: list[tuple[str, float, float]]

    @property
    def launches(self) -> float:
        return sum(calls for _, calls, _ in self.found)


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
            if not _waits([one.item]):
                raise RuntimeError("torch does not say when the host waits")
            return _waits(calls)
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


def _waits(calls: Sequence[Call]) -> int:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for call in calls:
            call()
    return sum("called a synchronizing CUDA operation" in str(w.message) for w in seen)


def _gudhi_seconds(points: Tensor) -> float | None:
    """One call on the host, of the distances and the barcode; None without GUDHI."""
    try:
        import gudhi
    except ImportError:
        return None
    array = points.double().cpu().numpy()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        tree = gudhi.RipsComplex(points=array).create_simplex_tree(max_dimension=1)
        tree.compute_persistence()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _tiny(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(TINY)
    yield from clock.wrong(TINY, x)
    forward, both, one = clock.call(TINY, x), clock.call(TINY_BOTH, x), x.new_zeros(1)
    yield clock.against(
        Row(f"{TINY.name}, graph replay", baseline="a graph of one tiny kernel", goal=2.5),
        forward,
        lambda: one.add_(1),
    )
    yield Row(f"{TINY.name}, one of 20 in a graph", clock.replayed(forward, 20))
    yield Row(f"{TINY.name}, eager", clock.eager(forward))
    yield Row(f"{TINY.name}, host until it is queued", clock.queued(forward))
    yield Row(f"{TINY_BOTH.name}, graph replay", clock.replayed(both))
    yield Row(f"{TINY_BOTH.name}, eager", clock.eager(both))
    yield Row(f"{TINY_BOTH.name}, host until it is queued", clock.queued(both))
    loss, points = TSLoss().to(clock.device), x.detach().requires_grad_()

    def step() -> object:
        return torch.autograd.grad(loss(points), points)

    yield Row(f"{TINY_BOTH.name} of TSLoss, eager", clock.eager(step))


def _prompt(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(PROMPT)
    yield from clock.wrong(PROMPT, x)
    both = clock.call(PROMPT_BOTH, x)
    in_graph = clock.replayed(both)
    yield Row(f"{PROMPT_BOTH.name}, graph replay", in_graph, goal=25e-6)
    yield Row(f"{PROMPT_BOTH.name}, eager", clock.eager(both), goal=80e-6)
    yield Row(f"{PROMPT.name}, graph replay", clock.replayed(clock.call(PROMPT, x)))
    host = _gudhi_seconds(x[0])
    yield Row(f"{PROMPT_BOTH.name}, graph replay", in_graph, "GUDHI on the host, forward", host,
              1 / 500, reason="" if host else "GUDHI is not installed")  # fmt: skip


def _many(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(MANY)
    yield from clock.wrong(MANY, x)
    single = clock.against(
        Row(MANY.name, baseline="x.sum(), one read", goal=1.3),
        clock.call(MANY, x),
        lambda: x.sum(),
    )
    yield single
    half = x.to(MANY_HALF.dtype)
    yield from clock.wrong(MANY_HALF, half)
    yield Row(MANY_HALF.name, clock.replayed(clock.call(MANY_HALF, half)), "the same, float32",
              single.measured, 0.65)  # fmt: skip


def _product(work: Work, dtype: torch.dtype, goal: float) -> Callable[[Clock], Iterator[Row]]:
    """Against the product of the points with themselves."""

    def rows(clock: Clock) -> Iterator[Row]:
        x = clock.cloud(work)
        if work is not VOCABULARY:  # the CPU takes long: `_vocabulary_edges`
            yield from clock.wrong(work, x)
        y = x.to(dtype)
        single = dtype is torch.float32
        name = "torch.mm" if len(x) == 1 else "torch.bmm"
        kind = "float32 without TF32" if single else "bfloat16"
        product = (lambda: torch.mm(y[0], y[0].mT)) if len(x) == 1 else lambda: torch.bmm(y, y.mT)
        row = Row(work.name, baseline=f"{name}(X, Xᵀ), {kind}", goal=goal)
        yield clock.against(row, clock.call(work, x), product)

    return rows


def _synchronisations(clock: Clock) -> Iterator[Row]:
    works = (TINY_BOTH, PROMPT_BOTH, MANY_HALF, TOKENS, LARGE)
    count = clock.synchronisations([clock.call(work) for work in works])
    shapes = ", ".join(str(work.shape) for work in works)
    yield Row(f"host synchronisations of {shapes}", count, goal=0, unit="waits")


def _vocabulary_edges(clock: Clock) -> Iterator[Row]:
    found = list(clock.wrong(VOCABULARY, clock.cloud(VOCABULARY)))
    yield from found
    if not found:
        yield Row(f"{VOCABULARY.name}, clouds with other edges than the CPU core's", 0, goal=0,
                  unit="clouds")  # fmt: skip


def _kernels_of(work: Work) -> Callable[[Clock], Iterator[Row | Kernels]]:
    def found(clock: Clock) -> Iterator[Row | Kernels]:
        kernels = clock.kernels(work)
        yield kernels
        if work in (TINY, TINY_BOTH):
            label = f"{work.name}, kernels, copies and fills"
            yield Row(label, kernels.launches, unit="launches")

    return found


Part = Callable[[Clock], Iterator[Any]]
TABLE: dict[str, Part] = {
    TINY.name: _tiny,
    PROMPT.name: _prompt,
    MANY.name: _many,
    TOKENS.name: _product(TOKENS, torch.float32, 1.0),
    LARGE.name: _product(LARGE, torch.float32, 0.4),
    "host synchronisations": _synchronisations,
    VOCABULARY.name: _product(VOCABULARY, torch.bfloat16, 2.0),
}
PROFILE: dict[str, Part] = {f"kernels of {work.name}": _kernels_of(work) for work in WORKS}
LAST: dict[str, Part] = {f"edges of {VOCABULARY.name}": _vocabulary_edges}
# A process each: a profiler may slow down what comes after it.
PARTS: tuple[dict[str, Part], ...] = (TABLE, PROFILE, LAST)


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
            with start(task, dict(os.environ), f"{__package__}.gpu", "worker") as process:
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


@dataclass
class Report:
    """All that was found, as files."""

    rehearsal: bool
    machine: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kernels: list[Kernels] = field(default_factory=list)

    def markdown(self) -> str:
        about = [f"- {name}: {value}" for name, value in self.machine.items()]
        return "\n".join([*heading(self.rehearsal), *map(line, self.rows), "", *about]) + "\n"

    def json(self) -> str:
        rows = [{**asdict(row), "value": row.value, "met": row.met} for row in self.rows]
        record = {
            "rehearsal": self.rehearsal,
            "machine": self.machine,
            "rows": rows,
            "kernels": [asdict(found) for found in self.kernels],
        }
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    def kernels_markdown(self) -> str:
        lines = ["# What one call runs on the device", ""]
        if self.rehearsal:
            lines = ["# What one call runs", "", _REHEARSAL, ""]
        for found in self.kernels:
            total = sum(microseconds for _, _, microseconds in found.found)
            lines += [f"## {found.work}: {found.launches:.3g} launches, {total:.1f} µs", ""]
            lines += ["| name | calls | µs | µs a call |", "|---|---:|---:|---:|"]
            lines += [
                f"| `{_short(name)}` | {calls:.3g} | {microseconds:.1f} | "
                f"{microseconds / max(calls, 1e-9):.1f} |"
                for name, calls, microseconds in found.found
            ]
            lines.append("")
        return "\n".join(lines)

    def write(self, target: Path) -> None:
        replace(target.with_name("kernels.md"), self.kernels_markdown().encode())
        replace(target.with_suffix(".json"), self.json().encode())
        replace(target, self.markdown().encode())

    @property
    def status(self) -> int:
        """1: something failed; 3: something could not be measured."""
        if any(row.failed for row in self.rows):
            return 1
        return 3 if any(row.missing for row in self.rows) else 0


def _short(name: str) -> str:
    """A kernel without its result and namespaces, and not too long for a table."""
    text = name.removeprefix("void ").replace("tsloss::cuda::", "").replace("tsloss::", "")
    text = text.replace("|", "/").replace("`", "'")
    return text if len(text) <= 100 else text[:99] + "…"


_REHEARSAL = "**A rehearsal on the CPU with small clouds: no figure here is a measurement.**"


def heading(rehearse: bool) -> list[str]:
    table = ["| work | measured | baseline | its time | ratio | goal | met |", "|---" * 7 + "|"]
    return [_REHEARSAL, "", *table] if rehearse else table


def _amount(number: float, unit: str) -> str:
    return duration(number) if unit == "s" else f"{number:.3g} {unit}"


def _verdict(row: Row) -> str:
    if row.failed:
        return f"FAILED: {row.reason}"
    if row.missing:
        return f"NOT RUN: {row.reason}"
    if row.goal is None:
        return ""
    assert row.value is not None
    if row.met:
        return "yes"
    return f"no, {row.value / row.goal:.2f} × the goal" if row.goal else "no"


def line(row: Row) -> str:
    """A row as Markdown."""
    goal = ""
    if row.goal is not None:
        goal = f"≤ {row.goal:.3g} ×" if row.baseline else f"≤ {_amount(row.goal, row.unit)}"
    cells = [
        row.work,
        "" if row.measured is None else _amount(row.measured, row.unit),
        row.baseline,
        "" if row.baseline_seconds is None else duration(row.baseline_seconds),
        f"{row.value:.3g}" if row.baseline and row.value is not None else "",
        goal,
        _verdict(row),
    ]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _seconds(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0: all measured; 1: something failed; 2: wrong usage; 3: something was not measured.
    A goal that is missed is no failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, help="a Markdown file; a .json is written beside it")
    parser.add_argument("--rehearse", action="store_true", help="small clouds on the CPU")
    parser.add_argument("--seconds", type=_seconds, default=300.0, help="for all of it (300)")
    arguments = parser.parse_args(argv)
    if not arguments.rehearse and not (torch.cuda.is_available() and _core.has_cuda):
        print(
            "gpu: needs a CUDA device and a build with CUDA kernels (TSLOSS_CUDA=ON); "
            "--rehearse runs without",
            file=sys.stderr,
        )
        return 2
    target = None
    if arguments.output is not None:
        try:
            target = target_file(arguments.output, "gpu.md")
        except OSError as problem:
            parser.error(str(problem))
    report = Report(arguments.rehearse)
    print("\n".join(heading(arguments.rehearse)), flush=True)
    for found in supervise(arguments.rehearse, arguments.seconds):
        if isinstance(found, Row):
            report.rows.append(found)
            print(line(found), flush=True)
        elif isinstance(found, Kernels):
            report.kernels.append(found)
        else:
            report.machine = found
        # Each time, so that whatever ends this process, what was found is there.
        if target is not None:
            report.write(target)
    met = [row.met for row in report.rows if row.goal is not None]
    print(f"{len(report.rows)} rows; {met.count(True)} of {len(met)} goals met", flush=True)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
