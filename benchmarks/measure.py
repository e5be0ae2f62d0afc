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
from math import inf, isfinite, log
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from .differentiable import step, step_value, through_edges
from .implementation import Array, Implementation
from .records import Measurement, Row
from .workloads import STEP_KINDS, Workload

# A sample lasts at least this long, so that the clock's resolution does not matter.
_SAMPLE_SECONDS = 2e-3
# Calls shorter than this are run once, untimed, before each sample: the caches then hold what they
# hold in a training loop, not what the previous implementation left there.
_WARM_SECONDS = 5e-3
_LEAST_SAMPLES = 3
# Above this many points the float64 check (N²/2 distances of 8 bytes) would take longer than the
# rest.
_CHECKED_POINTS = 4096
# A baseline that loops over a batch gets this many clouds of it; its time is scaled to all.
PART = 256
# The time of a call is predicted before it is made, for clouds of at least this many points.
_PREDICTED_POINTS = 1024


def exact(workload: Workload, points: torch.Tensor) -> dict[str, Array]:
    """Compute in float64, by direct differences and Prim's algorithm, the deaths, or the value and
    gradient of a training step. For very large clouds nothing is computed."""
    if workload.points > _CHECKED_POINTS or workload.kind == "backward":
        return {}
    if workload.kind in STEP_KINDS:
        way = through_edges(lambda cloud: _prim(cloud)[1])
        call = step(
            workload.kind, lambda x, leaf: step_value(workload.kind, x, leaf, way), points.double()
        )
        return call.read(call.run())
    if points.ndim == 3:
        return {"deaths": np.stack([_prim(cloud)[0] for cloud in points])}
    return {"deaths": _prim(points)[0]}


def _prim(cloud: torch.Tensor) -> tuple[Array, Array]:
    """The deaths, ascending, and the edges of the minimum spanning tree."""
    n = cloud.shape[0]
    distances = np.zeros((n, n))
    above = np.triu_indices(n, 1)
    distances[above] = torch.pdist(cloud.double()).numpy()
    distances += distances.T
    nearest, parent, current = np.full(n, np.inf), np.zeros(n, dtype=np.int64), 0
    outside = np.ones(n, dtype=bool)
    deaths, edges = np.empty(n - 1), np.empty((n - 1, 2), dtype=np.int64)
    for k in range(n - 1):
        outside[current] = False
        parent[distances[current] < nearest] = current
        np.minimum(nearest, distances[current], out=nearest)
        current = int(np.where(outside, nearest, np.inf).argmin())
        deaths[k], edges[k] = nearest[current], (parent[current], current)
    return np.sort(deaths), edges


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

    Each call comes with the time of its first run. One that took more than four times ``seconds``
    gets a single sample.
    """
    runners = {}
    for label, (run, once) in calls.items():
        if once < 0.1:  # the first run loads and allocates things: ask again
            once = _shortest(run)
        inner = max(1, int(min(_SAMPLE_SECONDS, seconds) / once))
        least = 1 if once > 4 * seconds else _LEAST_SAMPLES
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


def _shortest(run: Callable[[], Any]) -> float:
    return min(_once(run)[1] for _ in range(2))


def _undisturbed(run: Callable[[], Any]) -> float:
    """The shorter of wall-clock and processor time: a busy machine must not make a call look slow
    that is not, nor two threads count twice."""
    start = process_time()
    wall = _shortest(run)
    return max(min(wall, (process_time() - start) / 2), 1e-7)


def predicted(
    implementation: Implementation, points: torch.Tensor, threads: int, limit: float = inf
) -> float:
    """The seconds of one call, by how it grows over parts of the points, up to a quarter of them.

    A method may change its algorithm with the number of points, so a forecast above ``limit`` is
    believed only once the next larger part would take more than an eighth of ``limit``.
    """
    clouds, cloud = (len(points), points[0]) if points.ndim == 3 else (1, points)
    n = len(cloud)
    sizes = [n // 4, n // 16]
    while sizes[-1] > _PREDICTED_POINTS:
        sizes.append(sizes[-1] // 4)
    seconds, power, whole = 0.0, 2.0, 0.0
    for size in reversed(sizes):
        if whole > limit and seconds * 4**power > limit / 8:
            break
        now = _undisturbed(implementation.prepare(cloud[:size], threads).run)
        if seconds:
            power = max(log(now / seconds, 4), 1.0)
        seconds = now
        whole = float(clouds * seconds * (n / size) ** power)
    return whole


def measure(
    workload: Workload,
    implementations: Sequence[Implementation],
    *,
    seconds: float = 0.5,
    threads: int = 1,
    limit: float = inf,
    failures: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda label: None,
) -> Row:
    """Compare the results of all implementations on one workload, then time them.

    Args:
        workload: what is computed.
        implementations: ours first.
        seconds: time for each implementation.
        threads: the thread count given to those that take one.
        limit: leave out implementations of which one call would take longer, in seconds.
        failures: label -> reason, for those known to end the process.
        progress: called with a label before each comparison, and with ``""`` before the timing.
    """
    load = load_average()
    points = workload.cloud()
    part = points[:PART] if points.ndim == 3 else points
    scale = len(points) / len(part)
    cells = [Measurement(i.label, i.role, i.about) for i in implementations]
    calls: dict[str, tuple[Callable[[], Any], float]] = {}
    ours: dict[str, Array] = {}
    expected = exact(workload, part)
    for implementation, cell in zip(implementations, cells, strict=True):
        if missing := implementation.missing():
            cell.status, cell.reason = "not installed", f"pip install {missing}"
            continue
        if failures and cell.label in failures:
            cell.status, cell.reason = "failed", failures[cell.label]
            continue
        progress(cell.label)
        given = part if cell.role == "baseline" else points
        try:
            if limit < inf and workload.points >= _PREDICTED_POINTS:
                needed = predicted(implementation, given, threads, limit)
                if needed > limit:
                    cell.status = "not run"
                    cell.reason = f"one call would take more than {limit:g} s (--limit)"
                    continue
            call = implementation.prepare(given, threads)
            result, once = _once(call.run)
            found = call.read(result)
            del result
        except Exception as problem:  # whatever a library raises is its result, not the end of ours
            cell.status, cell.reason = "failed", _one_line(problem)
            continue
        if cell.role == "ours" and scale > 1:
            found = {name: values[: len(part)] for name, values in found.items()}
        elif cell.role == "baseline" and scale > 1:
            cell.clouds = len(part)
        if cell.role == "ours":
            ours = found
        compare(cell, found, ours, expected)
        calls[cell.label] = (call.run, once)
    progress("")
    for label, runner in interleave(calls, seconds).items():
        cell = next(c for c in cells if c.label == label)
        factor = scale if cell.clouds else 1.0
        cell.seconds = [factor * s for s in runner.seconds]
        cell.cpu_seconds = [factor * s for s in runner.cpu_seconds]
    torch.set_num_threads(threads)
    return Row(workload.name, load, cells)


def compare(
    cell: Measurement, found: dict[str, Array], ours: dict[str, Array], exact: dict[str, Array]
) -> None:
    """Fill in the differences of ``found`` from ours and from float64.

    Where a value and a gradient can be compared, the larger difference counts.
    """

    def largest(expected: dict[str, Array]) -> float | None:
        differences = []
        for name in found.keys() & expected.keys():
            by = norm_difference if name == "gradient" else relative_difference
            difference, mismatch = by(found[name], expected[name])
            cell.mismatch = cell.mismatch or mismatch
            differences += [] if difference is None else [difference]
        return max(differences, default=None)

    if cell.role != "ours":
        cell.difference = largest(ours)
    cell.error = largest(exact)


def load_average() -> float | None:
    """The one-minute load, or None where the system has no such number."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return load if load is not None and isfinite(load) else None


def _one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}"[:200]
