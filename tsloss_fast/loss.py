"""TSLoss: the Topological Soft Prompt Loss, as a module.

Source: Huang et al., Optimizing Soft Prompt Tuning via Structural Evolution, arXiv 2602.16500. The
`exact` form works on the barcode itself; the `surrogate` form is a reconstruction of the published
smooth loss, whose constants are not public, and the `nearest` form is the hard limit of its
connectivity.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from . import _autograd, _core, _ops_cpu, _routing, barcode
from ._batch import (
    METRICS,
    Lengths,
    as_tensor,
    can_bypass_dispatcher,
    check_jagged,
    check_lengths,
    check_metric,
    dense,
    has_cuda_kernels,
    may_look,
    points_batch,
    raise_finding,
    raise_memory_error,
    refuse_partitioned,
    shape_error,
    transforms_active,
    type_advice,
    type_of_deaths,
)
from .functional import H0Persistence, given_barcode

# The arguments of each form with their default values. The first four are weights of terms.
_WEIGHTS = ("connectivity", "redundancy", "compactness", "loops")
_SWITCHES = ("include_self", "detach_thresholds")
_FORMS: dict[str, dict[str, Any]] = {
    "exact": {
        "connectivity": 1.0,
        "redundancy": 1.0,
        "compactness": 0.0,
        "loops": 0.0,
        "rho": 0.5,
        "reference": None,
    },
    "nearest": {"connectivity": 1.0},
    "surrogate": {
        "connectivity": 1.0,
        "redundancy": 1.0,
        "alpha": 10.0,
        "include_self": False,
        "detach_thresholds": False,
    },
    "total": {"connectivity": 1.0, "p": 1.0, "eta": None},
}
_CHECK = 0x5BD1E995  # the two words of a measured reference differ in these bits


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
      t∓ = Σ softmax(∓a·D)·D. The gradient flows through them unless `detach_thresholds`.

    `form="nearest"`, the limit of that connectivity for a → ∞: Var_i(n_i) / mean(n)², where n_i is
    the distance of point i to its nearest neighbour. It sees uneven neighbour distances, but no
    gaps between groups.

    `form="total"`: connectivity is Σ d**p, or, with `eta`, Hofer's ``Σ |d - eta|``.

    Args:
        form: "exact", "nearest", "surrogate" (Euclidean only) or "total".
        connectivity, redundancy, compactness, loops: weights of the terms that the form has, >= 0;
            1 for connectivity and redundancy if they are not given. Terms of weight 0 are not
            computed.
        metric: as in `h0_persistence`.
        rho: of the exact form, where a bar begins to be short, as a share of the mean (0.5).
        reference: m_ref of compactness, > 0. A reference that was measured instead is saved with
            the module, and is measured again where a framework has overwritten it.
        alpha: of the surrogate, its temperature in units of 1 / mean distance (10).
        include_self: the surrogate's literal equation, whose variance vanishes for alpha >= 5.
        detach_thresholds: the surrogate's t∓ count as constants in its gradient. Without this, the
            pull on far pairs fades again where distances vary by more than about 0.7 / alpha.
        p, eta: exponent (1) or target of the total form.

    Raises:
        ValueError: for weights, forms and parameters that do not fit, for an argument that the form
            does not use, or if all weights are 0; at construction.

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
    rho: float
    reference: float | None
    alpha: float
    include_self: bool
    detach_thresholds: bool = False  # modules that were saved whole may lack it
    p: float
    eta: float | None

    def __init__(
        self,
        form: str = "exact",
        connectivity: float = 1.0,
        redundancy: float | None = None,
        compactness: float = 0.0,
        loops: float = 0.0,
        *,
        metric: str = "euclidean",
        rho: float | None = None,
        reference: float | None = None,
        alpha: float | None = None,
        include_self: bool = False,
        detach_thresholds: bool = False,
        p: float | None = None,
        eta: float | None = None,
    ) -> None:
        super().__init__()
        if form not in _FORMS:
            raise ValueError(f"form: expected one of {', '.join(_FORMS)}, got {form!r}")
        check_metric(metric)
        if form == "surrogate" and metric != "euclidean":
            raise ValueError(f"form='surrogate' is defined for metric='euclidean', got {metric!r}")
        given = {
            "connectivity": connectivity,
            "redundancy": redundancy,
            "compactness": compactness,
            "loops": loops,
            "rho": rho,
            "reference": reference,
            "alpha": alpha,
            "include_self": bool(include_self),
            "detach_thresholds": bool(detach_thresholds),
            "p": p,
            "eta": eta,
        }
        used = _FORMS[form]
        for name, value in given.items():
            _check_number(name, value)
            # A weight of 0 and a switch that is off ask for nothing.
            asks = bool(value) if name in (*_WEIGHTS, *_SWITCHES) else value is not None
            if asks and name not in used:
                raise ValueError(
                    f"{name}: got {value} for form={form!r}, which does not use it; expected "
                    f"{', '.join(used)} alone"
                )
        values: dict[str, Any] = {n: used[n] if given[n] is None else given[n] for n in used}
        self.form = form
        self.metric = metric
        self.weights: dict[str, float] = {name: values.get(name, 0.0) for name in _WEIGHTS}
        for name in given:
            if name not in _WEIGHTS:
                setattr(self, name, values.get(name, given[name]))
        if p is not None and eta is not None:
            raise ValueError(
                f"p: got {p} beside eta={eta} for form='total', which uses one of them; pass one"
            )
        if reference is not None and not compactness:
            raise ValueError(
                f"reference: got {reference} with compactness=0, the term that it belongs to; pass "
                "a weight for compactness, or no reference"
            )
        if not any(self.weights.values()):
            raise ValueError(
                f"{', '.join(w for w in _WEIGHTS if w in used)}: got 0 for all weights, expected "
                "one above 0; without a loss, add nothing"
            )
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

    def extra_repr(self) -> str:
        used = _FORMS[self.form]
        shown = [f"form={self.form!r}"]
        shown += [f"{name}={weight:g}" for name, weight in self.weights.items() if weight]
        shown.append(f"metric={self.metric!r}")
        if self.weights["redundancy"] and "rho" in used:
            shown.append(f"rho={self.rho:g}")
        if "alpha" in used:
            shown.append(f"alpha={self.alpha:g}")
        if self.eta is None and "p" in used:
            shown.append(f"p={self.p:g}")
        shown += [f"{n}={v:g}" for n in ("reference", "eta") if (v := getattr(self, n)) is not None]
        shown += [f"{n}=True" for n in ("include_self", "detach_thresholds") if getattr(self, n)]
        return ", ".join(shown)

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
        terms that are computed, each a scalar without its weight. `h0`, deaths (..., N-1) and edges
        (..., N-1, 2): the barcode of exactly these points under the metric of the loss, if it is
        known, so that it is not computed again. Types, errors and cost are those of
        `h0_persistence` (surrogate: O(N² D) time and memory).
        """
        direct = can_bypass_dispatcher(points)
        if not direct:
            points, lengths = _as_points(points, lengths)
            direct = can_bypass_dispatcher(points)
        refuse_partitioned(points, "points")
        shape = points.shape
        if len(shape) < 2:
            raise shape_error("points", shape, "(N, D) or (..., N, D)")
        known = None
        if h0 is not None:
            deaths, edges = given_barcode(h0, shape)
            deaths = deaths.detach().to(points.device, type_of_deaths(points.dtype))
            known = deaths.contiguous(), edges.to(points.device).contiguous()
        if shape[-2] < 3 or lengths is not None:
            # The core looks at their numbers, unless it has nothing to compute.
            limit = None if known is None else shape[-2]
            lengths = check_lengths(lengths, shape[:-2], points.device, limit)
            self._warn_if_small(points, lengths)
        weights = self.weights
        if direct and self.form == "exact" and not weights["compactness"] + weights["loops"]:
            found = _autograd.apply_directly(_FusedLoss, points, self, lengths, known, return_terms)
            if not return_terms:
                return found
            total, *terms = found
            return total, {n: t for n, t in zip(_WEIGHTS, terms, strict=False) if weights[n]}
        terms = self._terms(points, lengths, known)
        total = self._weighted(terms)
        return (total, terms) if return_terms else total

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        parts = [t if self.weights[n] == 1 else self.weights[n] * t for n, t in terms.items()]
        return functools.reduce(torch.add, parts)

    def _terms(
        self, points: Tensor, lengths: Tensor | None, h0: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The terms by differentiable operations, scalars without their weights."""
        if self.form == "surrogate":
            found = _surrogate_terms(self, points, lengths)
        else:
            try:
                deaths, edges = _autograd.h0(points_batch(points, self.metric, lengths, None), h0)
            except (RuntimeError, MemoryError) as error:
                raise_memory_error(error, "TSLoss", points)
            if 0 in deaths.shape[:-1]:
                # No clouds: the mean over them is 0, not NaN.
                deaths, edges, lengths = deaths.sum().expand(1, 0), edges.new_empty(1, 0, 2), None
            if self.form == "exact":
                found = self._exact(points, deaths, lengths)
            elif self.form == "nearest":
                found = {"connectivity": _nearest_variance(deaths, edges, lengths)}
            elif self.eta is None:
                found = {"connectivity": barcode.total_persistence(deaths, self.p, lengths)}
            else:
                found = {"connectivity": barcode.total_deviation(deaths, self.eta, lengths)}
            if self.form != "total":
                self._warn_if_coincident(deaths, lengths)
        return {name: term.mean() if term.dim() else term for name, term in found.items()}

    def _exact(self, points: Tensor, deaths: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
        weights, terms = self.weights, {}
        if weights["connectivity"] or weights["redundancy"]:
            rho = self.rho if weights["redundancy"] else None
            spread, short = barcode.scale_free_terms(deaths, rho, lengths)
            if weights["connectivity"]:
                terms["connectivity"] = spread
            if short is not None:
                terms["redundancy"] = short
        if weights["compactness"]:
            mean = barcode.mean_death(deaths, lengths)
            terms["compactness"] = mean / self._reference(mean)
        if weights["loops"]:
            loops = _total_loops(points, lengths, self.metric)
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

    def _warn_if_small(self, points: Tensor, lengths: Tensor | None) -> None:
        """Warn where no cloud has enough points for a loss that depends on them: that is rarely
        meant, and the usual reason is that the points stand in another dimension. Lengths are read
        in the first call alone, since that takes time."""
        needed = 2 if self.form == "total" or self.weights["compactness"] else 3
        most, shape = points.shape[-2], tuple(points.shape)
        if "small" in self._warned or not may_look(points):
            return
        sizes = None if "lengths" in self._warned or most < needed else lengths
        if sizes is not None and sizes.is_cpu and sizes.numel() and may_look(sizes):
            self._warned.add("lengths")
            most = max(int(sizes.max()), 0)
        if most >= needed or 0 in shape[:-2]:
            return
        clouds, at_most = math.prod(shape[:-2]), "at most " if most < shape[-2] else ""
        self._warn(
            "small",
            f"TSLoss: {shape} is {clouds} cloud{'s' * (clouds != 1)} of {at_most}{most} "
            f"point{'s' * (most != 1)}, and with fewer than {needed} points in every cloud the "
            "loss is the same wherever they are; expected (N, D) or (..., N, D) with "
            f"N >= {needed}. If the points of one cloud stand in another dimension, move it: "
            "points.squeeze(-2), or points.transpose(-3, -2)",
        )

    def _warn_if_coincident(self, deaths: Tensor, lengths: Tensor | None) -> None:
        """Warn of coincident points where looking costs nothing. A tracer never looks. Where CUDA
        kernels are still to bring the deaths, only the first call looks, and waits for them: a
        prompt that begins with coincident points is what users have to be told of."""
        if deaths.shape[-1] == 0 or "coincident" in self._warned or not may_look(deaths):
            return
        if has_cuda_kernels(deaths.device):
            if torch.cuda.is_current_stream_capturing() or "looked" in self._warned:
                return
            self._warned.add("looked")
        longest = deaths.detach()[..., -1] if lengths is None else deaths.detach().amax(-1)
        if bool(longest.all()):
            return
        coincident = longest == 0 if lengths is None else (longest == 0) & (lengths > 1)
        if count := int(coincident.sum()):
            self._warn_coincident(count, coincident.numel())

    def _warn_coincident(self, count: int, clouds: int) -> None:
        """Warn, once a module, that all points coincide in `count` of the clouds."""
        self._warn(
            "coincident",
            f"TSLoss: all points coincide in {count} of {clouds} "
            "clouds: their loss and gradient are 0, and no topological loss can separate them. "
            "Start from distinct vectors, or add a little noise (jitter)",
        )

    def _warn(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=_ops_cpu.level_of_caller())


class _FusedLoss(torch.autograd.Function):
    """The exact loss and its terms in one call of the core, and their gradient in another: ten
    small tensor operations and their backward passes take longer than the barcode.

    Between the calls an object of the core keeps the barcode and its slopes, until the graph is
    freed. As saved tensors they would take longer, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        loss: TSLoss,
        lengths: Tensor | None,
        h0: Any,
        with_terms: bool,
    ) -> Any:
        weights, (deaths, edges) = loss.weights, h0 or (None, None)
        try:
            kept, values, coincident, finding = _core.fused_loss(
                METRICS[loss.metric],
                dense(points, "points") if h0 is None else points,
                None if lengths is None else dense(lengths, "lengths"),
                deaths,
                edges,
                weights["connectivity"],
                weights["redundancy"],
                loss.rho,
                with_terms,
                torch.get_num_threads(),
            )
        except (RuntimeError, MemoryError) as error:
            raise_memory_error(error, "TSLoss", points)
        if finding is not None:
            raise_finding(finding, math.prod(points.shape[:-2]), "points", points.dtype)
        if coincident:
            loss._warn_coincident(coincident, math.prod(points.shape[:-2]))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(points)
        ctx.kept = loss, lengths, kept
        return values if with_terms else values[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (points,) = ctx.saved_tensors
        loss, lengths, kept = ctx.kept
        create_graph = torch.is_grad_enabled()
        if create_graph or not all(g is None or can_bypass_dispatcher(g) for g in grads):
            routed = _FusedLoss.by_operations(loss, points, lengths, grads, create_graph)
        else:
            # A hook on saved tensors may have given anything back.
            x = dense(points.resolve_neg(), "points")
            routed = kept.gradient(x, grads, torch.get_num_threads())
        return routed, None, None, None, None

    @staticmethod
    def by_operations(
        loss: TSLoss, points: Tensor, lengths: Tensor | None, grads: Any, create_graph: bool
    ) -> Tensor | None:
        """The gradient at the points by differentiable operations, to any order."""
        with torch.enable_grad():
            x = points if points.requires_grad else points.detach().requires_grad_()
            terms = loss._terms(x, lengths)
            total = loss._weighted(terms)
            values = (total, *(terms.get(name) for name in _WEIGHTS[:2]))
            known = [
                (v, g)
                for v, g in zip(values, grads, strict=False)
                if v is not None and g is not None
            ]
            if not known:  # no gradient has come from above
                return None
            outputs, weights = zip(*known, strict=True)
            (routed,) = torch.autograd.grad(outputs, x, weights, create_graph=create_graph)
        return routed


def _check_number(name: str, value: Any) -> None:
    """Raise ValueError for a weight or parameter that no form could use."""
    if value is None or name in _SWITCHES:
        return
    if name in _WEIGHTS or name == "eta":
        if not (value >= 0 and math.isfinite(value)):
            what = "number" if name == "eta" else "weight"
            raise ValueError(f"{name}: expected a finite {what} >= 0, got {value}")
    elif not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")


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


def _words(value: Tensor) -> Tensor:
    """The bits of a number as float32, and a word that differs from them in `_CHECK`."""
    bits = value.float().reshape(1).view(torch.int32)
    return torch.cat([bits, bits ^ _CHECK])


def _nearest_variance(deaths: Tensor, edges: Tensor, lengths: Tensor | None) -> Tensor:
    """The variance of the nearest-neighbour distances over their squared mean, (...), from deaths
    (..., M) and edges (..., M, 2): the least death on an edge at a point is its distance to the
    nearest other point."""
    bars = deaths.shape[-1]
    if bars == 0:
        return deaths.sum(-1)
    # Deaths ascend, so the first edge at each point is its shortest; `bars` where there is none.
    number = torch.arange(bars, device=deaths.device).unsqueeze(-1)
    number = torch.where(edges < 0, bars, number).flatten(-2)
    first = torch.full((*deaths.shape[:-1], bars + 1), bars, device=deaths.device)
    first = first.scatter_reduce(-1, edges.clamp(min=0).flatten(-2), number, "amin")
    nearest = deaths.gather(-1, first.clamp(max=bars - 1))
    # n distances, as the deaths of n + 1 points would be.
    sizes = None if lengths is None else torch.where(lengths > 1, lengths + 1, 1)
    return barcode.relative_variance(nearest, sizes)


def _softmax_mean(distances: Tensor, logits: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Σ softmax(logits)·distances over `dims` where mask holds; 0 where it holds nowhere."""
    logits = torch.where(mask, logits, float("-inf"))
    highest = logits.detach().amax(dims, keepdim=True)
    weight = torch.where(mask, (logits - torch.where(highest.isfinite(), highest, 0)).exp(), 0)
    norm = weight.sum(dims)
    mean = (weight * torch.where(mask, distances, 0)).sum(dims)
    return mean / torch.where(norm == 0, 1, norm)


def _distances(clouds: Tensor) -> Tensor:
    """Distances (B, N, N) by direct difference, derivative 0 at 0, any number of times.

    Not torch.cdist: its Gram form loses near points, and it has no second derivative.
    """
    batch, n, _ = clouds.shape
    i, j = torch.triu_indices(n, n, 1, device=clouds.device).unbind(0)
    pairs = torch.stack([i, j], dim=-1).expand(batch, -1, -1)
    lengths = _routing.edge_lengths(clouds, pairs, "euclidean")
    # The number of each pair at both its entries; the diagonal points at a zero after the last.
    number = torch.full((n, n), i.numel(), device=clouds.device)
    number[i, j] = number[j, i] = torch.arange(i.numel(), device=clouds.device)
    return torch.nn.functional.pad(lengths, (0, 1))[:, number]


def _surrogate_terms(loss: TSLoss, points: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
    """The terms of weight above 0, (B,) each, of points (..., N, D). O(N² D) time and memory."""
    n = points.shape[-2]
    sizes = check_lengths(lengths, points.shape[:-2], points.device, limit=n)
    x = points.to(type_of_deaths(points.dtype))
    clouds = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    batch, weights = len(clouds), loss.weights
    if batch == 0 or n < 2:
        zero = clouds.sum((1, 2)) * 0 if batch else clouds.sum().reshape(1)
        return {name: zero for name in _WEIGHTS[:2] if weights[name]}
    if sizes is None:
        valid = torch.ones((batch, n), dtype=torch.bool, device=x.device)
    else:
        valid = torch.arange(n, device=x.device) < sizes.reshape(-1, 1)
        clouds = torch.where(valid.unsqueeze(-1), clouds, torch.zeros_like(clouds))
    distances = _distances(clouds)
    both = valid.unsqueeze(1) & valid.unsqueeze(2)
    pairs = both & torch.ones((n, n), dtype=torch.bool, device=x.device).triu(1)
    count = pairs.sum((1, 2)).clamp(min=1).to(x.dtype)
    mean = torch.where(pairs, distances, 0).sum((1, 2)) / count
    scaled = distances * (loss.alpha / torch.where(mean == 0, 1, mean)).reshape(-1, 1, 1)

    terms = {}
    if weights["connectivity"]:
        itself = torch.eye(n, dtype=torch.bool, device=x.device)
        nearest = _softmax_mean(
            distances, -scaled, both if loss.include_self else both & ~itself, (2,)
        )
        size = valid.sum(1).clamp(min=1).to(x.dtype)
        centre = (torch.where(valid, nearest, 0).sum(1) / size).unsqueeze(1)
        terms["connectivity"] = torch.where(valid, (nearest - centre).square(), 0).sum(1) / size
    if weights["redundancy"]:
        low = _softmax_mean(distances, -scaled, pairs, (1, 2)).reshape(-1, 1, 1)
        high = _softmax_mean(distances, scaled, pairs, (1, 2)).reshape(-1, 1, 1)
        if loss.detach_thresholds:
            low, high = low.detach(), high.detach()
        outside = (low - distances).relu() + (distances - high).relu()
        terms["redundancy"] = torch.where(pairs, outside, 0).sum((1, 2)) / count
    return terms


def _critical_edges(points: Tensor, metric: str) -> Tensor:
    """(L, 2, 2) int64: for each finite H1 bar the edge that gives it birth and the edge that fills
    it."""
    try:
        import gudhi
    except ImportError as error:
        raise ImportError(
            "loops (H1 persistence) needs GUDHI; install it: pip install 'tsloss-fast[analysis]'"
        ) from error
    n = points.shape[0]
    pairs = torch.combinations(torch.arange(n, device="cpu"), 2)
    distances = torch.zeros((n, n), dtype=torch.float64, device="cpu")
    lengths = _routing.edge_lengths(points.double(), pairs, metric)
    distances[pairs[:, 0], pairs[:, 1]] = lengths
    distances[pairs[:, 1], pairs[:, 0]] = lengths
    tree = gudhi.SimplexTree.create_from_array(distances.numpy())
    tree.expansion(2)
    tree.compute_persistence(homology_coeff_field=2)
    by_dimension = tree.flag_persistence_generators()[1]
    if len(by_dimension) == 0:
        return torch.empty((0, 2, 2), dtype=torch.int64, device="cpu")
    return torch.from_numpy(by_dimension[0].astype("int64")).reshape(-1, 2, 2)


def _total_loops(points: Tensor, lengths: Tensor | None, metric: str) -> Tensor:
    """Sum of death - birth over the finite 1-dimensional Rips bars of each cloud, (B,).

    The complex is built by GUDHI on the CPU in float64, O(n³) simplices a cloud: meant for prompts,
    not for vocabularies. The gradient of each bar reaches the four ends of its two critical edges
    (Gabrielsson et al., A Topology Layer for Machine Learning, AISTATS 2020).
    """
    x = points.to(type_of_deaths(points.dtype))
    clouds = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    sizes = [x.shape[-2]] * len(clouds) if lengths is None else lengths.reshape(-1).tolist()
    totals = []
    for cloud, size in zip(clouds.unbind(0), sizes, strict=True):
        valid = cloud[:size]
        if size < 4:  # a loop needs four points
            totals.append(valid.sum() * 0)
            continue
        critical = _critical_edges(valid.detach().cpu(), metric).to(valid.device)
        bars = _routing.edge_lengths(valid, critical.reshape(-1, 2), metric).reshape(-1, 2)
        birth, death = bars.unbind(-1)
        totals.append((death - birth).sum())
    return torch.stack(totals) if totals else clouds.sum((1, 2))
