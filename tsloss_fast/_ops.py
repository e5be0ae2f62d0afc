"""The torch operators over the native core.

`h0` takes the fields of a `Batch`, `h0_backward` what `_autograd.py` keeps of it. ``_ops_cpu.py``
and ``_ops_cuda.py`` have their forms where tensors reach the core; ``_autograd.py`` registers their
derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _ops_cpu, _ops_cuda
from ._batch import has_cuda_kernels, type_of_deaths

_SCHEMAS = {
    "h0": "(Tensor values, Tensor? lengths, Tensor? offsets, SymInt? bars, str metric,"
    " float tolerance, bool check_finite) -> (Tensor deaths, Tensor edges)",
    "h0_backward": "(Tensor grad_deaths, Tensor points, Tensor deaths, Tensor edges,"
    " Tensor? offsets, str metric) -> Tensor",
    "single_linkage": "(Tensor edges) -> Tensor",
}

# A process that imports the package a second time, after removing it from sys.modules, finds the
# operators of the first import: torch has one namespace, and both copies of the package use them.
first_import = not hasattr(torch.ops.tsloss_fast, "h0")


def _h0_fake(
    values: Tensor, lengths: Tensor | None, offsets: Tensor | None, bars: int | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    shape: tuple[Any, ...] = (bars,)
    if offsets is None:
        shape = (*values.shape[:-2], torch.sym_max(values.shape[-2] - 1, 0))
    deaths = values.new_empty(shape, dtype=type_of_deaths(values.dtype))
    return deaths, values.new_empty((*shape, 2), dtype=torch.int64)


def _h0_backward_fake(grad_deaths: Tensor, points: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(points, memory_format=torch.contiguous_format)


def _single_linkage_fake(edges: Tensor) -> Tensor:
    return edges.new_empty((*edges.shape[:-1], 3))


def _front(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The vmapped dimension first; x is repeated if it does not have it."""
    if x is None:
        return None
    return x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _h0_vmap(
    info: Any,
    in_dims: Any,
    values: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    bars: int | None,
    *rest: Any,
) -> Any:
    size = info.batch_size
    all_values = _front(values, in_dims[0], size)
    assert all_values is not None
    if offsets is None:
        all_lengths = _front(lengths, in_dims[1], size)
        return h0(all_values, all_lengths, None, None, *rest), (0, 0)
    if in_dims[2] is not None:
        raise ValueError("offsets: expected the same for all, got offsets that are vmapped over")
    # The clouds of all come one after the other.
    assert bars is not None
    rows = all_values.flatten(0, 1)
    starts = torch.arange(size, device="cpu").unsqueeze(-1) * all_values.shape[1]
    all_offsets = torch.cat([(starts + offsets[:-1]).flatten(), offsets.new_full((1,), len(rows))])
    deaths, edges = h0(rows, None, all_offsets, size * bars, *rest)
    return (deaths.reshape(size, bars), edges.reshape(size, bars, 2)), (0, 0)


def _single_linkage_vmap(info: Any, in_dims: Any, edges: Tensor) -> Any:
    return single_linkage(_front(edges, in_dims[0], info.batch_size)), 0


if first_import:
    # The library lives as long as the process: torch removes its operators with it.
    library = torch.library.Library("tsloss_fast", "DEF")
    _on_cuda = has_cuda_kernels(torch.device("cuda"))
    # `torch.compile` leaves operators with this tag out of its CUDA graphs, which hold no copy;
    # older versions of torch do not know it.
    _unsafe = getattr(torch.Tag, "cudagraph_unsafe", None)
    _tags = () if _on_cuda or _unsafe is None else (_unsafe,)
    _FAKES: dict[str, Any] = {
        "h0": _h0_fake,
        "h0_backward": _h0_backward_fake,
        "single_linkage": _single_linkage_fake,
    }
    for _name, _schema in _SCHEMAS.items():
        library.define(_name + _schema, tags=_tags)
        library.impl(_name, getattr(_ops_cpu, _name), "CPU")
        if _on_cuda and hasattr(_ops_cuda, _name):
            library.impl(_name, getattr(_ops_cuda, _name), "CUDA")
        if hasattr(_ops_cpu, f"copied_{_name}"):  # on every device that has no kernel of its own
            _copied = getattr(_ops_cpu, f"copied_{_name}")
            library.impl(_name, _copied, "CompositeExplicitAutograd")
        torch.library.register_fake(f"tsloss_fast::{_name}", _FAKES[_name], lib=library)

h0 = torch.ops.tsloss_fast.h0.default
h0_backward = torch.ops.tsloss_fast.h0_backward.default
single_linkage = torch.ops.tsloss_fast.single_linkage.default

if first_import:
    torch.library.register_vmap("tsloss_fast::h0", _h0_vmap, lib=library)
    torch.library.register_vmap("tsloss_fast::single_linkage", _single_linkage_vmap, lib=library)
