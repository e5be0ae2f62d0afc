"""The operators on the CPU, and through a copy on the CPU for every device without kernels.

The binding checks the types, shapes, layout and device of the tensors that it is given, and the
numbers of `lengths` and `offsets` as well.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from . import _core
from ._batch import (
    METRICS,
    PLAIN,
    PRECOMPUTED,
    check_storage,
    dense,
    raise_finding,
    type_of_deaths,
)

_BUILD = "build tsloss_fast from source where the CUDA toolkit is: TSLOSS_CUDA=ON pip install ."
_WITH_MEMORY = ("cpu", "cuda", "mps", "xpu")  # the devices whose storages have a size in bytes
_PASSED_THROUGH = ("tsloss_fast", "torch")
ignores_deaths = False  # in the gradient; see `_autograd.Backend`
_warned: set[str] = set()  # the types of device for which the warning has been given


def h0(
    values: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    bars: int | None,
    metric: str,
    tolerance: float,
    check_finite: bool,
) -> tuple[Tensor, Tensor]:
    """Deaths (..., M) and edges (..., M, 2) of a batch, whose fields are the arguments."""
    matrices = metric == PRECOMPUTED
    what = "distances" if matrices else "points"
    values = dense(values, what)
    sizes = None if lengths is None else dense(lengths, "lengths")
    starts = None if offsets is None else dense(offsets, "offsets")
    threads = torch.get_num_threads()
    if matrices:
        deaths, edges, finding = _core.h0_from_distances(values, sizes, tolerance, threads)
        check_finite = check_finite or (finding is not None and finding[0] != 1)
    else:
        deaths, edges, finding = _core.h0_forward(METRICS[metric], values, sizes, starts, threads)
        if offsets is not None and bars != len(deaths):  # tracers take the shape from `bars`
            raise ValueError(f"bars: expected {len(deaths)} (that of the offsets), got {bars}")
    if finding is not None and check_finite:
        if offsets is None:
            raise_finding(finding, math.prod(deaths.shape[:-1]), what, values.dtype)
        raise_finding(finding, len(offsets) - 1, what, values.dtype, options=("check_finite",))
    return deaths, edges


def h0_backward(
    grad_deaths: Tensor,
    points: Tensor,
    deaths: Tensor,
    edges: Tensor,
    offsets: Tensor | None,
    metric: str,
) -> Tensor:
    """The gradient at the points of `h0`, from that of the deaths."""
    # A hook on saved tensors may have given anything back.
    return _core.h0_backward(
        METRICS[metric],
        grad_deaths,
        dense(points.resolve_neg(), "points"),
        None if offsets is None else offsets.contiguous(),
        deaths.contiguous(),
        edges.contiguous(),
        torch.get_num_threads(),
    )


def single_linkage(edges: Tensor) -> Tensor:
    """Merges (..., N-1, 3) int64 of the critical edges (..., N-1, 2) of whole clouds; see
    csrc/tsloss.h."""
    edges = dense(edges, "edges")
    if bool((edges < 0).any()):
        raise ValueError(
            "single_linkage: the clouds are padded (edges contain -1); expected whole clouds. "
            "Slice each one to its lengths[b] - 1 bars first"
        )
    merges = edges.new_empty((*edges.shape[:-1], 3))
    _core.single_linkage(edges, merges)
    return merges


def pairwise_keys(points: Tensor, metric: str = "euclidean") -> Tensor:
    """The keys (..., N, N) that the tree is built on, from points (..., N, D); for tests."""
    points = dense(points, "points")
    keys = points.new_zeros((*points.shape[:-1], points.shape[-2]))
    _core.pairwise_keys(METRICS[metric], points, keys, torch.get_num_threads())
    return keys


def filter_keeps(points: Tensor, factor: float = 1.0) -> Tensor:
    """Whether the low-precision filter keeps each pair (N, N) of points (N, D) if the bound is its
    own squared distance times ``factor``; for tests."""
    points = dense(points, "points")
    kept = points.new_zeros((len(points), len(points)), dtype=torch.uint8)
    _core.filter_keeps(points, factor, kept)
    return kept.bool()


# A device without kernels: each call copies its points to the CPU and the result back, and so it
# waits for the device.


def copied_h0(values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`h0` of tensors on any device."""
    if values.device.type == "cpu":  # no ordinary memory: the operator says so
        return h0(values, *rest)
    _refuse_capture(values)
    _warn_once(values)
    deaths, edges = h0(*map(_on_cpu, (values, *rest)))
    return deaths.to(values.device), edges.to(values.device)


def copied_h0_backward(grad_deaths: Tensor, points: Tensor, *rest: Any) -> Tensor:
    """`h0_backward` of tensors on any device."""
    _refuse_capture(points)
    grad = h0_backward(*map(_on_cpu, (grad_deaths, points, *rest)))
    return grad.to(points.dtype).to(points.device)


def _on_cpu(value: Any) -> Any:
    """A tensor on the CPU, half types widened there: so fewer bytes are copied."""
    if not isinstance(value, Tensor):
        return value
    strided = type(value) in PLAIN and value.layout is torch.strided
    if strided and value.device.type in _WITH_MEMORY:
        check_storage(value, "tensor")  # torch would copy what lies behind its end
    copied = value.to("cpu")
    return copied.to(type_of_deaths(copied.dtype)) if copied.is_floating_point() else copied


def _in_words(count: float) -> str:
    """A number of bytes as a reader wants it: 163,840 are 160 kB."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if count < 999.5:
            break
        count, unit = count / 1024, larger
    return f"{count:.3g} {unit}"


def level_of_caller() -> int:
    """The `stacklevel` of the line that called the package, for a warning of the function that
    calls this one."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_THROUGH:
        frame, level = frame.f_back, level + 1
    return level


def _warn_once(x: Tensor) -> None:
    kind = x.device.type
    if kind in _warned:
        return
    _warned.add(kind)
    cure = f"; for kernels that run there, {_BUILD}" if _can_have_kernels(x) else ""
    warnings.warn(
        f"tsloss_fast has no kernels for the device {x.device} in this build, and computes through "
        f"a copy on the CPU: this call copies {_in_words(x.nbytes)} and waits for the device, and "
        f"so does every other, forward and backward{cure} (this warning is given once)",
        stacklevel=level_of_caller(),
    )


def _can_have_kernels(x: Tensor) -> bool:
    """Whether a build with CUDA kernels has kernels for the device; ROCm says "cuda" too."""
    return x.is_cuda and torch.version.hip is None


def _refuse_capture(x: Tensor) -> None:
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        cure = f", or {_BUILD}" if _can_have_kernels(x) else ""
        raise RuntimeError(
            f"got a tensor of shape {tuple(x.shape)} on {x.device} while a CUDA graph is captured, "
            "and this build of tsloss_fast has no kernels for the device; expected a call outside "
            "of the capture, since it copies the tensor to the CPU and waits, which a graph cannot "
            "hold. Call it before or after the capture (under torch.compile, without "
            f"mode='reduce-overhead'){cure}"
        )
