"""0-dimensional persistence of point clouds as differentiable PyTorch functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _autograd
from ._inputs import (
    HALF,
    Array,
    Lengths,
    as_tensor,
    can_bypass_dispatcher,
    check_lengths,
    check_metric,
    looks,
    memory_errors,
    register_result,
    shape_error,
    takes_halves,
)
from ._native import METRICS

# How much an entry of a distance matrix may differ from its mirror image, relative to the larger.
_SYMMETRY = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}


class H0Persistence(NamedTuple):
    """The finite part of a 0-dimensional barcode.

    ``deaths`` (..., N-1): ascending; all births are 0. ``edges`` (..., N-1, 2), int64: the critical
    edge of each death, smaller index first. Padding: deaths 0, edges -1. Tensors, or NumPy arrays
    where an array was given. Deaths are in the units of the metric: those of the points, their
    squares under "sqeuclidean", none under "cosine".

    Example:
        >>> h0 = h0_persistence(torch.tensor([[0.0], [1.0], [3.0]]))
        >>> h0.deaths.tolist(), h0.edges.tolist()
        ([1.0, 2.0], [[0, 1], [1, 2]])
    """

    deaths: Any
    edges: Any


register_result(H0Persistence)


@memory_errors
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
            types are computed in float32 and give float32 deaths. Or a nested tensor (B, n*, D) of
            jagged layout, whose deaths (B, (n-1)*) and edges (B, (n-1)*, 2) are jagged too. A
            `DTensor` is gathered; `tsloss_fast.distributed` leaves it where it is.
        metric: "euclidean", "sqeuclidean", "cosine" (1 - cos) or "manhattan".
        lengths: (...) integers: the valid points of each cloud of a padded batch. The padding is
            never looked at.
        check_finite: whether NaN, infinity, a zero vector under "cosine" or an overflowing distance
            is an error. Default: yes, but for the CUDA kernels no, where to look is to wait for the
            device. Unchecked, the deaths of such a cloud are NaN (infinite where a distance
            overflows), no other cloud is touched, and for the CUDA kernels `lengths` out of range
            count as the nearest that is in range.

    Returns:
        deaths (..., N-1) ascending and edges (..., N-1, 2) int64, ordered by (death, smaller index,
        larger index). N = 0 and N = 1 give no bars; D = 0 is N coincident points. Zero-length bars
        are kept. Padded deaths are 0, padded edges -1. NumPy in, NumPy out (without gradient).

    Raises:
        TypeError: for another type of input or number.
        ValueError: for a wrong shape, an unknown metric, lengths out of range, or the problems that
            `check_finite` looks for; the message names the first bad cloud.
        MemoryError: if memory cannot be had.
        RuntimeError: while a CUDA graph is captured, where the package was built without CUDA
            kernels.

    Distances are direct differences, decided in double, so the relative error of a death is about
    1e-7 (float32) at any offset of the cloud, and the result is the same to the last bit for any
    number of threads, batch position, strides and instruction set. O(N² D) time, of which large
    clouds need a small part; O(N D) memory a cloud, and N² numbers below 1024 points. Under
    "manhattan", and in low dimensions, all distances are computed. Ctrl-C stops a long call;
    `tsloss_fast.progress` shows how far it is. If another thread writes to the points during a
    call, as in training without locks, the deaths are undefined, but the edges are still a
    spanning tree of the points.

    On a device for which the build has no kernels (CUDA in a plain installation, MPS, XPU, ROCm)
    the same result is computed through a copy on the CPU, with one warning that says what is
    copied: each call waits for the device, and cannot be captured in a CUDA graph. Derivatives
    beyond the first are computed on the device, by the operations that torch has there.

    Source: csrc/README.md has the algorithm. The deaths are the single-linkage heights, by
    Kruskal's algorithm read as a filtration; see Edelsbrunner & Harer, Computational Topology,
    VII.1. Gradient: Hofer et al., Connectivity-Optimized Representation Learning via
    Persistent Homology, ICML 2019.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [15.0, 10.0]])
        >>> points = points.requires_grad_()
        >>> deaths, edges = h0_persistence(points)
        >>> deaths.tolist()
        [1.0, 5.0, 13.0]
        >>> edges.tolist()
        [[1, 2], [0, 1], [2, 3]]
        >>> deaths[1].backward()  # reaches points 0 and 1
        >>> points.grad
        tensor([[-0.6000, -0.8000],
                [ 0.6000,  0.8000],
                [ 0.0000,  0.0000],
                [ 0.0000,  0.0000]])
    """
    if (
        lengths is None
        and can_bypass_dispatcher(points)
        and points.dim() >= 2  # type: ignore[union-attr]
        and metric in METRICS
    ):
        return H0Persistence(*_autograd.h0_direct(points, None, metric, check_finite is not False))  # type: ignore[arg-type]
    if getattr(points, "is_nested", False):
        from .ragged import h0_persistence_nested

        if lengths is not None:
            raise ValueError("lengths: a nested tensor has its own; leave them out")
        return h0_persistence_nested(points, metric, check_finite)
    x = as_tensor(points, "points")
    check_metric(metric)
    if x.dim() < 2:
        raise shape_error("points", x.shape, "(N, D) or (..., N, D)")
    batch = x.shape[:-2]
    checked = check_lengths(lengths, batch, x.device)
    if x.dtype in HALF and not takes_halves(x.device):
        x = x.float()
    check = looks(check_finite, x.device)
    if can_bypass_dispatcher(x):
        h0 = H0Persistence(*_autograd.h0_direct(x, checked, metric, check))
        return _as_numpy(h0) if isinstance(points, np.ndarray) else h0
    clouds, flat_lengths = _flatten_batch(x, checked)
    deaths, edges = _autograd.h0(clouds, flat_lengths, metric, check)
    return _result(deaths, edges, batch, isinstance(points, np.ndarray))


@memory_errors
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
        check_finite: as in `h0_persistence`; the CUDA kernels make the other checks with it (else
            deaths are NaN), and the CPU always. With False an infinite entry is a missing edge of a
            graph: bars that no finite entry ends have infinite deaths, as in GUDHI and ripser, and
            their edges are the first by (smaller index, larger index) that join components. So a
            sparse matrix becomes a dense one that is filled with infinity, with a zero diagonal.

    Returns:
        deaths (..., N-1) and edges (..., N-1, 2), as `h0_persistence`.

    Raises:
        TypeError, ValueError: as `h0_persistence`; ValueError also for entries that are negative,
            asymmetric, or non-zero on the diagonal, naming the first.

    O(N²) time, O(N) memory beside the matrix. Source: as `h0_persistence`.

    Example:
        >>> distances = torch.tensor([[0.0, 2.0, 5.0], [2.0, 0.0, 7.0], [5.0, 7.0, 0.0]])
        >>> deaths, edges = h0_persistence_from_distances(distances)
        >>> deaths.tolist(), edges.tolist()
        ([2.0, 5.0], [[0, 1], [0, 2]])
    """
    d = as_tensor(distances, "distances")
    if d.dim() < 2 or d.shape[-1] != d.shape[-2]:
        raise shape_error("distances", d.shape, "(N, N) or (..., N, N)")
    batch = d.shape[:-2]
    checked = check_lengths(lengths, batch, d.device)
    tolerance = _SYMMETRY[d.dtype]
    if d.dtype in HALF:
        d = d.float()
    matrices, flat_lengths = _flatten_batch(d, checked)
    check = looks(check_finite, d.device)
    deaths, edges = _autograd.h0_from_distances(matrices, flat_lengths, tolerance, check)
    return _result(deaths, edges, batch, isinstance(distances, np.ndarray))


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
    h0 = H0Persistence(deaths, edges)
    return _as_numpy(h0) if as_numpy else h0


def _as_numpy(h0: H0Persistence) -> H0Persistence:
    return H0Persistence(h0.deaths.numpy(), h0.edges.numpy())
