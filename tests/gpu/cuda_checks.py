"""What tests of CUDA kernels compare with the CPU core, and how."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from clouds import FAMILIES, Cloud
from native_builds import ORDERS

from tsloss_fast import _core, _ops, h0_persistence

HAVE_DEVICE = torch.cuda.is_available() and _core.has_cuda
SCHEDULES = [*((order, 1) for order in ORDERS), ("random", 2), ("random", 3)]
HALVES = (torch.float16, torch.bfloat16)
ALL_TYPES = (torch.float32, torch.float64, *HALVES)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


def on_cpu(
    points: torch.Tensor, metric: str, lengths: list[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    if points.dtype in HALVES:
        points = points.float()
    return h0_persistence(points, metric, lengths=lengths, check_finite=False)


def some(family: str, dtype: type, keep: int) -> Iterator[Cloud]:
    """Evenly spaced clouds of a family that the executor can hold in reasonable time."""
    all_of = [c for c in FAMILIES[family](dtype) if c.points.size <= 8000 and len(c.points) <= 210]
    yield from all_of[:: max(1, len(all_of) // keep)]


def register(operator: str, function: Callable[..., Any], key: str) -> None:
    """Let an operator run a function for a dispatch key of torch, from now on."""
    # Some versions of torch refuse a second registration unless they forget the first.
    torch.library._impls.discard(f"tsloss_fast/{operator}/{key}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        _ops.library.impl(operator, function, key)
