"""The operators on the CPU, and what else of the native core works on CPU tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _core
from ._native import (
    DTYPES,
    METRICS,
    check_lengths_range,
    empty_bars,
    offsets_of_bars,
    plain_readable,
    pointer,
    raise_finding,
    readable,
    shape_error,
    still_readable,
)


def _prepare(t: Tensor, name: str, ndim: int) -> tuple[Tensor, int]:
    """A plain contiguous float32/float64 CPU tensor and its dtype code."""
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {t.dtype}")
    if t.dim() != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {tuple(t.shape)}")
    return readable(t, name), DTYPES[t.dtype]


def _prepare_lengths(lengths: Tensor | None, batch: int, points: int) -> Tensor | None:
    if lengths is None:
        return None
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths: expected shape ({batch},), got {tuple(lengths.shape)}")
    lengths = readable(lengths.to(torch.int64), "lengths")
    check_lengths_range(lengths, points)
    return lengths


def h0(
    points: Tensor, lengths: Tensor | None, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    points, _ = _prepare(points, "points", 3)
    return h0_direct(points, lengths, metric, check_finite)


def h0_direct(
    points: Tensor, lengths: Tensor | None, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    """The operator without the dispatcher, which takes half as long as a small cloud.

    points (..., N, D): an ordinary dense float32 or float64 CPU tensor; lengths of shape (...).
    """
    # `plain_readable`, written out for most points: its calls take 1 % of a small cloud's time.
    first = points.storage_offset() * points.itemsize
    if not points.is_contiguous() or points.untyped_storage().nbytes() < first + points.nbytes:
        points = plain_readable(points, "points")
    dtype = points.dtype
    *batch_shape, n, dim = points.shape
    batch = math.prod(batch_shape)
    bars = max(n - 1, 0)
    if lengths is not None:
        lengths = _prepare_lengths(lengths.reshape(-1), batch, n)
    deaths = points.new_empty((*batch_shape, bars))
    edges = points.new_empty((*batch_shape, bars, 2), dtype=torch.int64)
    finding = _core.h0_forward(
        DTYPES[dtype],
        METRICS[metric],
        points.data_ptr(),
        0 if lengths is None else lengths.data_ptr(),
        deaths.data_ptr(),
        edges.data_ptr(),
        batch,
        n,
        dim,
        torch.get_num_threads(),
    )
    if finding[0] and check_finite:
        raise_finding(finding, batch, "points", dtype)
    return deaths, edges


def h0_backward(
    grad_deaths: Tensor, points: Tensor, deaths: Tensor, edges: Tensor, metric: str
) -> Tensor:
    points, _ = _prepare(points, "points", 3)
    return h0_backward_direct(grad_deaths, points, deaths, edges, metric)


def h0_backward_direct(
    grad_deaths: Tensor, points: Tensor, deaths: Tensor, edges: Tensor, metric: str
) -> Tensor:
    """The operator without the dispatcher; shapes as `h0_direct` gives them."""
    points = still_readable(points, "points")
    *batch_shape, n, dim = points.shape
    bars = max(n - 1, 0)
    shape = (*batch_shape, bars)
    grad_deaths, deaths, edges = grad_deaths.contiguous(), deaths.contiguous(), edges.contiguous()
    grad_points = torch.empty_like(points)
    _core.h0_backward(
        DTYPES[points.dtype],
        METRICS[metric],
        pointer(grad_deaths, "grad_deaths", shape, points.dtype),
        points.data_ptr(),
        pointer(deaths, "deaths", shape, points.dtype),
        pointer(edges, "edges", (*shape, 2), torch.int64),
        grad_points.data_ptr(),
        math.prod(batch_shape),
        n,
        dim,
        torch.get_num_threads(),
    )
    return grad_points


def check_offsets(offsets: Tensor, points: int) -> None:
    """ValueError unless offsets (B+1,) ascend from 0 to the number of `points`."""
    if offsets.dim() != 1 or not offsets.numel():
        raise shape_error("offsets", offsets.shape, "(B+1,), where each cloud begins, and T")
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != points:
        raise ValueError(
            f"offsets: expected to begin with 0 and to end with {points} (the points of all "
            f"clouds), got {first} and {last}"
        )
    descents = (offsets.diff() < 0).nonzero()
    if descents.numel():
        b = int(descents[0])
        raise ValueError(
            f"offsets: expected ascending numbers, got {int(offsets[b])} and then "
            f"{int(offsets[b + 1])} for cloud {b}"
        )


def _prepare_offsets(offsets: Tensor, points: int, bars: int) -> tuple[Tensor, Tensor, int]:
    """Return offsets (B+1,) of points and of bars that the core can use, and the most points of a
    cloud."""
    offsets = readable(offsets.to("cpu", torch.int64), "offsets")
    check_offsets(offsets, points)
    bar_offsets = offsets_of_bars(offsets)
    if int(bar_offsets[-1]) != bars:
        raise ValueError(f"bars: expected {int(bar_offsets[-1])} for these offsets, got {bars}")
    return offsets, bar_offsets, int(offsets.diff().max()) if len(offsets) > 1 else 0


def h0_varlen(
    points: Tensor, offsets: Tensor, bars: int, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    """Deaths (M,) and edges (M, 2) of clouds of different sizes in points (T, D).

    Cloud b has the points from offsets[b] to offsets[b + 1]; `bars` is M.
    """
    points, code = _prepare(points, "points", 2)
    offsets, bar_offsets, most = _prepare_offsets(offsets, points.shape[0], bars)
    batch = len(offsets) - 1
    deaths = points.new_empty((bars,))
    edges = points.new_empty((bars, 2), dtype=torch.int64)
    finding = _core.h0_forward(
        code,
        METRICS[metric],
        points.data_ptr(),
        0,
        deaths.data_ptr(),
        edges.data_ptr(),
        batch,
        most,
        points.shape[1],
        torch.get_num_threads(),
        offsets.data_ptr(),
        bar_offsets.data_ptr(),
    )
    if finding[0] and check_finite:
        raise_finding(finding, batch, "points", points.dtype, options=("check_finite",))
    return deaths, edges


def h0_varlen_backward(
    grad_deaths: Tensor,
    points: Tensor,
    deaths: Tensor,
    edges: Tensor,
    offsets: Tensor,
    metric: str,
) -> Tensor:
    """The gradient (T, D) at the points of `h0_varlen`."""
    points, code = _prepare(points, "points", 2)
    grad_deaths, deaths, edges = grad_deaths.contiguous(), deaths.contiguous(), edges.contiguous()
    bars = deaths.numel()
    offsets, bar_offsets, most = _prepare_offsets(offsets, points.shape[0], bars)
    grad_points = torch.empty_like(points)
    _core.h0_backward(
        code,
        METRICS[metric],
        pointer(grad_deaths, "grad_deaths", (bars,), points.dtype),
        points.data_ptr(),
        pointer(deaths, "deaths", (bars,), points.dtype),
        pointer(edges, "edges", (bars, 2), torch.int64),
        grad_points.data_ptr(),
        len(offsets) - 1,
        most,
        points.shape[1],
        torch.get_num_threads(),
        offsets.data_ptr(),
        bar_offsets.data_ptr(),
    )
    return grad_points


def scale_free_loss(
    deaths: Tensor,
    lengths: Tensor | None,
    connectivity: float,
    redundancy: float,
    rho: float,
) -> tuple[Tensor, Tensor, int]:
    """The mean over clouds of the scale-free terms of deaths (..., M), its derivatives (..., M),
    and the number of clouds whose bars are all 0; see csrc/tsloss.h."""
    loss = deaths.new_empty(())
    grad = torch.empty_like(deaths)
    bars = deaths.shape[-1]
    batch = math.prod(deaths.shape[:-1])
    if lengths is not None:
        lengths = lengths.reshape(-1).contiguous()
    coincident = _core.scale_free_loss(
        DTYPES[deaths.dtype],
        deaths.data_ptr(),
        0 if lengths is None else pointer(lengths, "lengths", (batch,), torch.int64),
        connectivity,
        redundancy,
        rho,
        loss.data_ptr(),
        grad.data_ptr(),
        batch,
        bars + 1,
    )
    return loss, grad, coincident


def h0_from_distances(
    distances: Tensor, lengths: Tensor | None, symmetry_tolerance: float, check_finite: bool
) -> tuple[Tensor, Tensor]:
    distances, code = _prepare(distances, "distances", 3)
    batch, n = distances.shape[:2]
    lengths = _prepare_lengths(lengths, batch, n)
    deaths, edges = empty_bars(distances)
    bars = deaths.shape[1]
    finding = _core.h0_from_distances(
        code,
        pointer(distances, "distances", (batch, n, n), distances.dtype),
        0 if lengths is None else pointer(lengths, "lengths", (batch,), torch.int64),
        symmetry_tolerance,
        pointer(deaths, "deaths", (batch, bars), distances.dtype),
        pointer(edges, "edges", (batch, bars, 2), torch.int64),
        batch,
        n,
        torch.get_num_threads(),
    )
    if finding[0] and (check_finite or finding[0] != 1):
        raise_finding(finding, batch, "distances", distances.dtype)
    return deaths, edges


def single_linkage(edges: Tensor) -> Tensor:
    """Merges (B, N-1, 3) int64 of the critical edges (B, N-1, 2) of whole clouds; see
    csrc/tsloss.h."""
    edges = readable(edges, "edges")
    if bool((edges < 0).any()):
        raise ValueError(
            "single_linkage: the clouds are padded (edges contain -1); expected whole clouds. "
            "Slice each one to its lengths[b] - 1 bars first"
        )
    batch, bars, _ = edges.shape
    merges = edges.new_empty((batch, bars, 3))
    _core.single_linkage(
        pointer(edges, "edges", (batch, bars, 2), torch.int64),
        merges.data_ptr(),
        batch,
        bars + 1,
    )
    return merges


def pairwise_keys(points: Tensor, metric: str = "euclidean") -> Tensor:
    """The keys (B, N, N) that the tree is built on, from points (B, N, D); for tests."""
    points, code = _prepare(points, "points", 3)
    batch, n, dim = points.shape
    keys = points.new_zeros((batch, n, n))
    _core.pairwise_keys(
        code,
        METRICS[metric],
        pointer(points, "points", (batch, n, dim), points.dtype),
        pointer(keys, "keys", (batch, n, n), points.dtype),
        batch,
        n,
        dim,
        torch.get_num_threads(),
    )
    return keys


def filter_keeps(points: Tensor, factor: float = 1.0) -> Tensor:
    """Whether the low-precision filter keeps each pair (N, N) of points (N, D) if the bound is its
    own squared distance times ``factor``; for tests."""
    points, code = _prepare(points, "points", 2)
    n, dim = points.shape
    kept = points.new_zeros((n, n), dtype=torch.uint8)
    _core.filter_keeps(
        code,
        pointer(points, "points", (n, dim), points.dtype),
        factor,
        pointer(kept, "kept", (n, n), torch.uint8),
        n,
        dim,
    )
    return kept.bool()
