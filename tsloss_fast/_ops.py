"""The torch operators over the native core.

They take whole batches, ``(B, N, D)`` or ``(B, N, N)``, or clouds of different sizes in a row,
``(T, D)``; float32 or float64 (outside of the CPU half types as well). ``_ops_cpu.py`` and
``_ops_cuda.py`` have their two forms where tensors become pointers, and ``_ops_copy.py`` the one
for every device without kernels; ``_autograd.py`` registers their derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _ops_copy, _ops_cpu, _ops_cuda
from ._inputs import has_cuda_kernels
from ._native import empty_bars, type_of_deaths

_SCHEMAS = {
    "h0": "(Tensor points, Tensor? lengths, str metric, bool check_finite)"
    " -> (Tensor deaths, Tensor edges)",
    "h0_backward": "(Tensor grad_deaths, Tensor points, Tensor deaths, Tensor edges, str metric)"
    " -> Tensor",
    "h0_from_distances": "(Tensor distances, Tensor? lengths, float symmetry_tolerance,"
    " bool check_finite) -> (Tensor deaths, Tensor edges)",
    "h0_varlen": "(Tensor points, Tensor offsets, SymInt bars, str metric, bool check_finite)"
    " -> (Tensor deaths, Tensor edges)",
    "h0_varlen_backward": "(Tensor grad_deaths, Tensor points, Tensor deaths, Tensor edges,"
    " Tensor offsets, str metric) -> Tensor",
    "single_linkage": "(Tensor edges) -> Tensor",
}

# A process that imports the package a second time, after removing it from sys.modules, finds the
# operators of the first import: torch has one namespace, and both copies of the package use them.
first_import = not hasattr(torch.ops.tsloss_fast, "h0")


def _h0_fake(
    points: Tensor, lengths: Tensor | None, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    return empty_bars(points)


def _h0_backward_fake(grad_deaths: Tensor, points: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(points, memory_format=torch.contiguous_format)


def _h0_from_distances_fake(
    distances: Tensor, lengths: Tensor | None, symmetry_tolerance: float, check_finite: bool
) -> tuple[Tensor, Tensor]:
    return empty_bars(distances)


def _h0_varlen_fake(
    points: Tensor, offsets: Tensor, bars: int, metric: str, check_finite: bool
) -> tuple[Tensor, Tensor]:
    deaths = points.new_empty((bars,), dtype=type_of_deaths(points.dtype))
    return deaths, points.new_empty((bars, 2), dtype=torch.int64)


def _single_linkage_fake(edges: Tensor) -> Tensor:
    return edges.new_empty((*edges.shape[:2], 3), dtype=torch.int64)


def _join(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """(V, B, ...) -> (V·B, ...), the vmapped dimension first, repeated if x does not have it."""
    if x is None:
        return None
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _split(outputs: tuple[Tensor, ...], size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Undo `_join` for what an operator returned."""
    split = tuple(o.reshape(size, o.shape[0] // size if size else 0, *o.shape[1:]) for o in outputs)
    return split, (0,) * len(split)


def _vmap_batched(operator: Any) -> Any:
    """The vmap rule of an operator over (B, ...) tensors and one optional (B,) tensor."""

    def rule(info: Any, in_dims: Any, x: Tensor, lengths: Tensor | None, *rest: Any) -> Any:
        size = info.batch_size
        outputs = operator(_join(x, in_dims[0], size), _join(lengths, in_dims[1], size), *rest)
        return _split(outputs, size)

    return rule


def _h0_varlen_vmap(
    info: Any, in_dims: Any, points: Tensor, offsets: Tensor, bars: int, *rest: Any
) -> Any:
    """The clouds of all V come one after the other, those of each with offsets of its own."""
    size = info.batch_size
    joined = _join(points, in_dims[0], size)
    assert joined is not None
    total = joined.shape[0]
    starts = torch.arange(size, device=offsets.device).unsqueeze(-1) * (total // max(size, 1))
    all_offsets = torch.cat([(starts + offsets[:-1]).flatten(), offsets.new_full((1,), total)])
    return _split(h0_varlen(joined, all_offsets, size * bars, *rest), size)


def _single_linkage_vmap(info: Any, in_dims: Any, edges: Tensor) -> Any:
    size = info.batch_size
    (merges,), (dim,) = _split((single_linkage(_join(edges, in_dims[0], size)),), size)
    return merges, dim


if first_import:
    # The library lives as long as the process: torch removes its operators with it.
    library = torch.library.Library("tsloss_fast", "DEF")
    _FAKES: dict[str, Callable[..., Any]] = {
        "h0": _h0_fake,
        "h0_backward": _h0_backward_fake,
        "h0_from_distances": _h0_from_distances_fake,
        "h0_varlen": _h0_varlen_fake,
        "h0_varlen_backward": _h0_backward_fake,
        "single_linkage": _single_linkage_fake,
    }
    _on_cuda = has_cuda_kernels(torch.device("cuda"))
    # `torch.compile` leaves operators with this tag out of its CUDA graphs, which hold no copy;
    # older versions of torch do not know it.
    _unsafe = getattr(torch.Tag, "cudagraph_unsafe", None)
    _tags = () if _on_cuda or _unsafe is None else (_unsafe,)
    for _name, _schema in _SCHEMAS.items():
        library.define(_name + _schema, tags=_tags)
        library.impl(_name, getattr(_ops_cpu, _name), "CPU")
        if _on_cuda and hasattr(_ops_cuda, _name):
            library.impl(_name, getattr(_ops_cuda, _name), "CUDA")
        if hasattr(_ops_copy, _name):  # on every device that has no kernel of its own
            library.impl(_name, getattr(_ops_copy, _name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"tsloss_fast::{_name}", _FAKES[_name], lib=library)

h0 = torch.ops.tsloss_fast.h0.default
h0_backward = torch.ops.tsloss_fast.h0_backward.default
h0_from_distances = torch.ops.tsloss_fast.h0_from_distances.default
h0_varlen = torch.ops.tsloss_fast.h0_varlen.default
h0_varlen_backward = torch.ops.tsloss_fast.h0_varlen_backward.default
single_linkage = torch.ops.tsloss_fast.single_linkage.default

if first_import:
    for _name, _rule in (
        ("h0", _vmap_batched(h0)),
        ("h0_from_distances", _vmap_batched(h0_from_distances)),
        ("h0_varlen", _h0_varlen_vmap),
        ("single_linkage", _single_linkage_vmap),
    ):
        torch.library.register_vmap(f"tsloss_fast::{_name}", _rule, lib=library)
