"""Timing discipline: compare first, then interleave the samples of all implementations.

Ratios of numbers taken at different moments mean little on a shared machine. So every
implementation of a workload is measured in one stretch of time, sample by sample: the next sample
goes to the one that has used the smallest part of its time. The minimum is the cost of the work;
the median tells how disturbed the machine was.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from .implementation import Array, Call, Implementation
from .records import Measurement, Row
from .workloads import Workload

# A sample lasts at least this long, so that the clock's resolution does not matter.
_SAMPLE_SECONDS = 2e-3
# Calls shorter than this are run once, untimed, before each sample: the caches then hold what they
# hold in a training loop, not what the previous implementation left there.
_WARM_SECONDS = 5e-3
_LEAST_SAMPLES = 3
# Above this many points the float64 check (N²/2 distances of 8 bytes) would take longer than the
# rest.
_CHECKED_POINTS = 4096


def exact_deaths(points: torch.Tensor) -> Array | None:
    """Deaths in float64 by direct differences and Prim's algorithm; None for very large clouds."""
    if points.shape[-2] > _CHECKED_POINTS:
        return None
    if points.ndim == 3:
        return np.stack([_prim(cloud) for cloud in points])
    return _prim(points)


def _prim(cloud: torch.Tensor) -> Array:
    n = cloud.shape[0]
    distances = np.zeros((n, n))
    above = np.triu_indices(n, 1)
    distances[above] = torch.pdist(cloud.double()).numpy()
    distances += distances.T
    nearest, current = np.full(n, np.inf), 0
    outside = np.ones(n, dtype=bool)
    deaths = np.empty(n - 1)
    for k in range(n - 1):
        outside[current] = False
        np.minimum(nearest, distances[current], out=nearest)
        current = int(np.where(outside, nearest, np.inf).argmin())
        deaths[k] = nearest[current]
    return np.sort(deaths)


def relative_difference(found: Array, expected: Array) -> tuple[float | None, str]:
    """``(largest |a - b| / max(|a|, |b|), "")``, or ``(None, why)`` if they cannot be compared."""
    if found.shape != expected.shape:
        return None, f"gave the shape {found.shape} instead of {expected.shape}"
    if not np.isfinite(found).all():
        return None, "gave NaN or infinity"
    scale = np.maximum(np.abs(found), np.abs(expected))
    # Both zero: equal. A bar of length 0 that became positive differs by 1.
    return float(np.max(np.abs(found - expected) / np.where(scale > 0, scale, 1), initial=0)), ""


def norm_difference(found: Array, expected: Array) -> tuple[float | None, str]:
    """``‖a - b‖ / ‖b‖`` for gradients, whose single entries may be near 0 by cancellation."""
    if found.shape != expected.shape:
        return None, f"gave a gradient of shape {found.shape} instead of {expected.shape}"
    if not np.isfinite(found).all():
        return None, "gave NaN or infinity in the gradient"
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / (norm or 1.0), ""


@dataclass
class _Runner:
    """A call with its share of the time."""

    run: Callable[[], Any]
    inner: int
    warm: bool
    least: int
    expected: float
    used: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def done(self, seconds: float) -> bool:
        return self.used >= seconds and len(self.seconds) >= self.least

    def sample(self) -> None:
        start = perf_counter()
        if self.warm:
            self.run()
        calls = range(self.inner)
        cpu, wall = process_time(), perf_counter()
        for _ in calls:
            self.run()
        end = perf_counter()
        wall, cpu = end - wall, process_time() - cpu
        self.used += end - start
        self.seconds.append(wall / self.inner)
        self.cpu_seconds.append(cpu / self.inner)


def interleave(
    calls: Mapping[str, tuple[Callable[[], Any], float]], seconds: float
) -> dict[str, _Runner]:
    """Time the calls side by side, about ``seconds`` each and at least three samples.

    Each call comes with the time of its first run. One that took more than ten times ``seconds``
    gets a single sample.
    """
    runners = {}
    for label, (run, once) in calls.items():
        if once < 0.1:  # the first run loads and allocates things: ask again
            once = min(_once(run)[1], _once(run)[1])
        inner = max(1, int(min(_SAMPLE_SECONDS, seconds) / once))
        least = 1 if once > 10 * seconds else _LEAST_SAMPLES
        expected = max(seconds, least * inner * once)
        runners[label] = _Runner(run, inner, once < _WARM_SECONDS, least, expected)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while pending := [r for r in runners.values() if not r.done(seconds)]:
            min(pending, key=lambda r: r.used / r.expected).sample()
    finally:
        if was_enabled:
            gc.enable()
    return runners


def _once(run: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = run()
    return result, max(perf_counter() - start, 1e-7)


def measure(
    workload: Workload,
    implementations: Sequence[Implementation],
    *,
    seconds: float = 0.5,
    threads: int = 1,
    limits: bool = True,
    failures: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda label: None,
) -> Row:
    """Compare the results of all implementations on one workload, then time them.

    Args:
        workload: what is computed.
        implementations: ours first.
        seconds: time for each implementation.
        threads: the thread count given to those that take one.
        limits: leave out implementations that are too slow for this many points.
        failures: label -> reason, for those known to end the process.
        progress: called with a label before each comparison, and with ``""`` before the timing.
    """
    load = load_average()
    points = workload.cloud()
    cells = [Measurement(i.label, i.role, i.about) for i in implementations]
    calls: dict[str, tuple[Callable[[], Any], float]] = {}
    ours: dict[str, Array] = {}
    exact = exact_deaths(points)
    for implementation, cell in zip(implementations, cells, strict=True):
        if obstacle := implementation.obstacle(workload, limits):
            cell.status, cell.reason = obstacle
            continue
        if failures and cell.label in failures:
            cell.status, cell.reason = "failed", failures[cell.label]
            continue
        progress(cell.label)
        try:
            call = implementation.prepare(points, threads)
            result, once = _once(call.run)
            found = read(call, result)
            del result
        except Exception as problem:  # whatever a library raises is its result, not the end of ours
            cell.status, cell.reason = "failed", _one_line(problem)
            continue
        if cell.role == "ours":
            ours = found
        compare(cell, found, ours, exact)
        calls[cell.label] = (call.run, once)
    progress("")
    for label, runner in interleave(calls, seconds).items():
        cell = next(c for c in cells if c.label == label)
        cell.seconds, cell.cpu_seconds = runner.seconds, runner.cpu_seconds
    torch.set_num_threads(threads)
    return Row(workload.name, workload.kind, workload.label, load, cells)


def read(call: Call, result: Any) -> dict[str, Array]:
    """What can be compared in the result of a call: its deaths, its gradient, or both."""
    readers = {"deaths": call.deaths, "gradient": call.gradient}
    return {name: read(result) for name, read in readers.items() if read is not None}


def compare(
    cell: Measurement, found: dict[str, Array], ours: dict[str, Array], exact: Array | None
) -> None:
    """Fill in the differences of ``found`` from ours and from float64.

    Where both deaths and gradient can be compared with ours, the larger difference counts.
    """
    differences = []
    for name in ("deaths", "gradient"):
        if name in found and name in ours and cell.role != "ours":
            by = relative_difference if name == "deaths" else norm_difference
            difference, mismatch = by(found[name], ours[name])
            cell.mismatch = cell.mismatch or mismatch
            differences += [] if difference is None else [difference]
    cell.difference = max(differences, default=None)
    if exact is not None and "deaths" in found:
        cell.error, mismatch = relative_difference(found["deaths"], exact)
        cell.mismatch = cell.mismatch or mismatch


def load_average() -> float | None:
    """The one-minute load, or None where the system has no such number."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return load if load is not None and isfinite(load) else None


def _one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}"[:200]
