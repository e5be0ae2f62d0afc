"""Samples are interleaved, and timing leaves things as they were."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
import torch
from made_results import cell_of
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks.implementation import Call, Implementation
from tsloss_fast.benchmarks.measure import interleave, measure, predicted
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.workloads import parse


def test_samples_of_different_implementations_are_interleaved() -> None:
    order: list[str] = []

    def call(label: str, seconds: float) -> tuple[Callable[[], None], float]:
        def run() -> None:
            order.append(label)
            time.sleep(seconds)

        return run, seconds

    runners = interleave({"short": call("short", 0.002), "long": call("long", 0.008)}, 0.05)
    last = {label: len(order) - order[::-1].index(label) for label in runners}
    started = order[4:]  # after the calibration
    middle = started[len(started) // 4 : -len(started) // 4]
    assert {"short", "long"} <= set(middle)
    assert min(last.values()) > len(order) // 2
    assert min(runners["long"].seconds) >= 0.008
    assert len(runners["short"].seconds) > len(runners["long"].seconds) >= 3


def test_a_very_slow_call_gets_one_sample_and_any_other_at_least_three() -> None:
    def run() -> None:
        time.sleep(0.02)

    assert len(interleave({"long": (run, 0.05)}, 0.015)["long"].seconds) == 3
    assert len(interleave({"slow": (run, 0.1)}, 0.015)["slow"].seconds) == 1


def test_timing_leaves_the_garbage_collector_and_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        measure(parse("threads-9x3"), IMPLEMENTATIONS["threads"], seconds=1e-4, threads=3)
        assert gc.isenabled()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def growing(
    power: float, monkeypatch: pytest.MonkeyPatch, then: float | None = None, scale: float = 1.0
) -> tuple[Implementation, list[int]]:
    """An implementation that seems to take scale · (N / 1000)**power seconds, above 5000 points by
    the power `then`, and the N it was given."""
    sizes: list[int] = []
    clock = [0.0]

    def prepare(points: torch.Tensor, threads: int) -> Call:
        def run() -> None:
            n = len(points)
            sizes.append(n)
            low, high = min(n, 5000) / 1000, max(n, 5000) / 5000
            clock[0] += scale * low**power * high ** (power if then is None else then)

        return Call(run)

    monkeypatch.setattr(measuring, "perf_counter", lambda: clock[0])
    # Two threads take twice the processor time.
    monkeypatch.setattr(measuring, "process_time", lambda: 2 * clock[0])
    return Implementation("growing", "", prepare), sizes


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
def test_the_time_of_a_call_is_predicted_from_parts_of_the_points(
    power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    implementation, sizes = growing(power, monkeypatch)
    points = torch.zeros(1, 1).expand(100_000, 1)
    assert predicted(implementation, points, 1) == pytest.approx(100**power, rel=1e-3)
    assert sorted(set(sizes)) == [390, 1562, 6250, 25_000]


def test_a_busy_machine_does_not_make_a_call_look_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    implementation, _ = growing(1.0, monkeypatch)
    used = measuring.process_time  # twice the time of the calls
    monkeypatch.setattr(measuring, "perf_counter", lambda: 10 * used())
    monkeypatch.setattr(measuring, "process_time", lambda: used() / 2)
    points = torch.zeros(1, 1).expand(100_000, 1)
    assert predicted(implementation, points, 1) == pytest.approx(100.0)


def test_what_is_hopeless_is_not_tried_on_more_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.zeros(1, 1).expand(1_000_000, 1)
    for power, scale, tried in ((2.0, 1.0, {976}), (1.0, 0.1, {976, 3906, 15_625})):
        implementation, sizes = growing(power, monkeypatch, scale=scale)
        assert predicted(implementation, points, 1, limit=16.0) > 16
        assert set(sizes) == tried


def test_a_method_that_changes_its_way_is_judged_by_the_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Quadratic up to 5000 points, then linear; and the other way round."""
    points = torch.zeros(1, 1).expand(1_000_000, 1)
    better, _ = growing(2.0, monkeypatch, then=1.0, scale=1e-3)
    assert predicted(better, points, 1, limit=16.0) == pytest.approx(5.0, rel=1e-2)
    worse, sizes = growing(1.0, monkeypatch, then=2.0, scale=1e-2)
    assert predicted(worse, points, 1, limit=16.0) > 16
    assert 250_000 not in sizes


def test_what_would_take_too_long_is_named_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_PREDICTED_POINTS", 60)
    monkeypatch.setattr(measuring, "predicted", lambda i, *_: 9.0 if i.role == "baseline" else 1.0)
    ours = IMPLEMENTATIONS["forward"][0]
    slow = Implementation("slow", "", ours.prepare)
    cell = cell_of(measure(parse("60x3"), [ours, slow], seconds=1e-4, limit=2.0), "slow")
    assert (cell.status, cell.seconds) == ("not run", [])
    assert cell.reason == "one call would take more than 2 s (--limit)"
    for workload, limit in (("60x3", 20.0), ("59x3", 2.0)):
        row = measure(parse(workload), [ours, slow], seconds=1e-4, limit=limit)
        assert {m.status for m in row.measurements} == {"measured"}


def test_a_loop_over_a_batch_is_timed_on_a_part_and_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PART", 2)
    given: list[int] = []

    def prepare(points: torch.Tensor, threads: int) -> Call:
        call = IMPLEMENTATIONS["forward"][0].prepare(points, threads)

        def run() -> object:
            given.append(len(points))
            time.sleep(0.003)
            return call.run()

        return Call(run, call.read)

    ours = IMPLEMENTATIONS["forward"][0]
    row = measure(parse("8x5x3"), [ours, Implementation("slow", "", prepare)], seconds=1e-4)
    cell = cell_of(row, "slow")
    assert set(given) == {2}
    assert cell.clouds == 2
    assert cell.difference == 0
    assert min(cell.seconds) >= 4 * 0.003  # 8 clouds at the price of 2
    assert row.ours.clouds is None
