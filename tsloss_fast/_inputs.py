"""What the public functions accept, and what they say where they do not."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.masked import MaskedTensor

from . import _core
from ._native import (
    DENSE_ON_CPU,
    METRICS,
    PLAIN,
    check_lengths_range,
    check_storage,
    is_dense_on_cpu,
    keys_of,
)
from ._native import shape_error as shape_error

Array = npt.NDArray[Any]
Lengths = Tensor | Array | Sequence[Any] | int
HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, torch.float64, *HALF)
# Bound here, since every call of the package asks them: attributes of modules cost more than they.
transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_function_modes: Callable[[], int] = torch._C._len_torch_function_stack
_jit_tracer: Callable[[], Any] = torch._C._get_tracing_state


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(
            f"metric: expected one of {', '.join(METRICS)}, got {metric!r}; for any other metric "
            "give the distances to h0_persistence_from_distances"
        )


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


def type_advice(x: Any, name: str) -> str:
    """Advise how an object of another type becomes a tensor."""
    if isinstance(x, torch.nn.Module) and isinstance(getattr(x, "weight", None), Tensor):
        return "pass its .weight"
    return f"convert it, for example torch.as_tensor({name})"


def _dtype_advice(dtype: Any, name: str, conversion: str) -> str:
    """Advise how numbers of a type without a kernel become points or distances."""
    if "complex" not in str(dtype):
        return f"convert it, for example {name}{conversion}"
    if name == "distances":
        return "distances are real numbers: pass their real part or their absolute value"
    return (
        "give real and imaginary parts as coordinates of their own, for example "
        f"torch.view_as_real({name}).flatten(-2)"
    )


def as_tensor(x: Any, name: str) -> Tensor:
    """Return a dense floating-point tensor that shares memory with x where it can.

    A `DTensor` is gathered; its gradient is a `DTensor` again.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked array; choose the rows that "
            "are valid, or pass a padded batch (its .data) and the valid points as `lengths`"
        )
    if isinstance(x, np.ndarray):
        if x.dtype.kind != "f" or x.dtype.itemsize > 8:  # either byte order
            raise TypeError(
                f"{name}: expected an array of float16, float32 or float64, got {x.dtype}; "
                + _dtype_advice(x.dtype, name, ".astype(numpy.float32)")
            )
        # Torch takes neither negative strides, nor foreign byte order, nor read-only memory.
        return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor or numpy.ndarray, got {type(x).__name__}; "
            + type_advice(x, name)
        )
    if isinstance(x, MaskedTensor):
        raise TypeError(
            f"{name}: expected a tensor without a mask, got a MaskedTensor; choose the rows that "
            "are valid, or pass a padded batch (its get_data()) and the valid points as `lengths`"
        )
    if x.dtype not in _FLOAT:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}; "
            + _dtype_advice(x.dtype, name, ".float()")
        )
    if x.layout is not torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor, got {x.layout}; "
            + (
                "fill a dense matrix with infinity, put the known distances and a zero diagonal "
                "into it, and pass check_finite=False (to_dense() would make every missing "
                "distance 0)"
                if name == "distances"
                else f"call {name}.to_dense()"
            )
        )
    if type(x) not in PLAIN and hasattr(x, "full_tensor"):
        return x.full_tensor()  # type: ignore[no-any-return]
    if not is_compiling() and is_dense_on_cpu(x):
        check_storage(x, name)
    return x


_INTEGERS = tuple(
    getattr(torch, name)
    for name in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
)


def as_integers(x: Any, name: str) -> Tensor:
    """Return lengths or offsets of any integer type and layout as an int64 tensor."""
    if not isinstance(x, (Tensor, np.ndarray)):
        x = torch.tensor(x, device="cpu") if is_compiling() else np.asarray(x)
        if 0 in x.shape:
            x = torch.zeros(x.shape, dtype=torch.int64, device="cpu")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected integers without a mask, got a masked array")
    if isinstance(x, np.ndarray):
        if not is_compiling():
            if x.dtype.kind not in "iu":
                raise TypeError(f"{name}: expected integers, got {x.dtype.name}")
            x = np.require(x, np.int64, ["C", "W"])
        x = torch.from_numpy(x)
    if x.dtype not in _INTEGERS:
        raise TypeError(f"{name}: expected integers, got {x.dtype}")
    return x.to(torch.int64)  # type: ignore[no-any-return]


def check_lengths(
    lengths: Lengths | None, batch: Sequence[int], device: torch.device, limit: int | None = None
) -> Tensor | None:
    """Return `lengths` as an int64 tensor of shape `batch` on `device`, or None.

    With `limit`, values outside [0, limit] are an error where looking at them stalls nothing: on
    the CPU and not under a tracer. (`h0_persistence` leaves that to the operator.)
    """
    if lengths is None:
        return None
    numbers = as_integers(lengths, "lengths")
    if tuple(numbers.shape) != tuple(batch):
        raise shape_error("lengths", numbers.shape, f"{tuple(batch)}, one number for each cloud")
    if numbers.device.type == "meta" and device.type != "meta":
        raise ValueError(f"lengths: expected numbers on {device}, got a meta tensor without values")
    numbers = numbers.to(device)
    if limit is not None and device.type == "cpu" and may_look(numbers):
        check_lengths_range(numbers, limit)
    return numbers


def is_traced() -> bool:
    """Return whether something other than autograd watches the operations of torch: a tracer, or a
    mode such as `FakeTensorMode`."""
    return is_compiling() or _dispatch_modes() > 0 or _jit_tracer() is not None


def forward_mode() -> bool:
    """Return whether a level of `torch.autograd.forward_ad` is open: tensors may have tangents."""
    return forward_ad._current_level >= 0


def can_bypass_dispatcher(x: Any) -> bool:
    """Return whether leaving out torch's dispatcher for a tensor changes nothing but the speed.

    It holds for an ordinary float32 or float64 tensor on the CPU, while no tracer, transform or
    mode is active that has to see operators.
    """
    if is_compiling():
        return False
    return (
        type(x) in PLAIN
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and keys_of(x).raw_repr() in DENSE_ON_CPU
        and not transforms_active()
        and forward_ad._current_level < 0
        and not _dispatch_modes()
        and not _function_modes()
        and _jit_tracer() is None
    )


def may_look(x: Tensor) -> bool:
    """Return whether the values of a tensor can be read into Python, which waits for its device.

    They cannot under a tracer or a transform, nor where a tensor has none.
    """
    return not is_traced() and not transforms_active() and type(x) in PLAIN and not x.is_meta


def looks(check_finite: bool | None, device: torch.device) -> bool:
    """Return what `check_finite` means there. The default is to look wherever that adds no wait: on
    the CPU, and where the points are copied to it."""
    return not has_cuda_kernels(device) if check_finite is None else check_finite


def takes_halves(device: torch.device) -> bool:
    """Return whether the operators there take half types: the CUDA kernels do, and the copy widens
    them on the CPU."""
    return device.type not in ("cpu", "meta")


def has_cuda_kernels(device: torch.device) -> bool:
    """Return whether this build has CUDA kernels for a device. `_ops_copy` serves the others."""
    return device.type == "cuda" and _core.has_cuda and torch.version.hip is None


def register_result(result: type) -> None:
    """Let `torch.export.save` write a named tuple, and `torch.load(weights_only=True)` read it."""
    torch.utils._pytree._register_namedtuple(
        result, serialized_type_name=f"tsloss_fast.{result.__name__}"
    )
    torch.serialization.add_safe_globals([result])


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
        if is_compiling():
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
