"""TSLoss: the Topological Soft Prompt Loss, as a module.

Source: Huang et al., Optimizing Soft Prompt Tuning via Structural Evolution, arXiv 2602.16500. The
`exact` form works on the barcode itself; the `surrogate` form is a reconstruction of the published
smooth loss, whose constants are not public.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from . import _autograd, barcode
from ._inputs import (
    HALF,
    Lengths,
    as_tensor,
    can_bypass_dispatcher,
    check_lengths,
    check_metric,
    has_cuda_kernels,
    may_look,
    refuse_partitioned,
    transforms_active,
    type_advice,
)
from ._late import LateCounts
from .functional import H0Persistence, h0_persistence
from .ragged import check_jagged

late_counts = LateCounts()
_FORMS = ("exact", "surrogate", "total")
_CHECK = 0x5BD1E995  # what the two words of a measured reference differ in


def _words(value: Tensor) -> Tensor:
    """The bits of a number as float32, and a word that differs from them in `_CHECK`."""
    bits = value.float().reshape(1).view(torch.int32)
    return torch.cat([bits, bits ^ _CHECK])


def _as_points(points: Any, lengths: Lengths | None) -> tuple[Tensor, Lengths | None]:
    """Return points as a dense tensor, and the lengths that a jagged tensor brings."""
    if not isinstance(points, Tensor):
        raise TypeError(
            f"points: expected a torch.Tensor, got {type(points).__name__}; "
            + type_advice(points, "points")
        )
    if not points.is_nested:
        return as_tensor(points, "points"), lengths
    if lengths is not None:
        raise ValueError("lengths: a nested tensor has its own; leave them out")
    check_jagged(points)
    return torch.nested.to_padded_tensor(points, 0.0), points.offsets().diff()  # type: ignore[attr-defined]


class _KnownDeaths(torch.autograd.Function):
    """The deaths of points whose barcode is known, with the gradient to the points."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, deaths: Tensor, edges: Tensor, metric: str) -> Tensor:
        ctx.save_for_backward(points, deaths, edges)
        ctx.metric = metric
        return deaths.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _autograd._H0Direct.backward(ctx, *grads)


class TSLoss(nn.Module):
    """Topological loss of point clouds, such as the vectors of a soft prompt.

    With deaths d (N-1 of them, mean m) of each cloud, `form="exact"` is the weighted sum of

    - connectivity: Var(d) / m², long bars being gaps between groups of points;
    - redundancy: mean of relu(1 - d / (rho·m))², bars far shorter than the rest being points that
      say the same;
    - compactness: m / m_ref, where m_ref is `reference`, or the mean of m over the first batch;
    - loops: total H1 persistence / m, by GUDHI on the CPU (extra `analysis`; eager mode only).

    The first two do not change when a cloud is scaled. A cloud whose points all coincide has loss
    0 and gradient 0, with one warning: no topological loss can separate coincident points.

    `form="surrogate"`, a reconstruction: with distances D and a temperature a = alpha / mean(D),

    - connectivity: variance over i of ``m_i = Σ_j softmax_j(-a·D_ij)·D_ij``, without j = i unless
      `include_self`;
    - redundancy: mean over pairs of relu(t₋ - D) + relu(D - t₊), the soft minimum and maximum
      t∓ = Σ softmax(∓a·D)·D.

    `form="total"`: connectivity is Σ d**p, or, with `eta`, Hofer's ``Σ |d - eta|``.

    Args:
        form: "exact", "surrogate" (Euclidean only) or "total".
        connectivity, redundancy, compactness, loops: weights of the terms, >= 0. Terms of weight 0
            are not computed. compactness and loops belong to the exact form; the total form has
            connectivity alone, and `redundancy` has no effect there.
        metric: as in `h0_persistence`.
        rho: where a bar begins to be short, as a share of the mean.
        reference: m_ref of compactness, > 0. A reference that was measured instead is saved with
            the module, and is measured again where a framework has overwritten it.
        alpha: temperature of the surrogate, in units of 1 / mean distance.
        include_self: the surrogate's literal equation, whose variance vanishes for alpha >= 5.
        p, eta: exponent or target of the total form.

    Raises:
        ValueError: for weights, forms and parameters that do not fit, at construction.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [15.0, 10.0]])
        >>> points = points.requires_grad_()
        >>> ts_loss = TSLoss()
        >>> loss, terms = ts_loss(points, return_terms=True)
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'connectivity': 0.6205, 'redundancy': 0.156}
        >>> ts_loss(10 * points).allclose(loss)  # scale-free
        True
        >>> loss.backward()
        >>> bool(points.grad[3] @ torch.tensor([12.0, 5.0]) > 0)  # the gap to the last point closes
        True
    """

    measured: Tensor

    def __init__(
        self,
        form: str = "exact",
        connectivity: float = 1.0,
        redundancy: float = 1.0,
        compactness: float = 0.0,
        loops: float = 0.0,
        *,
        metric: str = "euclidean",
        rho: float = 0.5,
        reference: float | None = None,
        alpha: float = 10.0,
        include_self: bool = False,
        p: float = 1.0,
        eta: float | None = None,
    ) -> None:
        super().__init__()
        if form not in _FORMS:
            raise ValueError(f"form: expected one of {', '.join(_FORMS)}, got {form!r}")
        weights = {
            "connectivity": connectivity,
            "redundancy": redundancy,
            "compactness": compactness,
            "loops": loops,
        }
        for name, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise ValueError(f"{name}: expected a finite weight >= 0, got {weight}")
        if form != "exact" and (compactness or loops):
            raise ValueError(f"compactness and loops belong to form='exact', not to {form!r}")
        check_metric(metric)
        if form == "surrogate" and metric != "euclidean":
            raise ValueError(f"form='surrogate' is defined for metric='euclidean', got {metric!r}")
        positive = {"rho": rho, "alpha": alpha, "p": p, "reference": reference}
        for name, value in positive.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number above 0, got {value}")
        if eta is not None and not (eta >= 0 and math.isfinite(eta)):
            raise ValueError(f"eta: expected a finite number >= 0, got {eta}")
        self.form = form
        self.weights = weights
        self.metric = metric
        self.rho = rho
        self.alpha = alpha
        self.include_self = include_self
        self.p = p
        self.eta = eta
        # The form that has a kernel of its own.
        self._fused = form == "exact" and not compactness and not loops
        self.reference = reference
        self._warned: set[str] = set()  # of what a warning has been given, once a module
        if compactness and reference is None:
            # The bits of a float32 and a check word, as integers: no cast of the model changes
            # them, and memory that was never filled (`to_empty`, `from_pretrained`) is recognised.
            self.register_buffer("measured", torch.zeros(2, dtype=torch.int32))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Take the reference from the buffer `m_ref`, a float, of states before version 0.1."""
        old = state_dict.pop(prefix + "m_ref", None)
        if old is not None and "measured" in self._buffers:
            state_dict[prefix + "measured"] = _words(old)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def m_ref(self) -> Tensor:
        """The reference of compactness, a float32 scalar; NaN before it has been measured."""
        if self.reference is not None:
            return torch.tensor(self.reference)
        if "measured" not in self._buffers:
            return torch.tensor(math.nan)
        value, check = self.measured.view(torch.float32)[0], self.measured[0] ^ self.measured[1]
        return torch.where(check == _CHECK, value, math.nan)

    def forward(
        self,
        points: Tensor,
        lengths: Lengths | None = None,
        return_terms: bool = False,
        h0: H0Persistence | None = None,
    ) -> Any:
        """The loss of points (N, D) or (..., N, D): a scalar, the mean over the clouds.

        `lengths` (...): the valid points of each cloud of a padded batch. A `DTensor` is gathered,
        and a jagged nested tensor (B, n*, D) is padded. With `return_terms` also a dict of the
        terms that are computed, each a scalar without its weight. `h0`: the barcode of exactly
        these points under `metric`, without gradient, where the caller has it already. Types,
        errors and cost are those of `h0_persistence` (surrogate: O(N² D) time and memory).
        """
        direct = can_bypass_dispatcher(points)
        if not direct:
            points, lengths = _as_points(points, lengths)
            direct = can_bypass_dispatcher(points)
        refuse_partitioned(points, "points")
        if points.dim() >= 2 and points.shape[-2] == 1:
            self._warn_of_single_points(points)
        if direct and self._fused and not return_terms and points.dim() >= 2:
            sizes = check_lengths(lengths, points.shape[:-2], points.device)
            return _autograd.scale_free_loss(points, sizes, self)
        if self.form == "surrogate":
            found = self._surrogate(points, lengths)
        else:
            known = h0 if direct and lengths is None else None
            found = (self._exact if self.form == "exact" else self._total)(points, lengths, known)
        terms = {name: term.mean() if term.dim() else term for name, term in found.items()}
        weights = self.weights
        parts = [t if weights[n] == 1 else weights[n] * t for n, t in terms.items()]
        total = functools.reduce(torch.add, parts) if parts else self._zero(points)
        return (total, terms) if return_terms else total

    def by_operations(self, points: Tensor, lengths: Tensor | None) -> Tensor:
        """The exact loss as differentiable operations on the deaths; gradients of any order."""
        terms = self._exact(points, lengths)
        total = self._zero(points)
        for name, term in terms.items():
            total = total + self.weights[name] * term.mean()
        return total

    def extra_repr(self) -> str:
        weights = ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items() if weight)
        return f"form={self.form!r}, {weights}, metric={self.metric!r}"

    def _zero(self, points: Tensor) -> Tensor:
        """A zero that a backward pass accepts, whatever the points hold."""
        deaths: Tensor = h0_persistence(points[..., :1, :], self.metric, check_finite=False).deaths
        return deaths.sum()

    def _deaths(self, points: Tensor, lengths: Lengths | None, h0: H0Persistence | None) -> Tensor:
        if h0 is None:
            deaths: Tensor = h0_persistence(points, self.metric, lengths).deaths
        else:
            deaths = _KnownDeaths.apply(points, h0.deaths, h0.edges, self.metric)  # type: ignore[no-untyped-call]
        return deaths

    def _exact(
        self, points: Tensor, lengths: Lengths | None, h0: H0Persistence | None = None
    ) -> dict[str, Tensor]:
        deaths = self._deaths(points, lengths, h0)
        if 0 in deaths.shape[:-1]:
            deaths = deaths.sum().expand(1, 0)  # no clouds: the mean over them is 0, not NaN
            lengths = None
        self._warn_if_coincident(deaths, lengths)
        terms = {}
        if self.weights["connectivity"] or self.weights["redundancy"]:
            rho = self.rho if self.weights["redundancy"] else None
            spread, short = barcode.scale_free_terms(deaths, rho, lengths)
            if self.weights["connectivity"]:
                terms["connectivity"] = spread
            if short is not None:
                terms["redundancy"] = short
        if self.weights["compactness"]:
            mean = barcode.mean_death(deaths, lengths)
            terms["compactness"] = mean / self._reference(mean)
        if self.weights["loops"]:
            from ._loops import total_h1_persistence

            clouds = points.float() if points.dtype in HALF else points
            clouds = clouds.reshape(math.prod(clouds.shape[:-2]), *clouds.shape[-2:])
            checked = check_lengths(lengths, points.shape[:-2], points.device)
            if checked is None:
                checked = torch.full(points.shape[:-2], points.shape[-2], device="cpu")
            loops = total_h1_persistence(clouds, checked.reshape(-1), self.metric)
            mean = barcode.mean_death(deaths, lengths).reshape(-1)
            empty = mean == 0
            terms["loops"] = torch.where(empty, 0, loops / torch.where(empty, 1, mean))
        return terms

    def _reference(self, mean: Tensor) -> Tensor | float:
        """m_ref, set from the first batch whose mean death is not 0."""
        if self.reference is not None:
            return self.reference
        now = mean.detach().mean().float()
        if self.measured.is_meta and not now.is_meta:  # made under torch.device("meta")
            self.measured = torch.zeros_like(self.measured, device=now.device)
        known = self.m_ref.to(now.device)
        chosen = torch.where(known.isnan(), now, known)
        usable = (chosen > 0) & chosen.isfinite()
        if not transforms_active():  # torch.func forbids writing to what it did not pass in
            with torch.no_grad():
                before = self.measured.to(now.device)
                self.measured.copy_(torch.where(usable, _words(chosen), before))
        return torch.where(usable, chosen, 1).to(mean.dtype)

    def _surrogate(self, points: Tensor, lengths: Lengths | None) -> dict[str, Tensor]:
        from ._surrogate import surrogate_terms

        return surrogate_terms(points, lengths, self.alpha, self.include_self, self.weights)

    def _total(
        self, points: Tensor, lengths: Lengths | None, h0: H0Persistence | None = None
    ) -> dict[str, Tensor]:
        deaths = self._deaths(points, lengths, h0)
        if 0 in deaths.shape[:-1]:
            return {"connectivity": deaths.sum()}
        if self.eta is None:
            return {"connectivity": barcode.total_persistence(deaths, self.p, lengths)}
        return {"connectivity": barcode.total_deviation(deaths, self.eta, lengths)}

    def _warn_of_single_points(self, points: Tensor) -> None:
        """Warn that every cloud has a single point, so that the loss can only be 0."""
        if may_look(points):
            self._warn(
                "alone",
                f"TSLoss: every cloud has a single point in points of shape {tuple(points.shape)}, "
                "so the loss is always 0; expected (N, D) or (..., N, D) with N >= 2 points. If "
                "the points of one cloud stand in another dimension, move it: points.squeeze(-2), "
                "or points.transpose(-3, -2)",
            )

    def _warn_if_coincident(self, deaths: Tensor, lengths: Lengths | None) -> None:
        """Warn of coincident points where looking costs nothing. A tracer never looks. On a device
        with CUDA kernels, whose results are still to come, a later call warns."""
        if deaths.shape[-1] == 0 or "coincident" in self._warned or not may_look(deaths):
            return
        late = has_cuda_kernels(deaths.device)
        longest = deaths.detach()[..., -1] if lengths is None else deaths.detach().amax(-1)
        if not late and bool(longest.all()):
            return
        sizes = check_lengths(lengths, longest.shape, deaths.device)
        coincident = longest == 0 if sizes is None else (longest == 0) & (sizes > 1)
        count = coincident.sum() if late else int(coincident.sum())
        if isinstance(count, Tensor):
            count = late_counts.seen(self, count)
        if count:
            self.warn_coincident(count, coincident.numel())

    def warn_coincident(self, count: int, clouds: int) -> None:
        """Warn, once a module, that all points coincide in `count` of the clouds."""
        late_counts.forget(self)
        self._warn(
            "coincident",
            f"TSLoss: all points coincide in {count} of {clouds} "
            "clouds: their loss and gradient are 0, and no topological loss can separate them. "
            "Start from distinct vectors, or add a little noise (jitter)",
        )

    def _warn(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=8)  # past the frames of nn.Module and autograd
