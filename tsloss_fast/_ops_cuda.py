"""The operators on a CUDA device, on its current stream.

Nothing here waits for the device unless `check_finite` asks for it, so calls can be captured in a
CUDA graph. All memory comes from torch's allocator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _core, _native

_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_FORWARD, _BACKWARD, _FROM_DISTANCES = 0, 1, 2


def _stream(device: int) -> int:
    """The address of the current stream."""
    return torch._C._cuda_getCurrentRawStream(device)


def _prepare(t: Tensor, name: str) -> tuple[Tensor, int]:
    if t.dtype not in _NUMBERS:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {t.dtype}")
    if t.dim() != 3:
        raise ValueError(f"{name}: expected 3 dimensions, got shape {tuple(t.shape)}")
    return _native.readable(t, name), _NUMBERS[t.dtype]


def _lengths(lengths: Tensor | None, t: Tensor, check: bool) -> Tensor | None:
    """Out of range they are clamped by the kernels, unless somebody may look."""
    if lengths is None:
        return None
    if tuple(lengths.shape) != (t.shape[0],):
        raise ValueError(f"lengths: expected shape ({t.shape[0]},), got {tuple(lengths.shape)}")
    # A copy: more than one kernel reads them, and the caller may change them meanwhile.
    lengths = lengths.to(device=t.device, dtype=torch.int64, copy=True).contiguous()
    if check:
        _native.check_lengths_range(lengths, t.shape[1])
    return lengths


def _workspace(what: int, number: int, metric: int, t: Tensor, dim: int, device: int) -> Tensor:
    size = _core.cuda_workspace(what, number, metric, t.shape[0], t.shape[1], dim, device)
    return torch.empty(size, dtype=torch.uint8, device=t.device)


def _raise_first(findings: Tensor, what: str, dtype: torch.dtype) -> None:
    """Waits for the device."""
    rows = findings.cpu()
    bad = (rows[:, 0] != 0).nonzero()
    if len(bad):
        cloud = int(bad[0])
        problem, i, j = rows[cloud].tolist()
        _native.raise_finding((problem, cloud, i, j), len(rows), what, dtype)


def h0(
    points: Tensor, lengths: Tensor | None, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    points, number = _prepare(points, "points")
    batch, n, dim = points.shape
    valid = _lengths(lengths, points, check_finite)
    deaths, edges = _native.empty_bars(points)
    if batch == 0:
        return deaths, edges
    device = points.device.index or 0
    findings = torch.empty((batch, 3), dtype=torch.int64, device=points.device)
    code = _native.METRICS[metric]
    workspace = _workspace(_FORWARD, number, code, points, dim, device)
    _core.cuda_h0_forward(
        number,
        code,
        points.data_ptr(),
        0 if valid is None else valid.data_ptr(),
        deaths.data_ptr(),
        edges.data_ptr(),
        findings.data_ptr(),
        workspace.data_ptr(),
        batch,
        n,
        dim,
        device,
        _stream(device),
    )
    if check_finite:
        _raise_first(findings, "points", deaths.dtype)
    return deaths, edges


def h0_backward(
    grad_deaths: Tensor, points: Tensor, deaths: Tensor, edges: Tensor, metric: str
) -> Tensor:
    points, number = _prepare(points, "points")
    batch, n, dim = points.shape
    bars = max(n - 1, 0)
    kind = _native.type_of_deaths(points.dtype)
    where = points.device
    grad_points = torch.empty_like(points)
    device = where.index or 0
    code = _native.METRICS[metric]
    workspace = _workspace(_BACKWARD, number, code, points, dim, device)
    # Names keep what `contiguous` made until the kernels are queued.
    grad_deaths, deaths, edges = grad_deaths.contiguous(), deaths.contiguous(), edges.contiguous()
    _core.cuda_h0_backward(
        number,
        code,
        _native.pointer(grad_deaths, "grad_deaths", (batch, bars), kind, where),
        points.data_ptr(),
        _native.pointer(deaths, "deaths", (batch, bars), kind, where),
        _native.pointer(edges, "edges", (batch, bars, 2), torch.int64, where),
        grad_points.data_ptr(),
        workspace.data_ptr(),
        batch,
        n,
        dim,
        device,
        _stream(device),
    )
    return grad_points


def h0_from_distances(
    distances: Tensor, lengths: Tensor | None, symmetry_tolerance: float, check_finite: bool
) -> tuple[Tensor, Tensor]:
    distances, number = _prepare(distances, "distances")
    batch, n, columns = distances.shape
    if columns != n or distances.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            "distances: expected float32 or float64 of shape (B, N, N), "
            f"got {distances.dtype}, {tuple(distances.shape)}"
        )
    valid = _lengths(lengths, distances, check_finite)
    deaths, edges = _native.empty_bars(distances)
    if batch == 0:
        return deaths, edges
    device = distances.device.index or 0
    findings = torch.empty((batch, 3), dtype=torch.int64, device=distances.device)
    workspace = _workspace(_FROM_DISTANCES, number, 0, distances, 0, device)
    _core.cuda_h0_from_distances(
        number,
        distances.data_ptr(),
        0 if valid is None else valid.data_ptr(),
        symmetry_tolerance,
        deaths.data_ptr(),
        edges.data_ptr(),
        findings.data_ptr(),
        workspace.data_ptr(),
        batch,
        n,
        device,
        _stream(device),
    )
    if check_finite:
        _raise_first(findings, "distances", distances.dtype)
    return deaths, edges
