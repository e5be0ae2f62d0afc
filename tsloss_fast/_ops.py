"""The torch operators over the native core.

They take whole batches, ``(B, N, D)`` or ``(B, N, N)``, float32 or float64 (on a CUDA device half
types as well), and know nothing of autograd; ``functional.py`` puts the public functions on top.
``_ops_cpu.py`` and ``_ops_cuda.py`` have their two forms, where tensors become pointers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _core, _ops_cpu, _ops_cuda
from ._native import empty_bars

_lib = torch.library.Library("tsloss_fast", "DEF")
_lib.define(
    "h0(Tensor points, Tensor? lengths, str metric, bool check_finite)"
    " -> (Tensor deaths, Tensor edges)"
)
_lib.define(
    "h0_backward(Tensor grad_deaths, Tensor points, Tensor deaths, Tensor edges, str metric)"
    " -> Tensor"
)
_lib.define(
    "h0_from_distances(Tensor distances, Tensor? lengths, float symmetry_tolerance,"
    " bool check_finite) -> (Tensor deaths, Tensor edges)"
)

for _name in ("h0", "h0_backward", "h0_from_distances"):
    _lib.impl(_name, getattr(_ops_cpu, _name), "CPU")
    if _core.has_cuda:
        _lib.impl(_name, getattr(_ops_cuda, _name), "CUDA")


@torch.library.register_fake("tsloss_fast::h0", lib=_lib)
def _h0_fake(
    points: Tensor, lengths: Tensor | None, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    return empty_bars(points)


@torch.library.register_fake("tsloss_fast::h0_backward", lib=_lib)
def _h0_backward_fake(
    grad_deaths: Tensor, points: Tensor, deaths: Tensor, edges: Tensor, metric: str
) -> Tensor:
    return torch.empty_like(points, memory_format=torch.contiguous_format)


@torch.library.register_fake("tsloss_fast::h0_from_distances", lib=_lib)
def _h0_from_distances_fake(
    distances: Tensor, lengths: Tensor | None, symmetry_tolerance: float, check_finite: bool
) -> tuple[Tensor, Tensor]:
    return empty_bars(distances)


h0 = torch.ops.tsloss_fast.h0.default
h0_backward = torch.ops.tsloss_fast.h0_backward.default
h0_from_distances = torch.ops.tsloss_fast.h0_from_distances.default
