"""0-dimensional persistence of many clouds of different sizes, one after the other, without
padding."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _autograd, _native
from ._inputs import (
    HALF,
    Array,
    as_integers,
    as_tensor,
    check_metric,
    has_cuda_kernels,
    looks,
    memory_errors,
    register_result,
    shape_error,
    takes_halves,
)
from ._native import offsets_of_bars
from ._ops_cpu import check_offsets
from .functional import H0Persistence, h0_persistence

# The CUDA kernels take batches alone, so clouds are padded to the largest of their kind: up to so
# many points.
_KINDS = (8, 16, 32, 64, 100, 200, 512, 1024, 2048, 4096, 8192, 16384, 32768)


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


register_result(H0PersistenceVarlen)


@memory_errors
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
    the largest first. The CUDA kernels take clouds of similar size padded to one batch, and offsets
    on the device are waited for. O(Σ n² D) time. `h0_persistence` takes a jagged nested tensor.
    Source: as `h0_persistence`.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.5]])
        >>> deaths, edges, offsets = h0_persistence_varlen(points, [0, 3, 5])
        >>> deaths.tolist(), offsets.tolist()
        ([1.0, 2.0, 0.5], [0, 2, 3])
        >>> edges[offsets[1] : offsets[2]].tolist()  # of the second cloud, by its own numbers
        [[0, 1]]
    """
    x = as_tensor(points, "points")
    check_metric(metric)
    if x.dim() != 2:
        raise shape_error("points", x.shape, "(T, D), the points of all clouds in a row")
    starts = _on_cpu(offsets)
    total, bars = _bars(offsets, starts), offsets_of_bars(starts)
    check = looks(check_finite, x.device)
    if x.dtype in HALF and not takes_halves(x.device):
        x = x.float()
    if has_cuda_kernels(x.device):
        check_offsets(starts, x.shape[0])
        deaths, edges = _by_kinds(x, starts, bars, metric)
        if check:
            _check_clouds(x, starts, deaths, bars, metric)
    else:
        deaths, edges = _autograd.h0_varlen(x, starts, total, metric, check)
    if isinstance(points, np.ndarray):
        return H0PersistenceVarlen(deaths.numpy(), edges.numpy(), bars.numpy())
    return H0PersistenceVarlen(deaths, edges, bars.to(x.device, copy=True))


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


def h0_persistence_nested(points: Any, metric: str, check_finite: bool | None) -> H0Persistence:
    """Return jagged deaths (B, (n-1)*) and edges (B, (n-1)*, 2) of jagged points (B, n*, D)."""
    check_jagged(points)
    deaths, edges, bars = h0_persistence_varlen(
        points.values(), points.offsets(), metric, check_finite
    )
    jagged = torch.nested.nested_tensor_from_jagged
    return H0Persistence(jagged(deaths, bars), jagged(edges, bars))


def _on_cpu(offsets: Any) -> Tensor:
    """Return a copy of the offsets (B+1,) as int64 on the CPU: it is kept for backward, and memory
    that is shared with NumPy may change until then."""
    starts = as_integers(offsets, "offsets").detach().to("cpu", copy=True)
    if starts.dim() != 1 or starts.shape[0] == 0:
        raise shape_error("offsets", starts.shape, "(B+1,), where each cloud begins, and T")
    return starts


def _bars(offsets: Any, starts: Tensor) -> int:
    """Return the number of bars of all clouds; the operator validates the offsets themselves."""
    if isinstance(offsets, (list, tuple)):  # whose numbers can be read under a tracer too
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


def _by_kinds(x: Tensor, starts: Tensor, bars: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Clouds of similar size padded to one batch each."""
    kinds: dict[int, list[int]] = {}
    sizes = starts.diff()
    for b, n in enumerate(sizes.tolist()):
        if n > 1:
            kinds.setdefault(bisect.bisect_left(_KINDS, n), []).append(b)
    total = int(bars[-1])
    kind_of_deaths = _native.type_of_deaths(x.dtype)
    deaths = torch.zeros(total, dtype=kind_of_deaths, device=x.device)
    edges = torch.zeros((total, 2), dtype=torch.int64, device=x.device)
    for clouds in kinds.values():
        chosen = torch.tensor(clouds, device="cpu")
        lengths = sizes[chosen]
        most = int(lengths.max())
        place = torch.arange(most, device="cpu")
        rows = (starts[chosen, None] + place).clamp(max=max(x.shape[0] - 1, 0))
        # The padding repeats a point, which the call below never reads.
        padded = x[rows.to(x.device)]
        h0 = h0_persistence(padded, metric, lengths.to(x.device), check_finite=False)
        valid = place[:-1] < (lengths - 1)[:, None]
        to = (bars[chosen, None] + place[:-1])[valid].to(x.device)
        valid = valid.to(x.device)
        deaths = deaths.index_put((to,), h0.deaths[valid])
        edges = edges.index_put((to,), h0.edges[valid])
    return deaths, edges


def _check_clouds(x: Tensor, starts: Tensor, deaths: Tensor, bars: Tensor, metric: str) -> None:
    """Raises for the first cloud whose deaths, or whose only point, are not finite."""
    bad = torch.zeros(len(starts), dtype=torch.bool, device="cpu")
    finite = torch.isfinite(deaths.detach()).cpu()
    bad[torch.searchsorted(bars, (~finite).nonzero().flatten(), right=True) - 1] = True
    alone = (starts.diff() == 1).nonzero().flatten()
    bad[alone] = ~torch.isfinite(x[starts[alone].to(x.device)]).all(1).cpu()
    for b in bad.nonzero().flatten().tolist():
        try:
            h0_persistence(x[int(starts[b]) : int(starts[b + 1])].detach(), metric, None, True)
        except ValueError as error:
            named = str(error).replace("the cloud", f"cloud {b} of {len(starts) - 1}")
            raise ValueError(named) from None
