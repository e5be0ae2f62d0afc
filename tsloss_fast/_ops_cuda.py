"""The operators on a CUDA device, on its current stream.

Nothing here waits for the device unless `check_finite` asks for it, so calls can be captured in a
CUDA graph. Ragged clouds are the exception: where their points stand is copied to the device, and
that waits. All memory comes from torch's allocator.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import _core
from ._batch import (
    METRICS,
    PRECOMPUTED,
    capsule,
    dense,
    offsets_of_bars,
    raise_finding,
    type_of_deaths,
)

_FORWARD, _BACKWARD, _FROM_DISTANCES = 0, 1, 2
# The kernels take batches alone, so ragged clouds are padded to the largest of their kind: up to so
# many points.
_KINDS = (8, 16, 32, 64, 100, 200, 512, 1024, 2048, 4096, 8192, 16384, 32768)


def _stream(device: int) -> int:
    """The address of the current stream."""
    return torch._C._cuda_getCurrentRawStream(device)


def _workspace(what: int, metric: int, values: Tensor) -> Tensor:
    size = _core.cuda_workspace(what, metric, capsule(values))
    return torch.empty(size, dtype=torch.uint8, device=values.device)


def h0(
    values: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    bars: int | None,
    metric: str,
    tolerance: float,
    check_finite: bool,
) -> tuple[Tensor, Tensor]:
    if offsets is not None:
        assert bars is not None
        return _ragged_h0(values, offsets, bars, metric, check_finite)
    if lengths is not None:
        if check_finite:
            _core.check_lengths(capsule(lengths.cpu().contiguous()), values.shape[-2])
        # A copy: more than one kernel reads them, and the caller may change them meanwhile.
        lengths = lengths.to(device=values.device, copy=True).contiguous()
    deaths, edges, findings = _padded_h0(values, lengths, metric, tolerance)
    if check_finite:
        what = "distances" if metric == PRECOMPUTED else "points"
        _raise_first(findings.cpu(), what, deaths.dtype, ("lengths", "check_finite"))
    return deaths, edges


def _padded_h0(
    values: Tensor, lengths: Tensor | None, metric: str, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Deaths, edges and, for each cloud (B, 3), what is wrong with it. Lengths that are out of
    range count as the nearest that is in range."""
    values = dense(values, "distances" if metric == PRECOMPUTED else "points")
    *batch, n, _ = values.shape
    kind, where = type_of_deaths(values.dtype), values.device
    deaths = torch.empty((*batch, max(n - 1, 0)), dtype=kind, device=where)
    edges = torch.empty((*deaths.shape, 2), dtype=torch.int64, device=where)
    # The kernels write all of them: to clear them first would be one launch more.
    findings = torch.empty((values.shape[:-2].numel(), 3), dtype=torch.int64, device=where)
    if not len(findings):
        return deaths, edges, findings
    sizes = None if lengths is None else capsule(lengths)
    results = capsule(deaths), capsule(edges), capsule(findings)
    stream = _stream(where.index or 0)
    if metric == PRECOMPUTED:
        workspace = _workspace(_FROM_DISTANCES, 0, values)
        _core.cuda_h0_from_distances(
            capsule(values), sizes, tolerance, *results, capsule(workspace), stream
        )
    else:
        code = METRICS[metric]
        workspace = _workspace(_FORWARD, code, values)
        _core.cuda_h0_forward(code, capsule(values), sizes, *results, capsule(workspace), stream)
    return deaths, edges, findings


def h0_backward(
    grad_deaths: Tensor,
    points: Tensor,
    deaths: Tensor,
    edges: Tensor,
    offsets: Tensor | None,
    metric: str,
) -> Tensor:
    if offsets is not None:
        return _ragged_h0_backward(grad_deaths, points, deaths, edges, offsets, metric)
    points = dense(points, "points")
    grad_points = torch.empty_like(points)
    code = METRICS[metric]
    workspace = _workspace(_BACKWARD, code, points)
    # Names keep what `contiguous` made until the kernels are queued.
    grad_deaths, deaths, edges = grad_deaths.contiguous(), deaths.contiguous(), edges.contiguous()
    _core.cuda_h0_backward(
        code,
        capsule(grad_deaths),
        capsule(points),
        capsule(deaths),
        capsule(edges),
        capsule(grad_points),
        capsule(workspace),
        _stream(points.device.index or 0),
    )
    return grad_points


def _raise_first(findings: Tensor, what: str, dtype: torch.dtype, options: tuple[str, ...]) -> None:
    """Raise for the first cloud with something wrong; findings (B, 3) are on the CPU."""
    bad = (findings[:, 0] != 0).nonzero()
    if len(bad):
        cloud = int(bad[0])
        problem, i, j = findings[cloud].tolist()
        raise_finding((problem, cloud, i, j), len(findings), what, dtype, options)


class _Kind(NamedTuple):
    """Ragged clouds of similar size as a padded batch of K clouds of up to N points.

    Attributes:
        clouds: (K,) on the CPU, which clouds they are.
        lengths: (K,) their points.
        rows: (K, N) where their points stand; the padding repeats a point, which is never read.
        bars: (K, N-1) where their bars stand, likewise.
        points_valid, bars_valid: which of both are theirs.
    """

    clouds: Tensor
    lengths: Tensor
    rows: Tensor
    bars: Tensor
    points_valid: Tensor
    bars_valid: Tensor


def _kinds(offsets: Tensor, points: int, device: torch.device) -> Iterator[_Kind]:
    """The clouds that have bars, from where the points of each begin (B+1,)."""
    kinds: dict[int, list[int]] = {}
    sizes, first_bars = offsets.diff(), offsets_of_bars(offsets)
    for cloud, n in enumerate(sizes.tolist()):
        if n > 1:
            kinds.setdefault(bisect.bisect_left(_KINDS, n), []).append(cloud)
    for members in kinds.values():
        clouds = torch.tensor(members, device="cpu")
        lengths = sizes[clouds]
        place = torch.arange(int(lengths.max()), device="cpu")
        rows = (offsets[clouds, None] + place).clamp(max=points - 1)
        bars = (first_bars[clouds, None] + place[:-1]).clamp(max=int(first_bars[-1]) - 1)
        valid = place < lengths[:, None]
        on_device = (t.to(device) for t in (lengths, rows, bars, valid, valid[:, 1:]))
        yield _Kind(clouds, *on_device)


def _ragged_h0(
    points: Tensor, offsets: Tensor, bars: int, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    points = dense(points, "points")
    _core.check_offsets(capsule(offsets), len(points), bars)
    deaths = points.new_empty(bars, dtype=type_of_deaths(points.dtype))
    edges = points.new_empty((bars, 2), dtype=torch.int64)
    findings = torch.zeros((len(offsets) - 1, 3), dtype=torch.int64, device="cpu")
    for kind in _kinds(offsets, len(points), points.device):
        found = _padded_h0(points[kind.rows], kind.lengths, metric, 0.0)
        deaths[kind.bars[kind.bars_valid]] = found[0][kind.bars_valid]
        edges[kind.bars[kind.bars_valid]] = found[1][kind.bars_valid]
        if check_finite:
            findings[kind.clouds] = found[2].cpu()
    if check_finite:
        alone = (offsets.diff() == 1).nonzero().flatten()
        single = points[offsets[alone].to(points.device)].unsqueeze(1)
        findings[alone] = _padded_h0(single, None, metric, 0.0)[2].cpu()
        _raise_first(findings, "points", deaths.dtype, ("check_finite",))
    return deaths, edges


def _ragged_h0_backward(
    grad_deaths: Tensor,
    points: Tensor,
    deaths: Tensor,
    edges: Tensor,
    offsets: Tensor,
    metric: str,
) -> Tensor:
    points = dense(points, "points")
    grad_points = torch.zeros_like(points)
    for kind in _kinds(offsets, len(points), points.device):
        padded = [t[kind.bars].masked_fill(~kind.bars_valid, 0) for t in (grad_deaths, deaths)]
        tree = edges[kind.bars].masked_fill(~kind.bars_valid.unsqueeze(-1), -1)
        routed = h0_backward(padded[0], points[kind.rows], padded[1], tree, None, metric)
        grad_points[kind.rows[kind.points_valid]] = routed[kind.points_valid]
    return grad_points
