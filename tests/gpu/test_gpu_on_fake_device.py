"""The code that only a device runs, with a torch.cuda that does everything at once."""

from __future__ import annotations

import contextlib
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_goals import GOALS
from tsloss_fast.benchmarks.gpu import clock as clocks
from tsloss_fast.benchmarks.gpu import prof
from tsloss_fast.benchmarks.gpu.clock import TINY, Clock, Work
from tsloss_fast.benchmarks.gpu.parts import PARTS, TABLE
from tsloss_fast.benchmarks.gpu.rows import Kernels, Row


class OnFakeDevice(Clock):
    def cloud(self, work: Work) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(work.small, generator=generator).to(work.dtype)


class FakeGraph:
    def replay(self) -> None:
        pass


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: FakeEvent) -> float:
        return 2.0  # ms


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeProfile:
    def __init__(self, activities: list[Any]) -> None:
        assert activities == [torch.profiler.ProfilerActivity.CUDA]

    def __enter__(self) -> FakeProfile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def key_averages(self) -> list[Any]:
        kinds = torch.autograd.DeviceType
        return [
            SimpleNamespace(key=name, count=6, device_type=kind, self_device_time_total=time)
            for name, kind, time in (
                ("cudaLaunchKernel", kinds.CPU, 99.0),
                ("short", kinds.CUDA, 3.0),
                ("long", kinds.CUDA, 30.0),
            )
        ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    for name, value in {
        "synchronize": lambda: None,
        "current_stream": FakeStream,
        "Stream": FakeStream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": lambda graph: contextlib.nullcontext(),
        "Event": FakeEvent,
        "set_sync_debug_mode": lambda mode: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.profiler, "profile", FakeProfile)
    monkeypatch.setattr(Clock, "_warm_up", lambda self: None)
    result = OnFakeDevice(False)
    result.device = "cpu"
    return result


def test_on_a_device_every_part_gives_its_rows(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([1, 0])
    monkeypatch.setattr(clocks, "waits", lambda calls: next(counts))
    found = [f for group in PARTS for part in group.values() for f in part(clock)]
    rows = [f for f in found if isinstance(f, Row)]
    assert not any(row.failed for row in rows)
    labels = {row.work for row in rows}
    assert {work.partition(" | ")[0] for work in GOALS} - labels == {"host synchronisations"}
    kernels = [f for f in found if isinstance(f, Kernels)]
    assert kernels[0].found == [("long", 2, 10.0), ("short", 2, 1.0)]
    (launches,) = (r.measured for r in rows if r.work == "(1, 20, 2048), kernels, copies and fills")
    assert launches == 4


def test_a_time_is_that_of_one_call(clock: Clock) -> None:
    calls = []
    seconds = clock._groups(lambda: calls.append(1), 4, 3)
    assert len(calls) == 12
    assert seconds == pytest.approx(2e-3 / 4)


def test_wrong_edges_are_found_before_they_are_timed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = clocks.h0_persistence
    calls = []

    def wrong(x: torch.Tensor) -> Any:
        calls.append(x)
        deaths, edges = right(x)
        return SimpleNamespace(deaths=deaths, edges=edges.flip(-1) if len(calls) == 1 else edges)

    monkeypatch.setattr(clocks, "h0_persistence", wrong)
    row = next(iter(TABLE["(2048, 100, 128)"](clock)))
    assert row.failed
    assert row.work == "(2048, 100, 128), edges"
    assert "WRONG: the edges of 4 of 4 clouds" in row.reason


def test_a_baseline_that_fails_leaves_our_time(clock: Clock) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory\nmore")

    row = clock.against(Row("work", baseline="other", goal=1.0), lambda: None, broken)
    assert row.measured is not None
    assert row.missing
    assert row.reason == "the baseline failed: out of memory"


def test_waiting_calls_are_counted_and_a_counter_that_sees_none_is_an_error(
    clock: Clock,
) -> None:
    def waits() -> None:
        warnings.warn("called a synchronizing CUDA operation (Triggered at x)", stacklevel=1)

    assert clocks.waits([waits, lambda: warnings.warn("other", stacklevel=1), waits]) == 2
    with pytest.raises(RuntimeError, match="does not say when the host waits"):
        clock.synchronisations([lambda: None])


def test_a_profile_without_kernels_is_an_error(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProfile, "key_averages", lambda self: [])
    with pytest.raises(RuntimeError, match="saw no kernel"):
        clock.kernels(TINY)


def test_a_profiler_sees_one_warmed_call_of_each_work(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []
    for module, name in (("profiler", "start"), ("profiler", "stop"), ("nvtx", "range_pop")):
        monkeypatch.setattr(getattr(torch.cuda, module), name, lambda name=name: seen.append(name))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(clock, "call", lambda work: lambda: seen.append(work))
    monkeypatch.setattr(prof, "Clock", lambda rehearse: clock)
    assert prof.main([]) == 0
    wanted = [
        event
        for name, work in prof.WORKS.items()
        for event in (work, "start", name, work, "range_pop", "stop")
    ]
    assert seen == wanted
    assert capsys.readouterr().out.splitlines() == [*prof.WORKS, "7 of 7 works called once"]


def test_every_work_with_a_goal_is_profiled_and_some_can_be_chosen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    works = {name.partition(", graph")[0].partition(", eager")[0] for name in GOALS}
    assert works - {"host synchronisations"} == set(prof.WORKS)
    assert prof.main(["--rehearse", "1x4096x768", "(1, 20, 2048)"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["(1, 20, 2048)", "(1, 4096, 768)"]
    assert prof.main(["--rehearse", "--seconds", "0", "1x4096x768"]) == 3
    assert "NOT RUN: (1, 4096, 768): no time was left" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        prof.main(["--rehearse", "2x2x2"])
    assert "'2x2x2' is none of (1, 20, 2048), " in capsys.readouterr().err
