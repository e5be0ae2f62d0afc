"""One value for every kind of input: the batch of clouds that the operators take.

Points, matrices, lengths, offsets and metrics are validated here and nowhere else, but for the
numbers in `lengths` and `offsets`: the core looks at those, since a compiled or exported program
brings new ones.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.masked import MaskedTensor

from . import _core


class _Metrics(dict[str, int]):
    def __missing__(self, metric: str) -> NoReturn:
        raise ValueError(
            f"metric: expected one of {', '.join(self)}, got {metric!r}; for any other metric "
            "give the distances to h0_persistence_from_distances"
        )


METRICS = _Metrics(euclidean=0, sqeuclidean=1, cosine=2, manhattan=3)
PRECOMPUTED = "precomputed"  # the values are distance matrices
Array = npt.NDArray[Any]
Lengths = Tensor | Array | Sequence[Any] | int
HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, torch.float64, *HALF)
_INTEGERS = tuple(
    getattr(torch, name)
    for name in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
)
PLAIN = (Tensor, torch.nn.Parameter)
# How much an entry of a distance matrix may differ from its mirror image, relative to the larger.
_SYMMETRY = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}
# Bound here, because every call asks them: to look up an attribute of a module costs more.
transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_jit_tracer: Callable[[], Any] = torch._C._get_tracing_state
_keys_of = torch._C._dispatch_keys


def _key_set(*names: str) -> int:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return int(keys.raw_repr())


# The dispatch keys of a dense tensor with memory of its own, in and outside of inference mode. As
# numbers: before torch 2.8, sets of keys are compared by identity.
_DENSE_ON_CPU = tuple(
    _key_set("CPU", "AutocastCPU", *more) for more in (("ADInplaceOrView", "AutogradCPU"), ())
)


class Batch(NamedTuple):
    """A batch of clouds; all fields but the last are the arguments of the operator `h0`.

    Attributes:
        values: points (..., N, D); points (T, D) of ragged clouds; or distance matrices (..., N, N)
            under the metric "precomputed". Half types are widened where the kernels do not take
            them.
        lengths: (...) int64, the valid points of each padded cloud, or None.
        offsets: (B+1,) int64 on the CPU, where each ragged cloud begins, or None.
        bars: the bars of all ragged clouds together, or None.
        metric: a key of METRICS, or "precomputed".
        tolerance: the relative asymmetry that distance matrices may have.
        check_finite: whether an input without a finite result is an error.
        direct: whether the CPU kernels can be called without torch's dispatcher.
    """

    values: Tensor
    lengths: Tensor | None
    offsets: Tensor | None
    bars: int | None
    metric: str
    tolerance: float
    check_finite: bool
    direct: bool


def points_batch(
    points: Any, metric: str, lengths: Lengths | None, check_finite: bool | None
) -> Batch:
    """Return the batch of `h0_persistence`: points (..., N, D), or a nested tensor of clouds."""
    direct = can_bypass_dispatcher(points)
    x = points
    if not direct:
        if getattr(points, "is_nested", False):
            if lengths is not None:
                raise ValueError("lengths: a nested tensor has its own; leave them out")
            check_jagged(points)
            return ragged_batch(points.values(), points.offsets(), metric, check_finite)
        x = as_tensor(points, "points")
        if x.dtype in HALF and x.device.type in ("cpu", "meta"):
            x = x.float()
        direct = can_bypass_dispatcher(x)
    check_metric(metric)
    shape = x.shape
    if len(shape) < 2:
        raise shape_error("points", shape, "(N, D) or (..., N, D)")
    sizes = None if lengths is None else check_lengths(lengths, shape[:-2], x.device)
    look = direct and check_finite is None  # the default, without the cost of asking
    check = look or resolve_check_finite(check_finite, x.device)
    return Batch(x, sizes, None, None, metric, 0.0, check, direct)


def distances_batch(distances: Any, lengths: Lengths | None, check_finite: bool | None) -> Batch:
    """Return the batch of `h0_persistence_from_distances`: matrices (..., N, N)."""
    d = as_tensor(distances, "distances")
    if d.dim() < 2 or d.shape[-1] != d.shape[-2]:
        raise shape_error("distances", d.shape, "(N, N) or (..., N, N)")
    sizes = check_lengths(lengths, d.shape[:-2], d.device)
    tolerance, check = _SYMMETRY[d.dtype], resolve_check_finite(check_finite, d.device)
    if d.dtype in HALF:
        d = d.float()
    return Batch(d, sizes, None, None, PRECOMPUTED, tolerance, check, can_bypass_dispatcher(d))


def ragged_batch(points: Any, offsets: Any, metric: str, check_finite: bool | None) -> Batch:
    """Return the batch of `h0_persistence_varlen`: points (T, D), offsets (B+1,)."""
    x = as_tensor(points, "points")
    check_metric(metric)
    if x.dim() != 2:
        raise shape_error("points", x.shape, "(T, D), the points of all clouds in a row")
    if x.dtype in HALF and x.device.type in ("cpu", "meta"):
        x = x.float()
    # A copy: it is kept for backward, and memory that NumPy shares may change until then.
    starts = as_integers(offsets, "offsets").detach().to("cpu", copy=True)
    if starts.dim() != 1 or starts.shape[0] == 0:
        raise shape_error("offsets", starts.shape, "(B+1,), where each cloud begins, and T")
    bars = _bars_between(offsets, starts)
    check = resolve_check_finite(check_finite, x.device)
    return Batch(x, None, starts, bars, metric, 0.0, check, can_bypass_dispatcher(x))


def _bars_between(offsets: Any, starts: Tensor) -> int:
    """Return the number of bars of all ragged clouds, which the shape of the result depends on."""
    if isinstance(offsets, (list, tuple)):  # these numbers can be read under a tracer too
        return sum(max(int(b) - int(a) - 1, 0) for a, b in itertools.pairwise(offsets))
    count = (starts.diff() - 1).clamp(min=0).sum()
    if is_compiling():
        return int(count)
    try:
        return int(count)
    except RuntimeError as error:
        raise TypeError(
            "offsets: expected numbers that can be read, got a tensor that is traced, vmapped or "
            "without values; pass a list, since the shape of the result depends on them"
        ) from error


def offsets_of_bars(offsets: Tensor) -> Tensor:
    """Return where the bars of each cloud begin, (B+1,), from where its points do."""
    bars = (offsets.diff() - 1).clamp(min=0).cumsum(0)
    return torch.nn.functional.pad(bars, (1, 0))


def type_of_deaths(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the deaths of points: float32 for half types."""
    return torch.float64 if dtype is torch.float64 else torch.float32


# The state of torch that a call depends on: tracers, transforms, modes and devices.


def is_traced() -> bool:
    """Return whether something other than autograd watches the operations of torch: a tracer, or a
    mode such as `FakeTensorMode`."""
    return is_compiling() or _dispatch_modes() > 0 or _jit_tracer() is not None


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is active, or tensors may have tangents: a level
    of `torch.autograd.forward_ad` is open."""
    return transforms_active() or forward_ad._current_level >= 0


def can_bypass_dispatcher(x: Any) -> bool:
    """Return whether leaving out torch's dispatcher for a tensor changes nothing but the speed.

    It holds for an ordinary float32 or float64 tensor on the CPU, while no tracer, transform or
    mode is active that has to see operators.
    """
    return not is_compiling() and _core.is_plain(x)


def may_look(x: Tensor) -> bool:
    """Return whether the values of a tensor can be read into Python, which waits for its device.

    They cannot under a tracer or a transform, nor where a tensor has none.
    """
    return not is_traced() and not transforms_active() and type(x) in PLAIN and not x.is_meta


def has_cuda_kernels(device: torch.device) -> bool:
    """Return whether this build has CUDA kernels for a device; the CPU serves the others."""
    return device.type == "cuda" and _core.has_cuda and torch.version.hip is None


def resolve_check_finite(check_finite: bool | None, device: torch.device) -> bool:
    """Return what `check_finite` means there. The default is to look wherever that adds no wait: on
    the CPU, and where the points are copied to it."""
    return not has_cuda_kernels(device) if check_finite is None else bool(check_finite)


# Validation of tensors, arrays and numbers.


def check_metric(metric: str) -> None:
    METRICS[metric]  # ValueError for an unknown one


def shape_error(name: str, shape: Sequence[int], expected: str) -> ValueError:
    return ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def is_zero3_partitioned(x: Any) -> bool:
    """Return whether DeepSpeed ZeRO-3 manages this parameter."""
    return hasattr(x, "ds_id")


def refuse_partitioned(x: Tensor, name: str) -> None:
    """Raise for a parameter that ZeRO-3 has put away: it is whole inside its module alone."""
    if is_zero3_partitioned(x) and x.numel() == 0:
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
    if isinstance(x, (np.ma.MaskedArray, MaskedTensor)):
        what, data = ("tensor", "get_data()") if isinstance(x, Tensor) else ("array", ".data")
        got = "a MaskedTensor" if isinstance(x, Tensor) else "a masked array"
        raise TypeError(
            f"{name}: expected {'a' if what == 'tensor' else 'an'} {what} without a mask, got "
            f"{got}; choose the rows that are valid, or pass a padded batch (its {data}) and the "
            "valid points as `lengths`"
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
                else f"pad it with torch.nested.to_padded_tensor({name}, 0.0)"
                if x.is_nested
                else f"call {name}.to_dense()"
            )
        )
    if type(x) not in PLAIN and hasattr(x, "full_tensor"):
        return x.full_tensor()  # type: ignore[no-any-return]
    if not is_compiling() and _keys_of(x).raw_repr() in _DENSE_ON_CPU:
        check_storage(x, name)
    return x


def check_jagged(points: Tensor) -> None:
    """Raise unless a nested tensor is a contiguous jagged batch of clouds (B, n*, D)."""
    if points.layout is not torch.jagged:
        raise TypeError(
            "points: expected a nested tensor with layout=torch.jagged, got "
            f"{points.layout}; make it with torch.nested.nested_tensor(..., layout=torch.jagged)"
        )
    if points.dim() != 3 or points._ragged_idx != 1 or points._lengths is not None:  # type: ignore[attr-defined]
        raise ValueError(
            "points: expected a contiguous jagged tensor (B, n*, D), ragged in its second "
            f"dimension, got shape {tuple(points.shape)}; call points.contiguous()"
        )


def as_integers(x: Any, name: str) -> Tensor:
    """Return integers of any type and layout as an int64 tensor."""
    if x is None:
        raise TypeError(f"{name}: expected integers, got NoneType")
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

    If there is a `limit`, values outside [0, limit] are an error where reading them does not wait
    for a device: on the CPU and not under a tracer. (For `h0_persistence` the core checks them.)
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
        _core.check_lengths(numbers.contiguous(), limit)
    return numbers


# Tensors on their way to the core.

capsule: Callable[[Tensor], Any] = torch._C._to_dlpack  # is torch.utils.dlpack.to_dlpack
# Newer versions of torch have the table, which spares each tensor of a call the capsule.
_core.use_torch(
    table=getattr(Tensor, "__dlpack_c_exchange_api__", None),
    tensor=Tensor,
    parameter=torch.nn.Parameter,
    float32=torch.float32,
    float64=torch.float64,
    integers=torch.empty(0, dtype=torch.int64, device="cpu"),
    single=torch.empty((), dtype=torch.float32, device="cpu"),
    double=torch.empty((), dtype=torch.float64, device="cpu"),
    empty_like=torch.empty_like,
    to_capsule=capsule,
    dispatch_keys=_keys_of,
    transforms_active=transforms_active,
    dispatch_modes=_dispatch_modes,
    function_modes=torch._C._len_torch_function_stack,
    jit_tracer=_jit_tracer,
    is_grad_enabled=torch.is_grad_enabled,
    get_num_threads=torch.get_num_threads,
    forward_ad=forward_ad,
    dense_keys=_DENSE_ON_CPU,
    metrics=METRICS,
)


def check_storage(t: Tensor, name: str) -> None:
    """Raise unless the storage of an ordinary dense tensor is as long as the tensor.

    torch checks this neither where it gives an address nor in ``contiguous()``. A storage may have
    been emptied, as FSDP does with parameters that it puts away.
    """
    held = t.untyped_storage().nbytes() - t.storage_offset() * t.itemsize
    if t.is_contiguous():
        needed = t.nbytes
    else:
        steps = zip(t.shape, t.stride(), strict=True)
        needed = t.numel() and (1 + sum((size - 1) * step for size, step in steps)) * t.itemsize
    if needed and held < needed:  # an empty view may begin behind its storage
        raise ValueError(
            f"{name}: expected a tensor whose storage holds its {t.numel()} numbers, got a storage "
            f"of {t.untyped_storage().nbytes()} bytes; the storage was resized, as FSDP does with "
            "parameters that it has put away: gather the parameter first, for example inside "
            "summon_full_params"
        )


def dense(t: Tensor, name: str) -> Tensor:
    """Return the tensor, contiguous, after a check that its memory exists."""
    if (
        t.is_contiguous()
        and t.untyped_storage().nbytes() >= (t.storage_offset() + t.numel()) * t.itemsize
    ):
        return t
    check_storage(t, name)
    return t.contiguous()


# Errors about inputs without a finite result, and about memory that is not available.

_CURES = {"lengths": "mask it with `lengths`", "check_finite": "pass check_finite=False"}


def _any_of(*choices: str) -> str:
    *first, last = choices
    return f"{', '.join(first)}{', or ' if len(first) > 1 else ' or ' if first else ''}{last}"


def raise_finding(
    finding: tuple[int, int, int, int],
    batch: int,
    what: str,
    dtype: torch.dtype,
    options: tuple[str, ...] = ("lengths", "check_finite"),
) -> NoReturn:
    """Raise the ValueError for what the core found. The advice names the `options` that the public
    function has."""
    problem, cloud, i, j = finding
    where = f"cloud {cloud} of {batch}" if batch > 1 else "the cloud"
    if what == "distances":
        entry = f"distances: entry ({i}, {j}) of {where}"
        raise ValueError(
            {
                1: f"{entry} is NaN or infinite; expected finite distances. If an infinite entry "
                "means that two points are not connected, pass check_finite=False: bars that no "
                "finite entry ends then have infinite deaths. A point with NaN can be removed, or "
                "masked with `lengths`; with check_finite=False the deaths of its cloud are NaN",
                4: f"{entry} is negative; expected distances, which are >= 0",
                5: f"{entry} is on the diagonal and not zero; expected the distance of a point to "
                "itself to be 0. If the matrix comes from torch.cdist, pass "
                "compute_mode='donot_use_mm_for_euclid_dist' there, or give the points to "
                "h0_persistence",
                6: f"{entry} differs from its mirror image ({j}, {i}); expected a symmetric "
                "matrix. Pass (d + d.mT) / 2 if the difference is meant to be averaged",
            }[problem]
        )
    cures = ["remove it", *(_CURES[option] for option in options)]
    raise ValueError(
        {
            1: f"points: point {i} of {where} contains NaN or infinity; {_any_of(*cures)}"
            + (" to get NaN deaths" if "check_finite" in options else ""),
            2: f"points: point {i} of {where} is the zero vector, to which the cosine distance is "
            f"undefined; {_any_of(*cures[: 1 + ('lengths' in options)], 'use another metric')}",
            3: f"points: the distance of points {i} and {j} of {where} is above the largest "
            f"{dtype}; rescale the points" + (" or use float64" if dtype is torch.float32 else ""),
        }[problem]
    )


_SAID = re.compile(r"\w+ needs ")


def raise_memory_error(error: Exception, function: str, x: Any) -> NoReturn:
    """Raise a MemoryError that names the size which `function` asked for, given the tensor or array
    x. Any other error is raised again: torch uses RuntimeError for both."""
    text = str(error)
    overflow = "Storage size calculation overflowed" in text
    if isinstance(error, MemoryError):
        known = not _SAID.match(text)  # else a public function that this one called has said it
    else:
        known = "DefaultCPUAllocator" in text or overflow
    if not known or not hasattr(x, "itemsize"):
        raise error
    found = re.search(r"(\d+) bytes", text)
    if overflow:
        sizes = re.search(r"sizes=\[([\d, ]*)\]", text)
        shape = sizes[1].split(",") if sizes else x.shape
        amount = f"{math.prod(map(int, shape)) * max(x.itemsize, 4)} bytes"  # halves are widened
    elif isinstance(x, np.ndarray) and text.startswith("Unable to allocate"):
        amount = f"{x.size * x.itemsize} bytes"
    else:
        amount = found[0] if found else "more memory"
    raise MemoryError(
        f"{function} needs {amount} at once for an input of shape {tuple(x.shape)} and type "
        f"{x.dtype}, and cannot have them; give it fewer points, or fewer clouds at a time"
    ) from error
