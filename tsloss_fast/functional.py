"""0-dimensional persistence of point clouds as differentiable PyTorch functions."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _autograd, _core, _routing
from ._batch import (
    Array,
    Batch,
    Lengths,
    as_integers,
    as_tensor,
    check_metric,
    distances_batch,
    may_look,
    offsets_of_bars,
    points_batch,
    ragged_batch,
    raise_memory_error,
    shape_error,
    type_of_deaths,
)

# A progress bar for calls shorter than this would be gone before it is read.
_PATIENCE_SECONDS = 2.0
_Found = TypeVar("_Found")


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


class H0PersistenceVarlen(NamedTuple):
    """The finite parts of the 0-dimensional barcodes of B clouds.

    ``deaths`` (M,) and ``edges`` (M, 2), int64: those of cloud b stand from ``offsets[b]`` to
    ``offsets[b + 1]``, deaths ascending, edges with the numbers of the points within their cloud,
    smaller first. ``offsets`` (B+1,) int64. Tensors, or NumPy arrays where an array was given.
    Units as in `H0Persistence`; `h0_persistence_varlen` has an example.
    """

    deaths: Any
    edges: Any
    offsets: Any


def given_barcode(h0: Any, points: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the deaths (..., N-1) and edges (..., N-1, 2) of a barcode that a user passes beside
    points of shape (..., N, D), as tensors.

    Raises:
        TypeError: `h0` does not consist of deaths and edges.
        ValueError: `h0` belongs to points of another shape.
    """
    if not isinstance(h0, tuple) or len(h0) != 2:
        raise TypeError(
            f"h0: got {type(h0).__name__}, expected what h0_persistence returns for these points; "
            "without h0 the barcode is computed here"
        )
    deaths, edges = as_tensor(h0[0], "h0.deaths"), as_integers(h0[1], "h0.edges")
    bars = (*points[:-2], max(points[-2] - 1, 0))
    for name, found, expected in (("deaths", deaths, bars), ("edges", edges, (*bars, 2))):
        if tuple(found.shape) != expected:
            raise ValueError(
                f"h0.{name}: got shape {tuple(found.shape)}, expected {expected} for points of "
                f"shape {tuple(points)}; pass what h0_persistence returns for these points, or "
                "leave h0 out"
            )
    return deaths, edges


_core.use_torch(h0_persistence=H0Persistence)
for _result in (H0Persistence, H0PersistenceVarlen):
    # So that `torch.export.save` writes them, and `torch.load(weights_only=True)` reads them.
    torch.utils._pytree._register_namedtuple(
        _result, serialized_type_name=f"tsloss_fast.{_result.__name__}"
    )
    torch.serialization.add_safe_globals([_result])


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
    clouds need a small part; O(N D) memory a cloud, and N² numbers below 1024 points. In up to four
    dimensions, except under "cosine", clouds of a thousand points or more take about O(N log N)
    time. In 5 to 47 dimensions, and under "manhattan" in all above four, every distance is
    computed. Ctrl-C stops a long call; `tsloss_fast.progress` shows how far it is. If another
    thread writes to the points during a call, as in training without locks, the deaths are
    undefined, but the edges are still a spanning tree of the points.

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
    try:
        if lengths is None and check_finite is None and not is_compiling():
            # The same by one function of the core, since all that the general way does for such a
            # call takes longer than a small cloud.
            found: H0Persistence | bool | None = _core.everyday_h0(points, metric)
            if found is True:
                return H0Persistence(*_autograd.differentiable_h0(points, metric))  # type: ignore[arg-type]
            if found:
                return found
        batch = points_batch(points, metric, lengths, check_finite)
        deaths, edges = _autograd.h0(batch)
    except (RuntimeError, MemoryError) as error:
        raise_memory_error(error, "h0_persistence", points)
    if batch.offsets is not None:  # a nested tensor
        bars = offsets_of_bars(batch.offsets).to(deaths.device)
        jagged = torch.nested.nested_tensor_from_jagged
        return H0Persistence(jagged(deaths, bars), jagged(edges, bars))
    return _like(points, H0Persistence(deaths, edges))


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
    try:
        found = _autograd.h0(distances_batch(distances, lengths, check_finite))
    except (RuntimeError, MemoryError) as error:
        raise_memory_error(error, "h0_persistence_from_distances", distances)
    return _like(distances, H0Persistence(*found))


def h0_persistence_varlen(
    points: Tensor | Array,
    offsets: Tensor | Array | Sequence[int],
    metric: str = "euclidean",
    check_finite: bool | None = None,
) -> H0PersistenceVarlen:
    """0-dimensional Vietoris-Rips persistence of clouds of different sizes, without padding.

    Deaths, edges and gradients are those of `h0_persistence` on each cloud.

    Args:
        points: (T, D), the points of all clouds one after the other; types as `h0_persistence`.
        offsets: (B+1,) integers, ascending, from 0 to T: cloud b has the points from offsets[b] to
            offsets[b + 1]. A cloud may be empty.
        metric, check_finite: as `h0_persistence`.

    Returns:
        deaths (M,), edges (M, 2) and their offsets (B+1,), where a cloud of n points has
        max(n - 1, 0) bars.

    Raises:
        TypeError, ValueError, MemoryError, RuntimeError: as `h0_persistence`; ValueError also for
            offsets that do not ascend from 0 to T.

    On the CPU large clouds are computed by all threads together, small ones by one thread each,
    the largest first. The CUDA kernels take clouds of similar size padded to one batch, and the
    call waits for the device. O(Σ n² D) time. `h0_persistence` takes a jagged nested tensor.
    Source: as `h0_persistence`.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.5]])
        >>> deaths, edges, offsets = h0_persistence_varlen(points, [0, 3, 5])
        >>> deaths.tolist(), offsets.tolist()
        ([1.0, 2.0, 0.5], [0, 2, 3])
        >>> edges[offsets[1] : offsets[2]].tolist()  # of the second cloud, by its own numbers
        [[0, 1]]
    """
    try:
        batch: Batch = ragged_batch(points, offsets, metric, check_finite)
        deaths, edges = _autograd.h0(batch)
    except (RuntimeError, MemoryError) as error:
        raise_memory_error(error, "h0_persistence_varlen", points)
    assert batch.offsets is not None
    bars = offsets_of_bars(batch.offsets).to(deaths.device)
    return _like(points, H0PersistenceVarlen(deaths, edges, bars))


def edge_lengths(
    points: Tensor | Array, edges: Tensor | Array, metric: str = "euclidean"
) -> Tensor | Array:
    """Lengths of given edges, differentiable any number of times.

    Args:
        points: (N, D) or (..., N, D); types as `h0_persistence`.
        edges: (..., M, 2) integers in [0, N): the two points of each edge, in any order. Both are
            -1 for padding.
        metric: as `h0_persistence`.

    Returns:
        (..., M), float32 for half types; 0 for padding. The gradient of a length of 0 is 0. NumPy
        in, NumPy out.

    Raises:
        TypeError: for another type of input or number.
        ValueError: for shapes that do not fit, an unknown metric, and, on the CPU outside of
            tracers, numbers of points that there are not.

    The deaths of `h0_persistence` are the lengths of its edges, up to rounding: so a barcode that
    was found once gives the lengths of the same edges as the points move. O(M D) time and memory.
    Source: as the gradient of `h0_persistence`.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
        >>> edge_lengths(points, torch.tensor([[0, 1], [2, 0]]), "manhattan").tolist()
        [7.0, 8.0]
    """
    x, ends = as_tensor(points, "points"), as_integers(edges, "edges")
    check_metric(metric)
    if x.dim() < 2:
        raise shape_error("points", x.shape, "(N, D) or (..., N, D)")
    if ends.shape[-1:] != (2,) or ends.shape[:-2] != x.shape[:-2] or ends.dim() != x.dim():
        raise shape_error("edges", ends.shape, f"{(*x.shape[:-2], 'M', 2)} beside these points")
    padded = True  # perhaps
    if ends.is_cpu and ends.numel() and may_look(ends):
        least, most = (end.item() for end in ends.aminmax())
        padded = least < 0
        if padded or most >= x.shape[-2]:
            padding = ends < 0
            outside = (ends < -1) | (ends >= x.shape[-2])
            bad = (outside.any(-1) | (padding[..., 0] != padding[..., 1])).nonzero()
            if len(bad):
                raise ValueError(
                    f"edges: expected numbers from 0 to {x.shape[-2] - 1}, or -1 at both ends of "
                    f"an edge for padding, got {tuple(ends[tuple(bad[0])].tolist())} for "
                    f"{x.shape[-2]} points"
                )
    if 0 in x.shape:
        wide = x.to(type_of_deaths(x.dtype)).sum() * 0
        return _like(points, wide.expand(ends.shape[:-1]))
    wide = x.to(type_of_deaths(x.dtype))
    return _like(points, _routing.edge_lengths(wide, ends.to(x.device), metric, padded))


def _like(given: Any, found: _Found) -> _Found:
    """The result as NumPy arrays where an array was given."""
    if not isinstance(given, np.ndarray):
        return found
    if isinstance(found, Tensor):
        return found.numpy()  # type: ignore[return-value]
    return type(found)(*(t.numpy() for t in found))  # type: ignore[attr-defined]


@contextlib.contextmanager
def progress(callback: Callable[[float], Any] | None = None) -> Iterator[None]:
    """Within this context, long calls made by this thread tell how far they are.

    Args:
        callback: is called about ten times a second with the fraction of the work that is done, in
            [0, 1]; an exception it raises stops the call and reaches the caller. Default: a bar on
            the standard error output (by tqdm, if it is installed) once a call has taken two
            seconds.

    The fraction is an estimate. Short calls say nothing. Ctrl-C stops a call with or without this.

    Example:
        >>> import torch
        >>> from tsloss_fast import h0_persistence
        >>> points = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
        >>> with progress():
        ...     h0 = h0_persistence(points)
        >>> len(h0.deaths)
        2999
    """
    bar = _Bar() if callback is None else None
    _core.set_progress(callback or bar)
    try:
        yield
    finally:
        _core.set_progress(None)
        if bar is not None:
            bar.close()


class _Bar:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = 1.0
        self._bar: Any = None

    def __call__(self, fraction: float) -> None:
        if fraction < self._last:  # another call
            self._start = time.monotonic()
        self._last = fraction
        # Daemons have no standard error output, and nothing to show there.
        shown = sys.stderr is not None
        if self._bar is None and shown and time.monotonic() - self._start > _PATIENCE_SECONDS:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                self._bar = _Percent()
            else:
                self._bar = tqdm(total=100, desc="tsloss_fast", unit="%", leave=False)
        if self._bar is not None:
            self._bar.n = round(100 * fraction)
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Percent:
    """A percentage in one line, for environments without tqdm."""

    n = 0

    def refresh(self) -> None:
        sys.stderr.write(f"\rtsloss_fast: {self.n}%")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
