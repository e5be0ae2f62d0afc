"""The operators on a device for which this build has no kernels, through a copy on the CPU.

Every call copies its points to the CPU and the result back, and so it waits for the device.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _ops_cpu
from ._native import PLAIN, check_storage, type_of_deaths

_BUILD = "build tsloss_fast from source where the CUDA toolkit is: TSLOSS_CUDA=ON pip install ."
_WITH_MEMORY = ("cpu", "cuda", "mps", "xpu")  # the devices whose storages have a size in bytes
_PASSED_THROUGH = ("tsloss_fast", "torch")
_warned: set[str] = set()  # the types of device for which the warning has been given


def _in_words(count: float) -> str:
    """A number of bytes as a reader wants it: 163,840 are 160 kB."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if count < 999.5:
            break
        count, unit = count / 1024, larger
    return f"{count:.3g} {unit}"


def _level_of_caller() -> int:
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
        stacklevel=_level_of_caller(),
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


def _on_cpu(value: Any) -> Any:
    """A tensor on the CPU, half types widened there: so fewer bytes are copied."""
    if not isinstance(value, Tensor):
        return value
    dense = type(value) in PLAIN and value.layout is torch.strided
    if dense and value.device.type in _WITH_MEMORY:
        check_storage(value, "tensor")  # torch would copy what lies behind its end
    copied = value.to("cpu")
    return copied.to(type_of_deaths(copied.dtype)) if copied.is_floating_point() else copied


def _forward(operator: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def through_copy(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        if x.device.type == "cpu":  # no ordinary memory: the operator says so
            return operator(x, *rest)
        _refuse_capture(x)
        _warn_once(x)
        deaths, edges = operator(*map(_on_cpu, (x, *rest)))
        return deaths.to(x.device), edges.to(x.device)

    return through_copy


def _backward(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def through_copy(grad_deaths: Tensor, x: Tensor, *rest: Any) -> Tensor:
        _refuse_capture(x)
        return operator(*map(_on_cpu, (grad_deaths, x, *rest))).to(x.dtype).to(x.device)

    return through_copy


h0 = _forward(_ops_cpu.h0)
h0_backward = _backward(_ops_cpu.h0_backward)
h0_from_distances = _forward(_ops_cpu.h0_from_distances)
h0_varlen = _forward(_ops_cpu.h0_varlen)
h0_varlen_backward = _backward(_ops_cpu.h0_varlen_backward)
