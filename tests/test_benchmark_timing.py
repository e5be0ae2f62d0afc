"""Samples are interleaved, and timing leaves things as they were."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch
from tsloss_fast.benchmarks.measure import interleave, measure
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

    assert len(interleave({"long": (run, 0.1)}, 0.015)["long"].seconds) == 3
    assert len(interleave({"slow": (run, 0.2)}, 0.015)["slow"].seconds) == 1


def test_timing_leaves_the_garbage_collector_and_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        measure(parse("threads-9x3"), IMPLEMENTATIONS["threads"], seconds=1e-4, threads=3)
        assert gc.isenabled()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
