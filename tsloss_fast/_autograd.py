"""The derivatives of the deaths.

Each operator has one rule for its gradient. Everyday calls apply it through an autograd Function,
which is cheaper than torch's registration for operators; tracers (``torch.compile``,
``torch.export``, ``make_fx``, ``torch.jit.trace``) see the operator itself, whose registered
gradient is the same rule. Under ``torch.func``, and in forward mode, the operator finds the edges
only, and the derivatives are those of the lengths of these edges in plain torch operations: so they
exist to any order and in any combination.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _native, _ops, _ops_cpu, _routing
from ._inputs import can_bypass_dispatcher, forward_mode, is_traced, transforms_active

_BATCHED: Any = torch._C._parse_dispatch_key("Batched")


def _needs_operations(grad: Tensor) -> bool:
    """Return whether a backward pass must consist of differentiable torch operations.

    Gradient mode is on in a backward pass exactly under ``create_graph=True``. A gradient that is
    batched (``is_grads_batched=True``) has no memory that a kernel could read.
    """
    return (
        torch.is_grad_enabled()
        or transforms_active()
        or torch._C._dispatch_keys(grad).has(_BATCHED)
    )


class _Rule(NamedTuple):
    """The gradient of an operator: what is kept of a call, and how a gradient goes back."""

    name: str
    setup_context: Callable[[Any, tuple[Any, ...], tuple[Tensor, Tensor]], None]
    backward: Callable[[Any, Tensor], Tensor]

    def operator(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        return getattr(_ops, self.name)(*arguments)  # type: ignore[no-any-return]

    def kernel(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """The operator without its registered gradient, which costs time even where none is
        asked for."""
        with torch._C._AutoDispatchBelowAutograd():
            return self.operator(*arguments)


def _keep_points(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.metric = inputs[2]


def _to_points(ctx: Any, grad: Tensor) -> Tensor:
    points, deaths, edges = ctx.saved_tensors
    if not _needs_operations(grad):
        return _ops.h0_backward(grad, points, deaths, edges, ctx.metric)  # type: ignore[no-any-return]
    shape = points.shape
    clouds = points.reshape(math.prod(shape[:-2]), *shape[-2:])
    bars = (clouds.shape[0], edges.shape[-2])
    routed = _routing.route_gradient(
        grad.reshape(bars),
        clouds.to(grad.dtype),  # half types are computed in float32
        edges.reshape(*bars, 2),
        ctx.metric,
    )
    return routed.to(points.dtype).reshape(shape)


def _keep_varlen(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    points, offsets, _, ctx.metric, _ = inputs
    ctx.save_for_backward(points, *output, offsets)


def _to_varlen_points(ctx: Any, grad: Tensor) -> Tensor:
    points, deaths, edges, offsets = ctx.saved_tensors
    if _needs_operations(grad):
        rows = _edges_between_rows(edges, offsets)
        wide = points.to(grad.dtype)  # half types are computed in float32
        grad, wide, rows = (t.unsqueeze(0) for t in (grad, wide, rows))
        return _routing.route_gradient(grad, wide, rows, ctx.metric).squeeze(0).to(points.dtype)
    return _ops.h0_varlen_backward(  # type: ignore[no-any-return]
        grad, points, deaths, edges, offsets, ctx.metric
    )


def _keep_edges(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.points = inputs[0].shape[-1]


def _to_distances(ctx: Any, grad: Tensor) -> Tensor:
    (edges,) = ctx.saved_tensors
    return _routing.route_to_matrix(grad, edges, ctx.points)


_POINTS = _Rule("h0", _keep_points, _to_points)
_VARLEN = _Rule("h0_varlen", _keep_varlen, _to_varlen_points)
_DISTANCES = _Rule("h0_from_distances", _keep_edges, _to_distances)


class _H0Direct(torch.autograd.Function):
    """The deaths of points for which `can_bypass_dispatcher` holds.

    A form of its own, because the one for any operator costs five microseconds more.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        deaths, edges = _ops_cpu.h0_direct(points, lengths, metric, check)
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points, deaths, edges)
        ctx.metric = metric
        return deaths, edges

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        if grad is None:
            return None, None, None, None
        if torch.is_grad_enabled() or not can_bypass_dispatcher(grad):
            return _to_points(ctx, grad), None, None, None
        points, deaths, edges = ctx.saved_tensors
        direct = _ops_cpu.h0_backward_direct(grad, points, deaths, edges, ctx.metric)
        return direct, None, None, None


class _Everyday(torch.autograd.Function):
    """Any operator outside of transforms and tracers.

    `forward` takes the context itself: the `setup_context` style of a Function costs 12
    microseconds a call, and the registration of an operator 28.
    """

    @staticmethod
    def forward(ctx: Any, rule: _Rule, *arguments: Any) -> Any:
        output = rule.kernel(*arguments)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.rule = rule
        ctx.others = (None,) * (len(arguments) - 1)
        rule.setup_context(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = None if grads[0] is None else ctx.rule.backward(ctx, grads[0])
        return None, grad, *ctx.others


def _register(rule: _Rule, others: int) -> None:
    """Register the rule as the gradient of its operator, which has `others` more arguments."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        rule.setup_context(ctx, inputs, output)

    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
        return None if grad is None else rule.backward(ctx, grad), *(None,) * others

    torch.library.register_autograd(
        f"tsloss_fast::{rule.name}", backward, setup_context=setup_context, lib=_ops.library
    )


if _ops.first_import:
    _register(_POINTS, 3)
    _register(_VARLEN, 4)
    _register(_DISTANCES, 3)


def _edges_between_rows(edges: Tensor, offsets: Tensor) -> Tensor:
    """Edges (M, 2) numbered within their clouds -> the same between the rows of all clouds."""
    bars = (offsets.diff() - 1).clamp(min=0)
    first = offsets[:-1].repeat_interleave(bars, output_size=edges.shape[-2])
    return edges + first.unsqueeze(-1).to(edges.device)


def _with_derivatives(deaths: Tensor, lengths: Tensor) -> Tensor:
    """The deaths, to the bit, with the derivatives of the lengths of their edges."""
    infinite = torch.where(lengths == deaths, lengths, deaths)  # inf - inf would be NaN
    return torch.where(deaths.isfinite(), deaths + (lengths - lengths.detach()), infinite)


def _call(rule: _Rule, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    if is_traced():
        return rule.operator(*arguments)
    if arguments[0].requires_grad and torch.is_grad_enabled():
        return _Everyday.apply(rule, *arguments)  # type: ignore[no-any-return, no-untyped-call]
    return rule.kernel(*arguments)


def h0(points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> tuple[Tensor, Tensor]:
    """Deaths (B, M) and edges (B, M, 2) of points (B, N, D)."""
    if not (transforms_active() or forward_mode()):
        return _call(_POINTS, (points, lengths, metric, check))
    deaths, edges = _ops.h0(points.detach(), lengths, metric, check)
    wide = points.to(_native.type_of_deaths(points.dtype))
    return _with_derivatives(deaths, _routing.edge_lengths(wide, edges, metric)), edges


def h0_direct(
    points: Tensor, lengths: Tensor | None, metric: str, check: bool
) -> tuple[Tensor, Tensor]:
    """Deaths (..., M) and edges (..., M, 2) of points for which `can_bypass_dispatcher` holds."""
    if points.requires_grad and torch.is_grad_enabled():
        return _H0Direct.apply(points, lengths, metric, check)  # type: ignore[no-any-return, no-untyped-call]
    return _ops_cpu.h0_direct(points, lengths, metric, check)


def h0_from_distances(
    distances: Tensor, lengths: Tensor | None, tolerance: float, check: bool
) -> tuple[Tensor, Tensor]:
    """Deaths (B, M) and edges (B, M, 2) of distance matrices (B, N, N)."""
    if not (transforms_active() or forward_mode()):
        return _call(_DISTANCES, (distances, lengths, tolerance, check))
    deaths, edges = _ops.h0_from_distances(distances.detach(), lengths, tolerance, check)
    return _with_derivatives(deaths, _routing.entries_of_edges(distances, edges)), edges


def h0_varlen(
    points: Tensor, offsets: Tensor, bars: int, metric: str, check: bool
) -> tuple[Tensor, Tensor]:
    """Deaths (M,) and edges (M, 2) of clouds in a row, points (T, D); see `_ops_cpu.h0_varlen`."""
    if not (transforms_active() or forward_mode()):
        return _call(_VARLEN, (points, offsets, bars, metric, check))
    deaths, edges = _ops.h0_varlen(points.detach(), offsets, bars, metric, check)
    rows = _edges_between_rows(edges, offsets)
    wide = points.to(_native.type_of_deaths(points.dtype))
    lengths = _routing.edge_lengths(wide.unsqueeze(0), rows.unsqueeze(0), metric).squeeze(0)
    return _with_derivatives(deaths, lengths), edges


class _ScaleFreeLoss(torch.autograd.Function):
    """The exact loss at once, where nothing but its value and gradient is asked for: ten small
    tensor operations and their backward passes take longer than the barcode."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, lengths: Tensor | None, loss: Any) -> Any:
        weights = loss.weights
        deaths, edges = _ops_cpu.h0_direct(points, lengths, loss.metric, True)
        value, slope, coincident = _ops_cpu.scale_free_loss(
            deaths, lengths, weights["connectivity"], weights["redundancy"], loss.rho
        )
        ctx.save_for_backward(points, deaths, edges, slope, lengths)
        ctx.loss = loss
        if coincident:
            loss.warn_coincident(coincident, math.prod(deaths.shape[:-1]))
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        points, deaths, edges, slope, lengths = ctx.saved_tensors
        grad = grads[0]
        differentiable = torch.is_grad_enabled()
        if differentiable or not can_bypass_dispatcher(grad):
            with torch.enable_grad():
                x = points if points.requires_grad else points.detach().requires_grad_()
                value = ctx.loss.by_operations(x, lengths)
                (result,) = torch.autograd.grad(value, x, grad, create_graph=differentiable)
            return result, None, None
        routed = _ops_cpu.h0_backward_direct(slope * grad, points, deaths, edges, ctx.loss.metric)
        return routed, None, None


def scale_free_loss(points: Tensor, lengths: Tensor | None, loss: Any) -> Tensor:
    """The exact TSLoss of points (..., N, D) for which `can_bypass_dispatcher` holds."""
    return _ScaleFreeLoss.apply(points, lengths, loss)  # type: ignore[no-any-return, no-untyped-call]
