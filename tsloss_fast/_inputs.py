"""What the public functions accept, and what they say where they do not."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import _core
from ._native import METRICS, check_lengths_range

Array = npt.NDArray[Any]
Lengths = Tensor | Array | Sequence[Any] | int
HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, torch.float64, *HALF)
transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


def shape_error(name: str, shape: Sequence[int], expected: str) -> ValueError:
    return ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")


def of_zero3(x: Any) -> bool:
    """Whether DeepSpeed ZeRO-3 manages this parameter."""
    return hasattr(x, "ds_id")


def refuse_partitioned(x: Tensor, name: str) -> None:
    """Raises for a parameter that ZeRO-3 has put away: it is whole inside its module alone."""
    if of_zero3(x) and x.numel() == 0:
        raise ValueError(
            f"{name}: the parameter is partitioned by DeepSpeed ZeRO-3 and empty outside the "
            "forward of its module; pass what the module returns, for example "
            "embedding(torch.arange(rows)), or to prompt_clouds the module itself"
        )


def as_tensor(x: Any, name: str) -> Tensor:
    """A floating-point tensor that shares memory with x where it can."""
    if isinstance(x, np.ndarray):
        if x.dtype.kind != "f" or x.dtype.itemsize > 8:  # either byte order
            raise TypeError(
                f"{name}: expected an array of float16, float32 or float64, got {x.dtype}; "
                f"convert it, for example {name}.astype(numpy.float32)"
            )
        # Torch takes neither negative strides, nor foreign byte order, nor read-only memory.
        return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor or numpy.ndarray, got {type(x).__name__}")
    if x.dtype not in _FLOAT:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}; "
            f"convert it, for example {name}.float()"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {x.layout}; call {name}.to_dense()")
    return x


def check_lengths(
    lengths: Lengths | None, batch: Sequence[int], device: torch.device, limit: int | None = None
) -> Tensor | None:
    """`lengths` as an int64 tensor of shape `batch` on `device`, or None.

    With `limit`, values outside [0, limit] are an error where looking at them stalls nothing: on
    the CPU and not under a tracer. (`h0_persistence` leaves that to the operator.)
    """
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        array = np.asarray(lengths)
        if array.dtype.kind not in "iub":
            raise TypeError(f"lengths: expected integers, got {array.dtype.name}")
        lengths = torch.as_tensor(array.astype(np.int64) if array.dtype.kind == "u" else array)
    if lengths.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if tuple(lengths.shape) != tuple(batch):
        raise shape_error("lengths", lengths.shape, f"{tuple(batch)}, one number for each cloud")
    if lengths.device.type == "meta" and device.type != "meta":
        raise ValueError(f"lengths: expected numbers on {device}, got a meta tensor without values")
    lengths = lengths.to(device=device, dtype=torch.int64)
    if limit is not None and device.type == "cpu" and not _traced():
        check_lengths_range(lengths, limit)
    return lengths


_PLAIN = (Tensor, torch.nn.Parameter)


def runs_directly(x: Any) -> bool:
    """Whether nothing but the result can tell if torch's dispatcher is passed by: a plain float32
    or float64 CPU tensor, and no tracer, transform or mode that wants to see operators."""
    if torch.compiler.is_compiling():
        return False
    return (
        type(x) in _PLAIN
        and x.is_cpu
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and x.layout is torch.strided
        and not x.is_nested
        and not x.is_neg()  # lazily negated, and zeros without memory
        and not x._is_zerotensor()
        and not transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
    )


def _traced() -> bool:
    return torch.compiler.is_compiling() or transforms_active()


@functools.cache
def warn_reference(device: str) -> None:
    warnings.warn(
        f"tsloss_fast has no kernel for device '{device}': using the plain torch implementation "
        "(tsloss_fast.reference), which is exact but slow",
        stacklevel=4,  # the caller of the public function
    )


def looks(check_finite: bool | None, device: torch.device) -> bool:
    """What `check_finite` means there: by default, to look where that waits for nothing."""
    return device.type != "cuda" if check_finite is None else check_finite


def computes_halves(device: torch.device) -> bool:
    """Whether the kernels there widen half types themselves."""
    return device.type == "cuda" and has_kernel(device)


def has_kernel(device: torch.device) -> bool:
    """Whether the operators run there; for CUDA without kernels a clear error instead."""
    if device.type in ("cpu", "meta"):
        return True
    if device.type == "cuda" and torch.version.hip is None:
        if _core.has_cuda:
            return True
        raise RuntimeError(
            "points are on a CUDA device, but this build of tsloss_fast has CPU kernels only; "
            "build it from source where the CUDA toolkit is (TSLOSS_CUDA=ON pip install .), or "
            "call h0_persistence(points.cpu()), or tsloss_fast.reference.h0_persistence(points) "
            "for the slow plain-torch implementation on the device"
        )
    return False


_F = TypeVar("_F", bound=Callable[..., Any])


def _out_of_memory(error: Exception, function: str, x: Any) -> str | None:
    """What to say if that is what the error is about: how much `function` wanted for x, its tensor
    or array. torch reports it as RuntimeError, Python has MemoryError for it."""
    text = str(error)
    overflow = "Storage size calculation overflowed" in text
    if isinstance(error, MemoryError):
        if _SAID.match(text):  # by a public function that this one called
            return None
    elif "DefaultCPUAllocator" not in text and not overflow:
        return None
    found = re.search(r"(\d+) bytes", text)
    if overflow:
        sizes = re.search(r"sizes=\[([\d, ]*)\]", text)
        shape = sizes[1].split(",") if sizes else x.shape
        amount = f"{math.prod(map(int, shape)) * max(x.itemsize, 4)} bytes"  # halves are widened
    elif isinstance(x, np.ndarray) and text.startswith("Unable to allocate"):
        amount = f"{x.size * x.itemsize} bytes"
    else:
        amount = found[0] if found else "more memory"
    return (
        f"{function} needs {amount} at once for an input of shape {tuple(x.shape)} and type "
        f"{x.dtype}, and cannot have them; give it fewer points, or fewer clouds at a time"
    )


_SAID = re.compile(r"\w+ needs ")


def memory_errors(function: _F) -> _F:
    """MemoryError that says how much was wanted, whoever could not get it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            x = next((v for v in (*args, *kwargs.values()) if hasattr(v, "itemsize")), None)
            if x is None:
                raise
            message = _out_of_memory(error, function.__name__, x)
            if message is None:
                raise
            raise MemoryError(message) from error

    return wrapped  # type: ignore[return-value]
