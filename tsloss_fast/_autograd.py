"""The autograd Functions over the operators: one for everyday use, and those for `torch.func`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _native, _ops, _ops_cpu, _routing
from ._inputs import runs_directly, transforms_active


class _Routed(torch.autograd.Function):
    """What both forms of the function share: the derivatives of the deaths."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        if grad is None:
            return None, None, None, None
        points, deaths, edges = ctx.saved_tensors
        # Gradient mode is on in a backward exactly under create_graph=True: then, and inside a
        # torch.func transform, the result itself must be differentiable.
        if torch.is_grad_enabled() or transforms_active():
            # Half types are computed in float32.
            wide = points.to(grad.dtype)
            routed = _routing.route_gradient(grad, wide, edges, ctx.metric)
            return routed.to(points.dtype), None, None, None
        return _ops.h0_backward(grad, points, deaths, edges, ctx.metric), None, None, None

    @staticmethod
    def keep(ctx: Any, points: Tensor, deaths: Tensor, edges: Tensor, metric: str) -> None:
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points, deaths, edges)
        ctx.metric = metric


class _H0(_Routed):
    """The everyday form: `setup_context` would cost 12 microseconds a call."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        deaths, edges = _ops.h0(points, lengths, metric, check)
        _Routed.keep(ctx, points, deaths, edges, metric)
        return deaths, edges


class _H0Direct(torch.autograd.Function):
    """The form for points (..., N, D) that `runs_directly`."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        deaths, edges = _ops_cpu.h0_direct(points, lengths, metric, check)
        _Routed.keep(ctx, points, deaths, edges, metric)
        return deaths, edges

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None:
            return None, None, None, None
        points, deaths, edges = ctx.saved_tensors
        if torch.is_grad_enabled() or not runs_directly(grads[0]):
            shape = points.shape
            points, grad, edges = (
                x.reshape(math.prod(shape[:-2]), *x.shape[len(shape) - 2 :])
                for x in (points, grads[0], edges)
            )
            result = _routing.route_gradient(grad, points, edges, ctx.metric)
            return result.reshape(shape), None, None, None
        return (
            _ops_cpu.h0_backward_direct(grads[0], points, deaths, edges, ctx.metric),
            None,
            None,
            None,
        )


class _H0Transformed(_Routed):
    """The form that torch.func requires."""

    @staticmethod
    def forward(points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
        return _ops.h0(points, lengths, metric, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        deaths, edges = output
        _Routed.keep(ctx, inputs[0], deaths, edges, inputs[2])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0Transformed, info, in_dims, arguments)


class _H0Forward(_H0Transformed):
    """With forward-mode derivatives too. A class of its own: torch.compile refuses any with
    `jvp`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _H0Transformed.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        points, edges = ctx.saved_for_forward
        kind = _native.type_of_deaths(points.dtype)
        tangent, wide = tangents[0].to(kind), points.to(kind)
        return _routing.route_tangent(tangent, wide, edges, ctx.metric), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0Forward, info, in_dims, arguments)


class _RoutedMatrix(torch.autograd.Function):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None:
            return None, None, None, None
        (edges,) = ctx.saved_tensors
        return _routing.route_to_matrix(grads[0], edges, ctx.points), None, None, None

    @staticmethod
    def keep(ctx: Any, points: int, edges: Tensor) -> None:
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(edges)
        ctx.points = points


class _H0Distances(_RoutedMatrix):
    @staticmethod
    def forward(ctx: Any, d: Tensor, lengths: Tensor | None, tolerance: float, check: bool) -> Any:
        deaths, edges = _ops.h0_from_distances(d, lengths, tolerance, check)
        _RoutedMatrix.keep(ctx, d.shape[-1], edges)
        return deaths, edges


class _H0DistancesTransformed(_RoutedMatrix):
    @staticmethod
    def forward(d: Tensor, lengths: Tensor | None, tolerance: float, check: bool) -> Any:
        return _ops.h0_from_distances(d, lengths, tolerance, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _RoutedMatrix.keep(ctx, inputs[0].shape[-1], output[1])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(_H0DistancesTransformed, info, in_dims, arguments)


def _vmap(function: Any, info: Any, in_dims: Any, arguments: Any) -> Any:
    """The vmapped dimension becomes part of the batch: one call of the kernel."""
    x, lengths, *rest = arguments
    size = info.batch_size
    if lengths is not None:
        lengths = _flatten_vmapped(lengths, in_dims[1], size)
    outputs = function.apply(_flatten_vmapped(x, in_dims[0], size), lengths, *rest)
    return tuple(
        o.reshape(size, o.shape[0] // size if size else 0, *o.shape[1:]) for o in outputs
    ), (0, 0)


def _flatten_vmapped(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(V, B, ...) -> (V·B, ...), the vmapped dimension first, repeated if x does not have it."""
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _apply(function: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return function.apply(*arguments)  # type: ignore[no-any-return]


def _forward_mode() -> bool:
    """Whether a torch.autograd.forward_ad level is open (tensors may carry tangents)."""
    return torch.autograd.forward_ad._current_level >= 0


def h0(points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> tuple[Tensor, Tensor]:
    """Deaths (B, M) and edges (B, M, 2) of points (B, N, D), by the cheapest form that will do."""
    arguments = (points, lengths, metric, check)
    if torch.compiler.is_compiling():
        return _apply(_H0Transformed if transforms_active() else _H0, arguments)
    if transforms_active() or _forward_mode():
        return _apply(_H0Forward, arguments)
    if points.requires_grad and torch.is_grad_enabled():
        return _apply(_H0, arguments)
    return _ops.h0(*arguments)  # type: ignore[no-any-return]


def h0_direct(points: Tensor, lengths: Tensor | None, metric: str, check: bool) -> Any:
    """The same of points (..., N, D) that `runs_directly`."""
    if points.requires_grad and torch.is_grad_enabled():
        return _H0Direct.apply(points, lengths, metric, check)  # type: ignore[no-untyped-call]
    return _ops_cpu.h0_direct(points, lengths, metric, check)


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
        if torch.is_grad_enabled() or not runs_directly(grad):
            # A differentiable gradient: by way of the differentiable operations.
            with torch.enable_grad():
                x = points if points.requires_grad else points.detach().requires_grad_()
                value = ctx.loss.by_operations(x, lengths)
                (result,) = torch.autograd.grad(value, x, grad, create_graph=True)
            return result, None, None
        routed = _ops_cpu.h0_backward_direct(slope * grad, points, deaths, edges, ctx.loss.metric)
        return routed, None, None


def scale_free_loss(points: Tensor, lengths: Tensor | None, loss: Any) -> Tensor:
    """The exact TSLoss of points (..., N, D) that `runs_directly`."""
    return _ScaleFreeLoss.apply(points, lengths, loss)  # type: ignore[no-any-return, no-untyped-call]


def h0_from_distances(
    distances: Tensor, lengths: Tensor | None, tolerance: float, check: bool
) -> tuple[Tensor, Tensor]:
    """The same of distance matrices (B, N, N)."""
    arguments = (distances, lengths, tolerance, check)
    if transforms_active():
        return _apply(_H0DistancesTransformed, arguments)
    if distances.requires_grad and torch.is_grad_enabled():
        return _apply(_H0Distances, arguments)
    return _ops.h0_from_distances(*arguments)  # type: ignore[no-any-return]


class _H0Ragged(torch.autograd.Function):
    """Clouds of different sizes, one after the other; offsets as `_ops_cpu.h0_ragged` has them."""

    @staticmethod
    def forward(
        points: Tensor, starts: Tensor, bars: Tensor, metric: str, check: bool
    ) -> tuple[Tensor, Tensor]:
        return _ops_cpu.h0_ragged(points, starts, bars, metric, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        points, starts, bars, metric, _ = inputs
        deaths, edges = output
        ctx.mark_non_differentiable(edges)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points, deaths, edges, starts, bars)
        ctx.metric = metric

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None:
            return None, None, None, None, None
        points, deaths, edges, starts, bars = ctx.saved_tensors
        if torch.is_grad_enabled() or not runs_directly(grads[0]):
            in_all = edges + starts[:-1].repeat_interleave(bars.diff())[:, None]
            result = _routing.route_gradient(
                grads[0].unsqueeze(0), points.unsqueeze(0), in_all.unsqueeze(0), ctx.metric
            ).squeeze(0)
        else:
            result = _ops_cpu.h0_ragged_backward(
                grads[0], points, deaths, edges, starts, bars, ctx.metric
            )
        return result, None, None, None, None


def h0_ragged(
    points: Tensor, starts: Tensor, bars: Tensor, metric: str, check: bool
) -> tuple[Tensor, Tensor]:
    """Deaths (M,) and edges (M, 2) of clouds in points (T, D) on the CPU."""
    return _apply(_H0Ragged, (points, starts, bars, metric, check))
