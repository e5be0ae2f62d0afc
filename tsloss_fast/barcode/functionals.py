"""Numbers and curves of one barcode. `deaths` and `lengths` as in `tsloss_fast.barcode`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._batch import Array, Lengths
from ._bars import (
    Bars,
    Deaths,
    as_given,
    check_number,
    divide,
    finite_bars,
    masked,
    mean_of_bars,
    power,
    refuse_masked,
)


def _relative_deaths(deaths: Tensor, count: Tensor | int) -> tuple[Tensor, Tensor]:
    """Deaths over their mean (..., M), 0 where it is 0; and where the mean (..., 1) is above 0."""
    mean = mean_of_bars(deaths, count, keepdim=True)
    positive = mean > 0
    return deaths / torch.where(positive, mean, 1), positive


def total_persistence(deaths: Deaths, p: float = 1.0, lengths: Lengths | None = None) -> Deaths:
    """Sum of deaths**p, (...), in the units of the deaths to the power p > 0.

    Source: Cohen-Steiner et al., Lipschitz Functions Have L_p-Stable Persistence, 2010.

    Example:
        >>> total_persistence(torch.tensor([1.0, 2.0, 3.0]), p=2).item()
        14.0
    """
    check_number(p, "p", 0)
    bars = finite_bars(deaths, lengths)
    return as_given(power(bars.deaths, p).sum(-1), deaths)


def total_deviation(deaths: Deaths, eta: float, lengths: Lengths | None = None) -> Deaths:
    """Sum of ``|death - eta|``, (...): how far the bars are from one length.

    Source: Hofer et al., Connectivity-Optimized Representation Learning via Persistent Homology,
    ICML 2019.

    Example:
        >>> total_deviation(torch.tensor([1.0, 2.0, 4.0]), eta=2.0).item()
        3.0
    """
    if not isinstance(eta, Tensor):
        check_number(eta, "eta")
    elif eta.dim() or eta.is_complex():
        kind = f"shape {tuple(eta.shape)} and type {eta.dtype}"
        raise ValueError(f"eta: got a tensor of {kind}, expected one real number")
    bars = finite_bars(deaths, lengths)
    return as_given(masked((bars.deaths - eta).abs(), bars.mask).sum(-1), deaths)


def mean_death(deaths: Deaths, lengths: Lengths | None = None) -> Deaths:
    """Mean of the finite deaths, (...).

    Example:
        >>> mean_death(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), lengths=[4, 2]).tolist()
        [2.0, 4.0]
    """
    bars = finite_bars(deaths, lengths)
    return as_given(mean_of_bars(bars.deaths, bars.number), deaths)


def variance(deaths: Deaths, lengths: Lengths | None = None) -> Deaths:
    """Population variance of the finite deaths, (...), in squared units: no correction for the
    sample size.

    Example:
        >>> variance(torch.tensor([1.0, 3.0])).item()
        1.0
    """
    x, mask, count, _ = finite_bars(deaths, lengths)
    deviation = x - mean_of_bars(x, count, keepdim=True)
    return as_given(mean_of_bars(masked(deviation.square(), mask), count), deaths)


def scale_free_terms(
    deaths: Deaths,
    rho: float | None,
    lengths: Lengths | None = None,
) -> tuple[Deaths, Deaths | None]:
    """`relative_variance` and, unless rho is None, `redundancy`, (...) each, with shared work.

    Example:
        >>> spread, short = scale_free_terms(torch.tensor([0.5, 2.0, 2.0, 3.5]), rho=0.5)
        >>> spread.item(), short.item()
        (0.28125, 0.0625)
    """
    spread, short = _scale_free_terms(finite_bars(deaths, lengths), rho)
    return as_given(spread, deaths), None if short is None else as_given(short, deaths)


def _scale_free_terms(bars: Bars, rho: float | None) -> tuple[Tensor, Tensor | None]:
    x, mask, count, _ = bars
    relative, positive = _relative_deaths(x, count)
    spread = mean_of_bars(masked((relative - positive.to(x.dtype)).square(), mask), count)
    if rho is None:
        return spread, None
    check_number(rho, "rho", 0)
    short = (1 - relative * (1 / rho)).relu().square()
    short = torch.where(positive if mask is None else positive & mask, short, 0)
    return spread, mean_of_bars(short, count)


def relative_variance(deaths: Deaths, lengths: Lengths | None = None) -> Deaths:
    """Variance over the squared mean, (...), without a unit: 0 for equal bars, and unchanged when
    the cloud is scaled.

    Example:
        >>> relative_variance(torch.tensor([1.0, 3.0])).item()
        0.25
    """
    return scale_free_terms(deaths, None, lengths)[0]


def coefficient_of_variation(deaths: Deaths, lengths: Lengths | None = None) -> Deaths:
    """Standard deviation of the deaths over their mean, (...), without a unit. Derivative 0 where
    it is 0.

    Example:
        >>> coefficient_of_variation(torch.tensor([1.0, 3.0])).item()
        0.5
    """
    square, _ = _scale_free_terms(finite_bars(deaths, lengths), None)
    zero = square == 0
    root = torch.where(zero, torch.ones_like(square), square).sqrt()
    return as_given(torch.where(zero, torch.zeros_like(square), root), deaths)


def redundancy(deaths: Deaths, rho: float = 0.5, lengths: Lengths | None = None) -> Deaths:
    """Mean of relu(1 - death / (rho · mean death))², (...): how far the short bars are below rho
    of the mean. A short bar is two points that nearly coincide. 0 where all deaths are 0.
    Scale-free, so without a unit.

    Example:
        >>> redundancy(torch.tensor([0.5, 2.0, 2.0, 3.5])).item()  # one bar is half of rho · mean
        0.0625
    """
    _, short = _scale_free_terms(finite_bars(deaths, lengths), rho)
    assert short is not None
    return as_given(short, deaths)


def persistent_entropy(
    deaths: Deaths,
    lengths: Lengths | None = None,
    normalize: bool = False,
    base: float | None = None,
) -> Deaths:
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
    if base is not None:
        check_number(base, "base", 0)
        if base == 1:
            raise ValueError("base: got 1, to which there is no logarithm, expected another number")
    x, _, count, _ = finite_bars(deaths, lengths)
    share = divide(x, x.sum(-1, keepdim=True))
    zero = share == 0
    surprise = -torch.where(zero, torch.ones_like(share), share).log()
    entropy = (torch.where(zero, torch.zeros_like(share), share) * surprise).sum(-1)
    if normalize:
        highest = torch.as_tensor(count, dtype=entropy.dtype, device=entropy.device)
        entropy = divide(entropy, highest.clamp(min=1).log().expand_as(entropy))
    elif base is not None:
        entropy = entropy / math.log(base)
    return as_given(entropy, deaths)


def betti_curve(
    deaths: Deaths,
    scales: Tensor | Array | Sequence[float],
    lengths: Lengths | None = None,
    smoothing: float = 0.0,
) -> Deaths:
    """Number of connected components at each scale, (..., S) for `scales` (S,).

    A bar is alive at s where 0 <= s < death; the infinite bar always. With `smoothing` 0: exact
    counts, int64, which have no derivative. Above 0: each step is replaced by sigmoid((death - s)
    / smoothing) and the result is differentiable in deaths and scales. Scales and smoothing are in
    the units of the deaths. O(M S).

    Example:
        >>> betti_curve(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0, 5.0])).tolist()
        [3, 2, 1]
    """
    bars = finite_bars(deaths, lengths)
    at = _as_scales(scales, "scales", deaths, bars.deaths)
    if at.dim() != 1:
        raise ValueError(f"scales: got shape {tuple(at.shape)}, expected (S,)")
    return as_given(_components(bars, at, smoothing), deaths)


def num_components(
    deaths: Deaths,
    scale: float | Tensor | Array,
    lengths: Lengths | None = None,
    smoothing: float = 0.0,
) -> Deaths:
    """Number of connected components at one scale, (...); `smoothing` as in `betti_curve`.

    Example:
        >>> num_components(torch.tensor([1.0, 2.0]), 1.5).item()
        2
    """
    bars = finite_bars(deaths, lengths)
    at = _as_scales(scale, "scale", deaths, bars.deaths)
    if at.numel() != 1:
        raise ValueError(
            f"scale: got shape {tuple(at.shape)}, expected one number; betti_curve takes several"
        )
    return as_given(_components(bars, at.reshape(1), smoothing).squeeze(-1), deaths)


def _as_scales(scales: Any, name: str, deaths: Any, x: Tensor) -> Tensor:
    """Scales as a tensor with the type and on the device of x, which are the deaths as a tensor."""
    if isinstance(scales, Tensor):
        if isinstance(deaths, np.ndarray):
            raise TypeError(
                f"{name}: got a tensor with deaths in a NumPy array, expected both of one kind; "
                f"pass {name}.numpy(), or torch.from_numpy(deaths)"
            )
        if scales.is_complex():
            raise TypeError(f"{name}: got {scales.dtype}, expected real numbers")
    elif isinstance(scales, np.ndarray):
        refuse_masked(scales, name)
        if scales.dtype.kind not in "fiu":
            raise TypeError(f"{name}: got an array of {scales.dtype}, expected real numbers")
        # A copy in native byte order and with positive strides, as torch wants it.
        scales = torch.from_numpy(np.array(scales, dtype=np.float64, order="C"))
    return torch.as_tensor(scales, dtype=x.dtype, device=x.device)


def _components(bars: Bars, scales: Tensor, smoothing: float) -> Tensor:
    """Number of components (..., S) at scales (S,)."""
    check_number(smoothing, "smoothing", 0, inclusive=True)
    gap = bars.deaths.unsqueeze(-2) - scales.unsqueeze(-1)
    alive = gap > 0 if smoothing == 0 else (gap / smoothing).sigmoid()
    if bars.mask is not None:
        alive = torch.where(bars.mask.unsqueeze(-2), alive, torch.zeros_like(alive))
    count = alive.sum(-1)
    if bars.points is None:
        infinite = torch.ones_like(count)
    else:
        infinite = (bars.points > 0).unsqueeze(-1).to(count.dtype)
    return torch.where(scales >= 0, count + infinite, torch.zeros_like(count))
