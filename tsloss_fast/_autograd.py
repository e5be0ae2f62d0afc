"""The derivatives of the deaths: one rule, and how a call gets to it.

Everyday calls apply the rule through the autograd Function `H0`, which is cheaper than torch's
registration for operators. Tracers (``torch.compile``, ``torch.export``, ``make_fx``,
``torch.jit.trace``) see the operator itself, whose registered gradient is the same rule. Under
``torch.func``, and in forward mode, the operator finds the edges only, and the derivatives are
those of the lengths of these edges in plain torch operations: so they exist to any order and in any
combination.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from . import _ops, _ops_cpu, _routing
from ._batch import (
    PRECOMPUTED,
    Batch,
    can_bypass_dispatcher,
    is_traced,
    is_transformed,
    transforms_active,
    type_of_deaths,
)

_BATCHED: Any = torch._C._parse_dispatch_key("Batched")


class Backend(Protocol):
    """A computation of deaths and edges, and of the first derivatives of the deaths."""

    ignores_deaths: bool  # in the gradient, so that they may be changed in place

    def h0(self, values: Tensor, /, *arguments: Any) -> tuple[Tensor, Tensor]: ...

    def h0_backward(
        self,
        grad: Tensor,
        points: Tensor,
        deaths: Tensor,
        edges: Tensor,
        offsets: Tensor | None,
        metric: str,
        /,
    ) -> Tensor: ...


class _Dispatched:
    """The operators, which torch dispatches to the device of their tensors."""

    ignores_deaths = False

    def h0(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        # Without its registered gradient, which costs time even where none is asked for.
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.h0(*arguments)  # type: ignore[no-any-return]

    def h0_backward(self, *saved: Any) -> Tensor:
        return _ops.h0_backward(*saved)  # type: ignore[no-any-return]


_dispatched = _Dispatched()


def h0(batch: Batch, known: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Deaths (..., M) and edges (..., M, 2) of a batch; (M,) and (M, 2) of ragged clouds.

    `known`: both of them, if they have been computed before, which saves everyday calls the work.
    """
    values = batch.values
    differentiable = values.requires_grad and torch.is_grad_enabled()
    if batch.direct:
        if differentiable:
            return apply_directly(H0, values, batch[1:7], _ops_cpu, known)  # type: ignore[no-any-return]
        return _ops_cpu.h0(*batch[:7]) if known is None else known
    arguments: list[Any]  # a tracer cannot slice the batch
    values, *arguments, _ = batch
    if is_transformed():
        return _transformed(values, *arguments)
    if is_traced():
        return _ops.h0(values, *arguments)  # type: ignore[no-any-return]
    if differentiable:
        return H0.apply(values, arguments, _dispatched, known)  # type: ignore[no-any-return, no-untyped-call]
    return _dispatched.h0(values, *arguments) if known is None else known


def differentiable_h0(points: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """`h0` with a gradient, of points (..., N, D) that can bypass the dispatcher."""
    arguments = (None, None, None, metric, 0.0, True)
    return apply_directly(H0, points, arguments, _ops_cpu)  # type: ignore[no-any-return]


def apply_directly(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Apply a Function without torch's preparation for transforms, which costs small clouds time
    and has nothing to do where none is active."""
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


class H0(torch.autograd.Function):
    """Deaths and edges of a batch, by a backend, outside of transforms and tracers.

    `forward` takes the context itself: the `setup_context` style of a Function inspects its
    signature in every call, and the registration of an operator costs more still.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, arguments: Any, backend: Backend, known: Any = None
    ) -> Any:
        output = (known[0].detach(), known[1]) if known else backend.h0(values, *arguments)
        ctx.mark_non_differentiable(output[1])
        _keep(ctx, values, arguments, output, backend)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None if grads[0] is None else gradient(ctx, grads[0]), None, None, None


def _keep(
    ctx: Any, values: Tensor, arguments: Any, output: tuple[Tensor, Tensor], backend: Backend
) -> None:
    ctx.set_materialize_grads(False)
    _, offsets, _, metric, *_ = arguments
    ctx.metric, ctx.backend = metric, backend
    if metric == PRECOMPUTED:  # the gradient does not depend on the entries of the matrices
        ctx.points = values.shape[-1]
        ctx.save_for_backward(None, None, output[1], None)
    else:
        deaths, edges = output
        kept = None if backend.ignores_deaths else deaths
        ctx.save_for_backward(values, kept, edges, offsets)


def gradient(ctx: Any, grad: Tensor) -> Tensor:
    """The gradient at the values that `_keep` has kept, from that of the deaths."""
    values, deaths, edges, offsets = ctx.saved_tensors
    metric, backend = ctx.metric, ctx.backend
    if metric == PRECOMPUTED:
        return _routing.route_to_matrix(grad, edges, ctx.points)
    differentiable = torch.is_grad_enabled()  # exactly under create_graph=True
    if backend is _ops_cpu and (differentiable or not can_bypass_dispatcher(grad)):
        backend = _dispatched
    if backend is _dispatched and (differentiable or not _has_memory(grad)):
        wide = values.to(grad.dtype)  # half types are computed in float32
        rows = edges if offsets is None else _edges_between_rows(edges, offsets)
        return _routing.route_gradient(grad, wide, rows, metric).to(values.dtype)
    return backend.h0_backward(grad, values, deaths, edges, offsets, metric)  # type: ignore[no-any-return]


def _has_memory(grad: Tensor) -> bool:
    """Return whether a kernel could read a gradient, or it stands for several: under a transform,
    or because of ``is_grads_batched=True``."""
    return not (transforms_active() or torch._C._dispatch_keys(grad).has(_BATCHED))


def _transformed(
    values: Tensor, lengths: Any, offsets: Any, bars: Any, metric: str, *rest: Any
) -> tuple[Tensor, Tensor]:
    deaths, edges = _ops.h0(values.detach(), lengths, offsets, bars, metric, *rest)
    if metric == PRECOMPUTED:
        found = _routing.entries_of_edges(values, edges)
    else:
        wide = values.to(type_of_deaths(values.dtype))
        rows = edges if offsets is None else _edges_between_rows(edges, offsets)
        found = _routing.edge_lengths(wide, rows, metric)
    # The deaths, to the bit, with the derivatives of the lengths of their edges.
    infinite = torch.where(found == deaths, found, deaths)  # inf - inf would be NaN
    with_derivatives = deaths + (found - found.detach())
    return torch.where(deaths.isfinite(), with_derivatives, infinite), edges


def _edges_between_rows(edges: Tensor, offsets: Tensor) -> Tensor:
    """Edges (M, 2) numbered within their clouds -> the same between the rows of all clouds."""
    bars = (offsets.diff() - 1).clamp(min=0)
    first = offsets[:-1].repeat_interleave(bars, output_size=edges.shape[-2])
    return edges + first.unsqueeze(-1).to(edges.device)


def _traced_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _keep(ctx, inputs[0], inputs[1:], output, _dispatched)


def _traced_backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
    return None if grad is None else gradient(ctx, grad), *(None,) * 6


if _ops.first_import:
    torch.library.register_autograd(
        "tsloss_fast::h0", _traced_backward, setup_context=_traced_setup, lib=_ops.library
    )
