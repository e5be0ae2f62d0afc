"""The same work under pytest-benchmark: ``python -m pytest benchmarks --benchmark-only``.

``-k 1024x768`` selects a size, ``-k tsloss_fast`` an implementation; ``--benchmark-autosave`` and
``--benchmark-compare`` follow one implementation over time. For ratios between implementations use
``tsloss bench``, which interleaves their samples. A test fails only if tsloss_fast is wrong.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pytest
import torch

from .implementation import Array, Implementation
from .measure import compare, exact_deaths, read
from .ours import IMPLEMENTATIONS
from .records import Measurement
from .workloads import DEFAULT, Workload, parse

_THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
_CASES = [
    pytest.param(workload, implementation, id=f"{workload.name}-{implementation.label}")
    for workload in map(parse, DEFAULT)
    for implementation in IMPLEMENTATIONS[workload.kind]
]


@lru_cache(maxsize=1)
def _expected(workload: Workload) -> tuple[torch.Tensor, Array | None, dict[str, Array]]:
    """The points, their deaths in float64, and what tsloss_fast finds."""
    points = workload.cloud()
    call = IMPLEMENTATIONS[workload.kind][0].prepare(points, _THREADS)
    return points, exact_deaths(points), read(call, call.run())


@pytest.mark.benchmark(min_rounds=3, max_time=0.5, disable_gc=True, warmup=False)
@pytest.mark.parametrize(("workload", "implementation"), _CASES)
def test_speed(workload: Workload, implementation: Implementation, benchmark: Any) -> None:
    if obstacle := implementation.obstacle(workload):
        pytest.skip(": ".join((implementation.label, *obstacle)))
    torch.set_num_threads(_THREADS)
    points, exact, ours = _expected(workload)
    call = implementation.prepare(points, _THREADS)
    cell = Measurement(implementation.label, implementation.role)
    compare(cell, read(call, call.run()), ours, exact)
    benchmark.group = workload.label
    benchmark.name = implementation.label
    benchmark.extra_info.update(
        difference=cell.difference, error=cell.error, mismatch=cell.mismatch, threads=_THREADS
    )
    benchmark(call.run)
    torch.set_num_threads(_THREADS)
    if implementation.role == "ours":
        assert not cell.disagrees, f"relative error {cell.error} against float64 {cell.mismatch}"
