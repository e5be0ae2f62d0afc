"""Numbers and curves of one barcode. `deaths` and `lengths` as in `tsloss_fast.barcode`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._inputs import Lengths, check_lengths
from ._bars import divide, finite_bars, masked, mean_of_bars, power


def _relative_deaths(deaths: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor]:
    """Deaths over their mean (..., M), 0 where it is 0; and where the mean (..., 1) is above 0."""
    mean = mean_of_bars(deaths, count, keepdim=True)
    positive = mean > 0
    return deaths / torch.where(positive, mean, 1), positive


def total_persistence(deaths: Tensor, p: float = 1.0, lengths: Lengths | None = None) -> Tensor:
    """Sum of deaths**p, (...), in the units of the deaths to the power p > 0.

    Source: Cohen-Steiner et al., Lipschitz Functions Have L_p-Stable Persistence, 2010.

    Example:
        >>> total_persistence(torch.tensor([1.0, 2.0, 3.0]), p=2).item()
        14.0
    """
    if not p > 0:
        raise ValueError(f"p: expected a number above 0, got {p}")
    deaths, _, _ = finite_bars(deaths, lengths)
    return power(deaths, p).sum(-1)


def total_deviation(deaths: Tensor, eta: float, lengths: Lengths | None = None) -> Tensor:
    """Sum of ``|death - eta|``, (...): how far the bars are from one length.

    Source: Hofer et al., Connectivity-Optimized Representation Learning via Persistent Homology,
    ICML 2019.

    Example:
        >>> total_deviation(torch.tensor([1.0, 2.0, 4.0]), eta=2.0).item()
        3.0
    """
    deaths, mask, _ = finite_bars(deaths, lengths)
    return masked((deaths - eta).abs(), mask).sum(-1)


def mean_death(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Mean of the finite deaths, (...).

    Example:
        >>> mean_death(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), lengths=[4, 2]).tolist()
        [2.0, 4.0]
    """
    deaths, _, count = finite_bars(deaths, lengths)
    return mean_of_bars(deaths, count)


def variance(deaths: Tensor, lengths: Lengths | None = None) -> Tensor:
    """Population variance of the finite deaths, (...), in squared units: no correction for the
    sample size.

    Example:
        >>> variance(torch.tensor([1.0, 3.0])).item()
        1.0
    """
    deaths, mask, count = finite_bars(deaths, lengths)
    deviation = deaths - mean_of_bars(deaths, count, keepdim=True)
    return mean_of_bars(masked(deviation.square(), mask), count)


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
    deaths, mask, count = finite_bars(deaths, lengths)
    relative, positive = _relative_deaths(deaths, count)
    spread = mean_of_bars(masked((relative - positive.to(deaths.dtype)).square(), mask), count)
    if rho is None:
        return spread, None
    short = (1 - relative * (1 / rho)).relu().square()
    short = torch.where(positive if mask is None else positive & mask, short, 0)
    return spread, mean_of_bars(short, count)


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
    deaths, _, count = finite_bars(deaths, lengths)
    share = divide(deaths, deaths.sum(-1, keepdim=True))
    zero = share == 0
    surprise = -torch.where(zero, torch.ones_like(share), share).log()
    entropy = (torch.where(zero, torch.zeros_like(share), share) * surprise).sum(-1)
    if normalize:
        highest = torch.as_tensor(count, dtype=entropy.dtype, device=entropy.device)
        return divide(entropy, highest.clamp(min=1).log().expand_as(entropy))
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
    deaths, mask, _ = finite_bars(deaths, lengths)
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
