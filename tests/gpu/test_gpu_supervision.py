"""A measuring process that dies, hangs or comes too late costs its own part alone."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tsloss_fast.benchmarks.gpu import supervision
from tsloss_fast.benchmarks.gpu.parts import PARTS, PROFILE, TABLE
from tsloss_fast.benchmarks.gpu.rows import Kernels, Report, Row


class FakeProcess:
    """Goes through a script of events for the parts that it is asked for."""

    def __init__(self, script: Callable[[list[str]], Iterator[dict[str, Any]]], task: Any) -> None:
        self._script, self._parts = script, list(task["parts"])

    def events(self, patience: Callable[[], float]) -> Iterator[dict[str, Any]]:
        assert patience() > 0
        yield from self._script(self._parts)

    def ending(self) -> str:
        return "ended with status 1: boom"

    def errors(self) -> str:
        return "a traceback"

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def supervised(script: Callable[[list[str]], Iterator[dict[str, Any]]]) -> tuple[list[Any], int]:
    """What `supervise` yields but for machines, and the number of processes."""
    started = []

    def start(task: Any, environment: dict[str, str], module: str, entry: str) -> FakeProcess:
        assert callable(getattr(sys.modules[module], entry))
        started.append(task)
        return FakeProcess(script, task)

    found = list(supervision.supervise(True, 100.0, start))
    return [f for f in found if not isinstance(f, dict)], len(started)


def test_only_the_wanted_parts_are_measured() -> None:
    tasks = []

    def start(task: Any, *_: object) -> FakeProcess:
        tasks.append(list(task["parts"]))
        return FakeProcess(part_by_part(), task)

    wanted = {ALL_PARTS[2], ALL_PARTS[-1]}
    list(supervision.supervise(True, 100.0, start, wanted.__contains__))
    assert tasks == [[ALL_PARTS[2]], [ALL_PARTS[-1]]]


def test_parts_of_a_kind_that_broke_a_process_come_last() -> None:
    order = []

    def script(parts: list[str]) -> Iterator[dict[str, Any]]:
        yield {"began": True}
        for part in parts:
            order.append(part)
            if part == "a1":
                return
            yield {"done": part}

    found = supervision.in_processes(
        ["a1", "a2", "b1", "a3", "b2"], {}, ("m", "f"), time.monotonic() + 100,
        lambda task, *_: FakeProcess(script, task), kind=lambda name: name[0],
    )  # fmt: skip
    lost = [event for event in found if "lost" in event]
    assert lost == [{"lost": "a1", "ending": "ended with status 1: boom"}]
    assert order == ["a1", "b1", "b2", "a2", "a3"]


def part_by_part(
    dies_in: str = "", begins: bool = True
) -> Callable[[list[str]], Iterator[dict[str, Any]]]:
    def script(parts: list[str]) -> Iterator[dict[str, Any]]:
        if not begins:
            return
        yield {"machine": {"cores": "2"}}
        for part in parts:
            yield {"row": {"work": part, "measured": 1.0}}
            if part == dies_in:
                return
            yield {"kernels": {"work": part, "found": [["name", 1, 2.0]]}}
            yield {"done": part}

    return script


ALL_PARTS = [name for group in PARTS for name in group]


def test_every_part_is_measured_once_and_profiled_in_a_process_of_its_own() -> None:
    found, processes = supervised(part_by_part())
    assert [row.work for row in found if isinstance(row, Row)] == ALL_PARTS
    assert [f.work for f in found if isinstance(f, Kernels)] == ALL_PARTS
    assert processes == len(PARTS)
    assert not any(set(a) & set(b) for a, b in itertools.pairwise(PARTS))


@pytest.mark.parametrize("part", [ALL_PARTS[1], list(TABLE)[-1]])
def test_after_a_failure_another_process_does_the_rest(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, processes = supervised(part_by_part(dies_in=part))
    assert processes == len(PARTS) + (part != list(TABLE)[-1])
    lost = [row for row in found if isinstance(row, Row) and row.failed]
    assert [(row.work, row.reason) for row in lost] == [
        (part, "the measuring process ended with status 1: boom")
    ]
    assert {f.work for f in found if isinstance(f, Kernels)} == set(ALL_PARTS) - {part}
    assert "a traceback" in capsys.readouterr().err


def test_a_profiler_that_fails_is_no_failure_of_the_kernels() -> None:
    part = list(PROFILE)[2]
    found, _ = supervised(part_by_part(dies_in=part))
    lost = [row for row in found if isinstance(row, Row) and row.measured is None]
    assert [(row.work, row.failed, row.missing) for row in lost] == [(part, False, True)]
    assert Report(False, rows=[row for row in found if isinstance(row, Row)]).status == 3


def test_processes_that_never_begin_are_not_tried_for_every_part() -> None:
    found, processes = supervised(part_by_part(begins=False))
    assert processes == len(PARTS)
    assert [row.work for row in found] == ALL_PARTS
    assert [row.failed for row in found] == [name in TABLE for name in ALL_PARTS]


def test_what_the_end_of_the_time_cuts_off_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(supervision, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def script(parts: list[str]) -> Iterator[dict[str, Any]]:
        yield {"machine": {}}
        yield {"done": parts[0]}
        now[0] = 101.0

    found, processes = supervised(script)
    assert processes == 1
    assert [row.work for row in found] == ALL_PARTS[1:]
    assert all(row.missing and row.reason == "no time was left" for row in found)
