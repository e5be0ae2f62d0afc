"""Spearman's rank correlation of many series at once, and percentile bootstrap intervals over runs.

Vectorised because a bootstrap ranks thousands of resamples; `scipy.stats.spearmanr` and
`scipy.stats.bootstrap(method="percentile")` give the same numbers one at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MINIMUM_SEEDS", "mean_interval", "spearman", "spearman_interval"]

Floats = npt.NDArray[np.float64]
# With fewer, a resample has too few independent runs for its spread to mean anything.
MINIMUM_SEEDS = 5
# An interval stands for all resamples: too many without a coefficient, and it stands for a part
# of them that was chosen by the data.
_MOST_UNDEFINED = 0.05


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """The coefficient along the last axis: (..., n), (..., n) -> (...), in [-1, 1].

    Ties have their mean rank. NaN where x or y is constant, and for n < 2: undefined there.
    Values must not be NaN. O(n log n) for each.
    """
    from scipy.stats import rankdata

    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.shape[-1] < 2:
        return np.full(first.shape[:-1], np.nan)
    # Twice a rank is a whole number, twice the mean rank is n + 1: the products and sums are exact
    # up to thousands of values, so the result does not depend on their order.
    middle = first.shape[-1] + 1
    a = 2 * rankdata(first, axis=-1) - middle
    b = 2 * rankdata(second, axis=-1) - middle
    # One root of the product: perfect agreement is 1 to the last digit.
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore"):
        found: Floats = np.clip((a * b).sum(-1) / scale, -1.0, 1.0)
    return found


def mean_interval(
    values: npt.ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of n independent values (n,).

    For few values it is too narrow: of normal values it covers the mean, at a nominal 0.95, in
    0.83 of 1,000 simulations at n = 5, 0.88 at 8, 0.89 at 10 and 0.92 at 20.
    """
    numbers = np.asarray(values, np.float64)
    means = numbers[_resampled(len(numbers), resamples, seed)].mean(-1)
    return _percentiles(means, confidence)


def spearman_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the coefficient of n independent pairs (n,), (n,).

    Resamples in which x or y is constant have no coefficient and are left out. None if they are
    more than one in twenty, as in a series that is constant but for one run. At a nominal 0.95 it
    excludes the 0 of independent normal pairs in 0.14 of 1,000 simulations at n = 5, 0.03 at 8,
    0.06 at 10 and 0.04 at 20.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    chosen = _resampled(len(first), resamples, seed)
    found = spearman(first[chosen], second[chosen])
    defined = found[~np.isnan(found)]
    if len(defined) < (1 - _MOST_UNDEFINED) * resamples:
        return None
    return _percentiles(defined, confidence)


def _resampled(size: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices (resamples, size), drawn as scipy.stats.bootstrap draws them."""
    return np.random.default_rng(seed).integers(0, size, (resamples, size))


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    ends: Any = np.percentile(values, [100 * tail, 100 * (1 - tail)])
    return float(ends[0]), float(ends[1])
