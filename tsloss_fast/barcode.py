"""Functionals of 0-dimensional barcodes, differentiable and batched.

`deaths` is (..., M) as `h0_persistence` gives it: the M = N-1 finite deaths of each cloud in
ascending order, all births 0. `lengths` (...) gives the number of *points* of each cloud of a
padded batch; a cloud of n points has n - 1 bars, and the padding is ignored. Without bars every
functional is 0. `lengths_a` and `lengths_b` are the same for the two barcodes of a distance.

Deaths may be of any floating type and on any device; results are of the same. Where nothing else is
said, they are in the units of the deaths and take O(M) a cloud. Every function raises `TypeError`
for deaths that are no floating tensor, and `ValueError` for shapes, lengths and parameters that do
not fit.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from . import _ops
from ._inputs import Lengths, check_lengths, runs_directly
from .functional import H0Persistence

__all__ = [  # noqa: RUF022 - in the order in which one reads of them
    "total_persistence",
    "mean_death",
    "variance",
    "relative_variance",
    "coefficient_of_variation",
    "redundancy",
    "scale_free_terms",
    "total_deviation",
    "persistent_entropy",
    "betti_curve",
    "num_components",
    "bottleneck_distance",
    "wasserstein_distance",
    "single_linkage",
]


def _require_deaths(deaths: Tensor, name: str = "deaths") -> None:
    if not isinstance(deaths, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor of deaths, got {type(deaths).__name__}")
    if not deaths.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {deaths.dtype}")
    if deaths.dim() < 1:
        raise ValueError(f"{name}: expected shape (..., M), got a scalar")


def _bars(deaths: Tensor, lengths: Lengths | None) -> tuple[Tensor, Tensor | None, Tensor | int]:
    """Deaths with zeros in the padding, the mask of the bars (None: all), their number (...)."""
    _require_deaths(deaths)
    size = deaths.shape[-1]
    sizes = check_lengths(lengths, deaths.shape[:-1], deaths.device, limit=size + 1)
    if sizes is None:
        return deaths, None, size
    bars = (sizes - 1).clamp(min=0)
    mask = torch.arange(size, device=deaths.device) < bars.unsqueeze(-1)
    return torch.where(mask, deaths, torch.zeros_like(deaths)), mask, bars.to(deaths.dtype)


def _mean(x: Tensor, count: Tensor | int, keepdim: bool = False) -> Tensor:
    """Sum over the last dimension divided by the number of bars; 0 without bars."""
    total = x.sum(-1, keepdim=keepdim)
    if isinstance(count, Tensor):
        count = count.clamp(min=1)
        return total / (count.unsqueeze(-1) if keepdim else count)
    return total / max(count, 1)


def relative_deaths(deaths: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor]:
    """Deaths over their mean (..., M), 0 where it is 0; and where the mean (..., 1) is above 0."""
    mean = _mean(deaths, count, keepdim=True)
    positive = mean > 0
    return deaths / torch.where(positive, mean, 1), positive


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask, x, torch.zeros_like(x))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 with derivative 0 where y is 0."""
    empty = y == 0
    return torch.where(empty, torch.zeros_like(x), x / torch.where(empty, torch.ones_like(y), y))


def _power(x: Tensor, p: float) -> Tensor:
    """x**p for x >= 0, with derivative 0 at 0 for every p > 0."""
    if p == 1:
        return x
    if p == 2:
        return x.square()
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).pow(p))


def total_persistence(deaths: Tensor, p: float = 1.0, lengths: Lengths | None = None) -> Tensor:
    """Sum of deaths**p, (...), in the units of the deaths to the power p > 0.

    Source: Cohen-Steiner et al., Lipschitz Functions Have L_p-Stable Persistence, 2010.

    Example:
        >>> total_persistence(torch.tensor([1.0, 2.0, 3.0]), p=2).item()
        14.0
    """
    if not p > 0:
        raise ValueError(f"p: expected a number above 0, got {p}")
    deaths, _, _ = _bars(deaths, lengths)
    return _power(deaths, p).sum(-1)


def total_deviation(deaths: Tensor, eta: float, lengths: Lengths | None = None) -> Tensor:
    """Sum of ``|death - eta|``, (...): how far the bars are from one length.

    Source: Hofer et al., Connectivity-Optimized Representation Learning via Persistent Homology,
    ICML 2019.

    Example:
        >>> total_deviation(torch.tensor([1.0, 2.0, 4.0]), eta=2.0).item()
        3.0
    """
    deaths, mask, _ = _bars(deaths, lengths)
    return _masked((deaths - eta).abs(), mask).sum(-1)


def mean_death(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Mean of the finite deaths, (...).

    Example:
        >>> mean_death(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), lengths=[4, 2]).tolist()
        [2.0, 4.0]
    """
    deaths, _, count = _bars(deaths, lengths)
    return _mean(deaths, count)


def variance(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Population variance of the finite deaths, (...), in squared units: no correction for the
    sample size.

    Example:
        >>> variance(torch.tensor([1.0, 3.0])).item()
        1.0
    """
    deaths, mask, count = _bars(deaths, lengths)
    return _mean(_masked((deaths - _mean(deaths, count, keepdim=True)).square(), mask), count)


def scale_free_terms(
    deaths: Tensor,
    rho: float | None,
    lengths: Lengths | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`relative_variance` and, unless rho is None, `redundancy`, (...) each, with shared work.

    Example:
        >>> spread, short = scale_free_terms(torch.tensor([0.5, 2.0, 2.0, 3.5]), rho=0.5)
        >>> spread.item(), short.item()
        (0.28125, 0.0625)
    """
    deaths, mask, count = _bars(deaths, lengths)
    relative, positive = relative_deaths(deaths, count)
    spread = _mean(_masked((relative - positive.to(deaths.dtype)).square(), mask), count)
    if rho is None:
        return spread, None
    short = (1 - relative * (1 / rho)).relu().square()
    short = torch.where(positive if mask is None else positive & mask, short, 0)
    return spread, _mean(short, count)


def relative_variance(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Variance over the squared mean, (...), without a unit: 0 for equal bars, and unchanged when
    the cloud is scaled.

    Example:
        >>> relative_variance(torch.tensor([1.0, 3.0])).item()
        0.25
    """
    return scale_free_terms(deaths, None, lengths)[0]


def coefficient_of_variation(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Standard deviation of the deaths over their mean, (...), without a unit. Derivative 0 where
    it is 0.

    Example:
        >>> coefficient_of_variation(torch.tensor([1.0, 3.0])).item()
        0.5
    """
    square = relative_variance(deaths, lengths)
    zero = square == 0
    root = torch.where(zero, torch.ones_like(square), square).sqrt()
    return torch.where(zero, torch.zeros_like(square), root)


def redundancy(deaths: Tensor, rho: float = 0.5, lengths: Lengths | None = None) -> Tensor:
    """Mean of relu(1 - death / (rho · mean death))², (...): how far the short bars are below rho
    of the mean. A short bar is two points that nearly coincide. 0 where all deaths are 0.
    Scale-free, so without a unit.

    Example:
        >>> redundancy(torch.tensor([0.5, 2.0, 2.0, 3.5])).item()  # one bar is half of rho · mean
        0.0625
    """
    if not rho > 0:
        raise ValueError(f"rho: expected a number above 0, got {rho}")
    short = scale_free_terms(deaths, rho, lengths)[1]
    assert short is not None
    return short


def persistent_entropy(
    deaths: Tensor,
    lengths: Lengths | None = None,
    normalize: bool = False,
    base: float | None = None,
) -> Tensor:
    """Shannon entropy of the deaths as shares of their sum, (...).

    0 for no bars or bars all of length 0. `base` of the logarithm: default e. With `normalize` the
    entropy is divided by its largest value, the logarithm of the number of bars (0 for one bar);
    `base` then cancels.

    Source: Chintakunta et al., An entropy-based persistence barcode, Pattern Recognition 48, 2015.

    Example:
        >>> equal = torch.ones(8)
        >>> round(persistent_entropy(equal, base=2).item(), 4)
        3.0
        >>> round(persistent_entropy(equal, normalize=True).item(), 4)
        1.0
    """
    if base is not None and not (base > 0 and base != 1):
        raise ValueError(f"base: expected a positive number other than 1, got {base}")
    deaths, _, count = _bars(deaths, lengths)
    share = _divide(deaths, deaths.sum(-1, keepdim=True))
    zero = share == 0
    surprise = -torch.where(zero, torch.ones_like(share), share).log()
    entropy = (torch.where(zero, torch.zeros_like(share), share) * surprise).sum(-1)
    if normalize:
        highest = torch.as_tensor(count, dtype=entropy.dtype, device=entropy.device)
        return _divide(entropy, highest.clamp(min=1).log().expand_as(entropy))
    return entropy if base is None else entropy / math.log(base)


def betti_curve(
    deaths: Tensor, scales: Tensor, lengths: Lengths | None = None, smoothing: float = 0.0
) -> Tensor:
    """Number of connected components at each scale, (..., S) for `scales` (S,).

    A bar is alive at s where 0 <= s < death; the infinite bar always. With `smoothing` 0: exact
    counts, int64, which have no derivative. Above 0: each step is replaced by sigmoid((death - s)
    / smoothing) and the result is differentiable in deaths and scales. Scales and smoothing are in
    the units of the deaths. O(M S).

    Example:
        >>> betti_curve(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0, 5.0])).tolist()
        [3, 2, 1]
    """
    if smoothing < 0:
        raise ValueError(f"smoothing: expected a number >= 0, got {smoothing}")
    deaths, mask, _ = _bars(deaths, lengths)
    scales = torch.as_tensor(scales, dtype=deaths.dtype, device=deaths.device)
    if scales.dim() != 1:
        raise ValueError(f"scales: expected shape (S,), got {tuple(scales.shape)}")
    gap = deaths.unsqueeze(-2) - scales.unsqueeze(-1)
    alive = gap > 0 if smoothing == 0 else (gap / smoothing).sigmoid()
    if mask is not None:
        alive = torch.where(mask.unsqueeze(-2), alive, torch.zeros_like(alive))
    count = alive.sum(-1)
    sizes = check_lengths(lengths, deaths.shape[:-1], deaths.device)
    infinite = (
        torch.ones_like(count) if sizes is None else (sizes > 0).unsqueeze(-1).to(count.dtype)
    )
    return torch.where(scales >= 0, count + infinite, torch.zeros_like(count))


def num_components(
    deaths: Tensor, scale: float | Tensor, lengths: Lengths | None = None, smoothing: float = 0.0
) -> Tensor:
    """Number of connected components at one scale, (...); `smoothing` as in `betti_curve`.

    Example:
        >>> num_components(torch.tensor([1.0, 2.0]), 1.5).item()
        2
    """
    scales = torch.as_tensor(scale, dtype=deaths.dtype, device=deaths.device).reshape(1)
    return betti_curve(deaths, scales, lengths, smoothing).squeeze(-1)


def _pair(
    a: Tensor, b: Tensor, lengths_a: Lengths | None, lengths_b: Lengths | None
) -> tuple[Tensor, Tensor]:
    """Deaths of two barcodes, zero-padded to one size, broadcast, descending."""
    _require_deaths(a, "a")
    _require_deaths(b, "b")
    a, b = _bars(a, lengths_a)[0], _bars(b, lengths_b)[0]
    dtype = torch.promote_types(a.dtype, b.dtype)
    size = max(a.shape[-1], b.shape[-1])
    a = torch.nn.functional.pad(a.to(dtype), (0, size - a.shape[-1]))
    b = torch.nn.functional.pad(b.to(dtype), (0, size - b.shape[-1]))
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        raise ValueError(
            f"a and b: expected batches that broadcast, got {tuple(a.shape[:-1])} and "
            f"{tuple(b.shape[:-1])}"
        ) from error
    return a.sort(-1, descending=True).values, b.sort(-1, descending=True).values


def bottleneck_distance(
    a: Tensor,
    b: Tensor,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Tensor:
    """Bottleneck distance (...) between the finite parts of two H0 barcodes (..., M) and (..., M').

    The ground metric is L∞, as in GUDHI and Hera: ``|a - b|`` between two bars, a/2 from a bar to
    the diagonal. Closed form, O(M log M): since all births are 0, matching the k-th longest bar
    with the k-th longest is optimal, each pair at ``min(|a - b|, max(a, b) / 2)``. (Exchange
    argument: a bar above 2r must be matched within r, and then it can be with the longest of the
    other side.) The infinite bars match each other at no cost.

    Example:
        >>> bottleneck_distance(torch.tensor([1.0, 4.0]), torch.tensor([3.5])).item()
        0.5
    """
    a, b = _pair(a, b, lengths_a, lengths_b)
    if a.shape[-1] == 0:
        return (a + b).sum(-1)
    return torch.minimum((a - b).abs(), torch.maximum(a, b) / 2).amax(-1)


def wasserstein_distance(
    a: Tensor,
    b: Tensor,
    p: float = 1.0,
    lengths_a: Lengths | None = None,
    lengths_b: Lengths | None = None,
) -> Tensor:
    """p-Wasserstein distance (...), p >= 1, between the finite parts of two H0 barcodes.

    The ground metric is L∞, as in GUDHI and Hera (`internal_p=inf`): ``|a - b|`` between two bars,
    a/2 from a bar to the diagonal. Unlike for the bottleneck distance, matching in order of length
    is not optimal ({4} against {5, 3.9}: 4-3.9 and 5 alone beat 4-5 and 3.9 alone), but an optimal
    matching never crosses, since ``|a - b|**p`` is convex: dynamic programming over the sorted
    bars, O(M·M') in M vectorised steps, in float64. Differentiable through the optimal matching.

    Example:
        >>> wasserstein_distance(torch.tensor([1.0, 4.0]), torch.tensor([3.5])).item()
        1.0
    """
    if not p >= 1:
        raise ValueError(f"p: expected a number >= 1, got {p}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = _pair(a, b, lengths_a, lengths_b)
    if a.device.type != "mps":
        a, b = a.double(), b.double()
    wanted = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if not wanted and runs_directly(a) and runs_directly(b):
        # The same recurrence: on short rows it is calls that cost, and those of NumPy cost less.
        cost = torch.from_numpy(_matching_cost(a.detach().numpy(), b.detach().numpy(), p))
        return _root(cost, p).to(dtype)
    alone_a, alone_b = _power(a / 2, p), _power(b / 2, p)
    # cost[j]: the bars of a so far against the first j of b. A run of unmatched bars of b costs a
    # difference of prefix sums, so the scan over j is a running minimum.
    prefix = torch.nn.functional.pad(alone_b.cumsum(-1), (1, 0))
    cost = prefix
    for k in range(a.shape[-1]):
        skip = cost + alone_a[..., k : k + 1]
        match = cost[..., :-1] + _power((a[..., k : k + 1] - b).abs(), p)
        cost = torch.cat([skip[..., :1], torch.minimum(skip[..., 1:], match)], dim=-1)
        cost = prefix + (cost - prefix).cummin(-1).values
    return _root(cost[..., -1], p).to(dtype)


def _matching_cost(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """The loop of `wasserstein_distance` in NumPy: (..., M) and (..., M') descending -> (...)."""
    alone_a, alone_b = (a / 2) ** p, (b / 2) ** p
    prefix = np.zeros((*b.shape[:-1], b.shape[-1] + 1))
    np.cumsum(alone_b, axis=-1, out=prefix[..., 1:])
    cost = prefix.copy()
    for k in range(a.shape[-1]):
        match = np.abs(a[..., k : k + 1] - b)
        if p != 1:
            match **= p
        match += cost[..., :-1]
        cost += alone_a[..., k : k + 1]
        np.minimum(cost[..., 1:], match, out=cost[..., 1:])
        cost -= prefix
        np.minimum.accumulate(cost, axis=-1, out=cost)
        cost += prefix
    return np.asarray(cost[..., -1])


def _root(cost: Tensor, p: float) -> Tensor:
    """The p-th root of a matching's cost, with derivative 0 at 0."""
    # Differences of prefix sums can leave a rounding error of either sign where the distance is 0.
    total = cost.clamp(min=0)
    zero = total == 0
    root = total if p == 1 else torch.where(zero, torch.ones_like(total), total).pow(1 / p)
    return torch.where(zero, torch.zeros_like(total), root)


def single_linkage(h0: H0Persistence) -> Tensor:
    """The dendrogram as SciPy's linkage matrix, (..., N-1, 4) float64, from `h0_persistence`'s
    result.

    Columns: the two merged clusters (smaller id first; the points are 0 … N-1, the k-th merge makes
    cluster N+k), the height, the size of the result. Heights carry the gradient of the deaths.
    O(N log N). `scipy.cluster.hierarchy` takes one cloud's matrix, detached and on the CPU, as it
    is.

    Raises:
        ValueError: for padded clouds: slice each to its own n - 1 bars first.

    Source: Gower & Ross, Minimum Spanning Trees and Single Linkage Cluster Analysis, Applied
    Statistics 18, 1969.

    Example:
        >>> from tsloss_fast import h0_persistence
        >>> h0 = h0_persistence(torch.tensor([[0.0], [1.0], [3.0]]))
        >>> single_linkage(h0)
        tensor([[0., 1., 1., 2.],
                [2., 3., 2., 3.]], dtype=torch.float64)
    """
    deaths, edges = torch.as_tensor(h0[0]), torch.as_tensor(h0[1])
    if bool((edges < 0).any()):
        raise ValueError(
            "single_linkage: the clouds are padded (edges contain -1); expected whole clouds. "
            "Slice each one to its lengths[b] - 1 bars first"
        )
    bars = deaths.shape[-1]
    merges = _ops.linkage_merges(edges.reshape(math.prod(deaths.shape[:-1]), bars, 2))
    columns = merges.reshape(*deaths.shape, 3).to(deaths.device, torch.float64)
    first, second, size = columns.unbind(-1)
    return torch.stack([first, second, deaths.to(torch.float64), size], dim=-1)
