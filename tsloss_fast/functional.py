"""0-dimensional persistence of point clouds as differentiable PyTorch functions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import _core, _ops, _routing
from ._ops import check_lengths_range

Array = npt.NDArray[Any]
Lengths = Tensor | Array | Sequence[Any] | int
_HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, torch.float64, *_HALF)
# How much an entry of a distance matrix may differ from its mirror image, relative to the larger.
_SYMMETRY = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}
_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


class H0Persistence(NamedTuple):
    """The finite part of a 0-dimensional barcode.

    ``deaths`` (..., N-1): ascending; all births are 0. ``edges`` (..., N-1, 2), int64: the critical
    edge of each death, smaller index first. Padding: deaths 0, edges -1. Tensors, or NumPy arrays
    where an array was given.
    """

    deaths: Any
    edges: Any


class _Routed(torch.autograd.Function):
    """What both forms of the function share: the derivatives of the deaths."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        if grad is None:
            return None, None, None, None
        points, deaths, edges = ctx.saved_tensors
        # Gradient mode is on in a backward exactly under create_graph=True: then, and inside a
        # torch.func transform, the result itself must be differentiable.
        if torch.is_grad_enabled() or _transforms_active():
            return _routing.route_gradient(grad, points, edges, ctx.metric), None, None, None
        return _ops.h0_backward(grad, points, deaths, edges, ctx.metric), None, None, None

    @staticmethod
    def keep(ctx: Any, points: Tensor, deaths: Tensor, edges: Tensor, metric: str) -> None:
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points, deaths, edges)
        ctx.metric = metric


class _H0(_Routed):
    """The everyday form: `setup_context` would cost 12 microseconds a call."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        deaths, edges = _ops.h0(points, lengths, metric, check)
        _Routed.keep(ctx, points, deaths, edges, metric)
        return deaths, edges


class _H0Transformed(_Routed):
    """The form that torch.func requires."""

    @staticmethod
    def forward(points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        return _ops.h0(points, lengths, metric, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        deaths, edges = output
        _Routed.keep(ctx, inputs[0], deaths, edges, inputs[2])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0Transformed, info, in_dims, arguments)


class _H0Forward(_H0Transformed):
    """With forward-mode derivatives too. A class of its own: torch.compile refuses any with
    `jvp`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _H0Transformed.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        points, edges = ctx.saved_for_forward
        return _routing.route_tangent(tangents[0], points, edges, ctx.metric), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0Forward, info, in_dims, arguments)


class _RoutedMatrix(torch.autograd.Function):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None:
            return None, None, None, None
        (edges,) = ctx.saved_tensors
        return _routing.route_to_matrix(grads[0], edges, ctx.points), None, None, None

    @staticmethod
    def keep(ctx: Any, points: int, edges: Tensor) -> None:
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(edges)
        ctx.points = points


class _H0Distances(_RoutedMatrix):
    @staticmethod
    def forward(ctx: Any, d: Tensor, lengths: Tensor | None, tolerance: float, check: bool) -> Any:
        deaths, edges = _ops.h0_from_distances(d, lengths, tolerance, check)
        _RoutedMatrix.keep(ctx, d.shape[-1], edges)
        return deaths, edges


class _H0DistancesTransformed(_RoutedMatrix):
    @staticmethod
    def forward(d: Tensor, lengths: Tensor | None, tolerance: float, check: bool) -> Any:
        return _ops.h0_from_distances(d, lengths, tolerance, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _RoutedMatrix.keep(ctx, inputs[0].shape[-1], output[1])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0DistancesTransformed, info, in_dims, arguments)


def _vmap(function: Any, info: Any, in_dims: Any, arguments: Any) -> Any:
    """The vmapped dimension becomes part of the batch: one call of the kernel."""
    x, lengths, *rest = arguments
    size = info.batch_size
    if lengths is not None:
        lengths = _flatten_vmapped(lengths, in_dims[1], size)
    outputs = function.apply(_flatten_vmapped(x, in_dims[0], size), lengths, *rest)
    return tuple(
        o.reshape(size, o.shape[0] // size if size else 0, *o.shape[1:]) for o in outputs
    ), (0, 0)


def _flatten_vmapped(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(V, B, ...) -> (V·B, ...), the vmapped dimension first, repeated if x does not have it."""
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _shape_error(name: str, shape: Sequence[int], expected: str) -> ValueError:
    return ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def _as_tensor(x: Any, name: str) -> Tensor:
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
        raise _shape_error("lengths", lengths.shape, f"{tuple(batch)}, one number for each cloud")
    if lengths.device.type == "meta" and device.type != "meta":
        raise ValueError(f"lengths: expected numbers on {device}, got a meta tensor without values")
    lengths = lengths.to(device=device, dtype=torch.int64)
    if limit is not None and device.type == "cpu" and not _traced():
        check_lengths_range(lengths, limit)
    return lengths


def _traced() -> bool:
    return torch.compiler.is_compiling() or _transforms_active()


@functools.cache
def _warn_reference(device: str) -> None:
    warnings.warn(
        f"tsloss_fast has no kernel for device '{device}': using the plain torch implementation "
        "(tsloss_fast.reference), which is exact but slow",
        stacklevel=4,
    )


def _has_kernel(device: torch.device) -> bool:
    """Whether the operators run there; for CUDA without kernels a clear error instead."""
    if device.type in ("cpu", "meta"):
        return True
    if device.type == "cuda" and not _core.has_cuda and torch.version.hip is None:
        raise RuntimeError(
            "points are on a CUDA device, but this build of tsloss_fast has CPU kernels only; call "
            "h0_persistence(points.cpu()), or tsloss_fast.reference.h0_persistence(points) for the "
            "slow plain-torch implementation on the device"
        )
    return False


_F = TypeVar("_F", bound=Callable[..., Any])


def _memory_errors(function: _F) -> _F:
    """torch reports memory that cannot be had as RuntimeError; Python has MemoryError for it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            text = str(error)
            if "DefaultCPUAllocator" in text or "Storage size calculation overflowed" in text:
                raise MemoryError(text) from error
            raise

    return wrapped  # type: ignore[return-value]


@_memory_errors
def h0_persistence(
    points: Tensor | Array,
    metric: str = "euclidean",
    lengths: Lengths | None = None,
    check_finite: bool | None = None,
) -> H0Persistence:
    """0-dimensional Vietoris-Rips persistence of point clouds, indexed by diameter.

    Of the N bars of a cloud of N points, all born at 0, one is infinite; the others die at the edge
    lengths of a minimum spanning tree, each at exactly one critical edge (i, j). The gradient of a
    death d reaches those two points alone: (x_i - x_j)/d at i and its negative at j, and 0 where
    d = 0.

    Args:
        points: (N, D) or (..., N, D); float16, bfloat16, float32 or float64; any strides. Half
            types are computed in float32 and give float32 deaths.
        metric: "euclidean", "sqeuclidean", "cosine" (1 - cos) or "manhattan".
        lengths: (...) integers: the valid points of each cloud of a padded batch. The padding is
            never looked at.
        check_finite: whether NaN, infinity, a zero vector under "cosine" or an overflowing distance
            is an error. Default: yes on the CPU. With False the deaths of such a cloud are NaN
            (infinite where a distance overflows), and no other cloud is touched.

    Returns:
        deaths (..., N-1) ascending and edges (..., N-1, 2) int64, ordered by (death, smaller index,
        larger index). N = 0 and N = 1 give no bars; D = 0 is N coincident points. Zero-length bars
        are kept. Padded deaths are 0, padded edges -1. NumPy in, NumPy out (without gradient).

    Raises:
        TypeError: for another type of input or number.
        ValueError: for a wrong shape, an unknown metric, lengths out of range, or the problems that
            `check_finite` looks for; the message names the first bad cloud.
        MemoryError: if memory cannot be had.
        RuntimeError: for a CUDA tensor where the package was built without CUDA kernels.

    Distances are direct differences, so the relative error of a death is about 1e-7 (float32) at
    any offset of the cloud, and the result is the same to the last bit for any number of threads,
    batch position and strides. O(N² D) time; O(N D) memory a cloud, and N² numbers up to N = 8192.

    Source: the deaths are the single-linkage heights, by Kruskal's algorithm read as a filtration;
    see Edelsbrunner & Harer, Computational Topology, VII.1. Gradient: Hofer et al.,
    Connectivity-Optimized Representation Learning via Persistent Homology, ICML 2019.
    """
    x = _as_tensor(points, "points")
    if metric not in _ops.METRICS:
        raise ValueError(f"metric: expected one of {', '.join(_ops.METRICS)}, got {metric!r}")
    if x.dim() < 2:
        raise _shape_error("points", x.shape, "(N, D) or (..., N, D)")
    batch = x.shape[:-2]
    checked = check_lengths(lengths, batch, x.device)
    if x.dtype in _HALF:
        x = x.float()
    if not _has_kernel(x.device):
        from . import reference

        _warn_reference(x.device.type)
        return reference.h0_persistence(x, metric, checked, check_finite)
    clouds, flat_lengths = _flatten_batch(x, checked)
    arguments = (clouds, flat_lengths, metric, check_finite is not False)
    if torch.compiler.is_compiling():
        deaths, edges = _apply(_H0Transformed if _transforms_active() else _H0, arguments)
    elif _transforms_active() or _forward_mode():
        deaths, edges = _apply(_H0Forward, arguments)
    elif clouds.requires_grad and torch.is_grad_enabled():
        deaths, edges = _apply(_H0, arguments)
    else:
        deaths, edges = _ops.h0(*arguments)
    return _result(deaths, edges, batch, isinstance(points, np.ndarray))


@_memory_errors
def h0_persistence_from_distances(
    distances: Tensor | Array,
    lengths: Lengths | None = None,
    check_finite: bool | None = None,
) -> H0Persistence:
    """0-dimensional persistence of clouds given by their distances, for any other metric.

    The gradient of each death goes to both entries of its critical edge, (i, j) and (j, i), half
    each.

    Args:
        distances: (N, N) or (..., N, N), symmetric, >= 0, with a zero diagonal; the triangle
            inequality is not needed. Entries may differ from their mirror image by rounding (1e-10
            relative in float64, 1e-5 in float32); their mean is used.
        lengths: (...) integers: the valid points of each cloud of a padded batch.
        check_finite: as in `h0_persistence`; the other checks are always made.

    Returns:
        deaths (..., N-1) and edges (..., N-1, 2), as `h0_persistence`.

    Raises:
        TypeError, ValueError: as `h0_persistence`; ValueError also for entries that are negative,
            asymmetric, or non-zero on the diagonal, naming the first.

    O(N²) time, O(N) memory.
    """
    d = _as_tensor(distances, "distances")
    if d.dim() < 2 or d.shape[-1] != d.shape[-2]:
        raise _shape_error("distances", d.shape, "(N, N) or (..., N, N)")
    batch = d.shape[:-2]
    checked = check_lengths(lengths, batch, d.device)
    tolerance = _SYMMETRY[d.dtype]
    if d.dtype in _HALF:
        d = d.float()
    if not _has_kernel(d.device):
        from . import reference

        _warn_reference(d.device.type)
        return reference.h0_persistence_from_distances(d, checked, check_finite)
    matrices, flat_lengths = _flatten_batch(d, checked)
    arguments = (matrices, flat_lengths, tolerance, check_finite is not False)
    if _transforms_active():
        deaths, edges = _apply(_H0DistancesTransformed, arguments)
    elif matrices.requires_grad and torch.is_grad_enabled():
        deaths, edges = _apply(_H0Distances, arguments)
    else:
        deaths, edges = _ops.h0_from_distances(*arguments)
    return _result(deaths, edges, batch, isinstance(distances, np.ndarray))


def _apply(function: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return function.apply(*arguments)  # type: ignore[no-any-return]


def _forward_mode() -> bool:
    """Whether a torch.autograd.forward_ad level is open (tensors may carry tangents)."""
    return torch.autograd.forward_ad._current_level >= 0


def _flatten_batch(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(..., N, D) -> (B, N, D), and lengths (...) -> (B,)."""
    if x.dim() == 2:
        x = x.unsqueeze(0)
    elif x.dim() > 3:
        x = x.flatten(0, -3)
    return x, None if lengths is None else lengths.reshape(-1)


def _result(deaths: Any, edges: Any, batch: Sequence[int], as_numpy: bool) -> H0Persistence:
    if len(batch) != 1:
        deaths = deaths.reshape(*batch, *deaths.shape[1:])
        edges = edges.reshape(*batch, *edges.shape[1:])
    if as_numpy:
        return H0Persistence(deaths.numpy(), edges.numpy())
    return H0Persistence(deaths, edges)
