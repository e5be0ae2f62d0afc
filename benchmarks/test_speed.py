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
from .measure import compare, exact, predicted
from .ours import implementations
from .records import Measurement
from .workloads import CLOUDS, LARGE, STEPS, Workload, parse

_THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
_LIMIT = 8.0  # seconds of one call
_CASES = [
    pytest.param(workload, implementation, id=f"{workload.name}-{implementation.label}")
    for workload in map(parse, (*STEPS, *CLOUDS, *LARGE))
    for implementation in implementations(workload)
]


@lru_cache(maxsize=1)
def _expected(workload: Workload) -> tuple[torch.Tensor, dict[str, Array], dict[str, Array]]:
    """The points, their exact results in float64, and the results of tsloss_fast."""
    points = workload.cloud()
    call = implementations(workload)[0].prepare(points, _THREADS)
    return points, exact(workload, points), call.read(call.run())


@pytest.mark.benchmark(min_rounds=3, max_time=0.5, disable_gc=True, warmup=False)
@pytest.mark.parametrize(("workload", "implementation"), _CASES)
def test_speed(workload: Workload, implementation: Implementation, benchmark: Any) -> None:
    if missing := implementation.missing():
        pytest.skip(f"{implementation.label} is not installed (pip install {missing})")
    torch.set_num_threads(_THREADS)
    points, known, ours = _expected(workload)
    if len(points) >= 1024 and predicted(implementation, points, _THREADS, _LIMIT) > _LIMIT:
        pytest.skip(f"{implementation.label} would take more than {_LIMIT:g} s for a call")
    call = implementation.prepare(points, _THREADS)
    cell = Measurement(implementation.label, implementation.role)
    compare(cell, call.read(call.run()), ours, known)
    benchmark.group = workload.label
    benchmark.name = implementation.label
    benchmark.extra_info.update(
        difference=cell.difference, error=cell.error, mismatch=cell.mismatch, threads=_THREADS
    )
    benchmark(call.run)
    torch.set_num_threads(_THREADS)
    if implementation.role == "ours":
        assert not cell.disagrees, f"relative error {cell.error} against float64 {cell.mismatch}"
