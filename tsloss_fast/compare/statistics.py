"""Paired differences over seeds: intervals, a permutation test, and what chance alone would give.

The two runs of a pair share their seed: start, data and order. What varies between pairs is the
seed, so it is seeds that are resampled and differences whose signs are flipped, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsloss_fast.analysis.relation.spearman import MINIMUM_SEEDS, mean_interval

__all__ = [
    "EXACT_PAIRS",
    "MINIMUM_SEEDS",
    "PairedDifference",
    "expected_exclusions",
    "holm",
    "paired_difference",
    "percentile_coverage",
    "sign_flip_p",
    "smallest_p",
]

Floats = npt.NDArray[np.float64]
# All 65,536 assignments of signs; with more pairs as many are drawn.
EXACT_PAIRS = 16
_DRAWS = 65_536
# Of the bootstrap and of drawn signs: the same results give the same tables.
SEED = 0
# Numbers that would be equal if sums of decimal fractions were not rounded differ by less of them.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PairedDifference:
    """The differences method - baseline of n pairs of runs, one pair a seed.

    Attributes:
        pairs: n.
        mean: of the differences.
        low, high: percentile bootstrap interval of the mean; None for n < 2. Too narrow for few
            seeds, see `percentile_coverage`.
        t_low, t_high: Student's interval, right at any n if the differences are normal, and then
            wider; None for n < 2.
        above, below, equal: seeds whose difference is positive, negative, zero.
        p: two-sided sign-flip permutation test, see `sign_flip_p`.
    """

    pairs: int
    mean: float
    low: float | None
    high: float | None
    t_low: float | None
    t_high: float | None
    above: int
    below: int
    equal: int
    p: float

    @property
    def excludes_zero(self) -> bool:
        """Whether there is a bootstrap interval and it lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def t_excludes_zero(self) -> bool:
        """The same of Student's interval, which is no narrower than few seeds allow."""
        ends = self.t_low, self.t_high
        return ends[0] is not None and ends[1] is not None and (ends[0] > 0 or ends[1] < 0)

    @property
    def claim(self) -> bool:
        """Whether it excludes zero with 5 seeds at least, so that it may be said of other seeds."""
        return self.excludes_zero and self.pairs >= MINIMUM_SEEDS


def paired_difference(
    method: Sequence[float],
    baseline: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> PairedDifference:
    """What n pairs of runs say of the mean difference method - baseline.

    Args:
        method, baseline: (n,), the same seeds in the same order; finite.
        confidence: of both intervals, in (0, 1).
        resamples: of the bootstrap, whose seed is fixed. Another order of the seeds gives the same
            numbers but for the ends of the bootstrap interval, which then differ by its error.

    Raises:
        ValueError: no pairs, not pairs, or a value that is not finite.
    """
    if len(method) != len(baseline) or not len(method):
        raise ValueError(
            f"expected as many values of the method as of the baseline, at least 1; "
            f"got {len(method)} and {len(baseline)}"
        )
    ours, theirs = np.asarray(method, np.float64), np.asarray(baseline, np.float64)
    differences = ours - theirs
    size = np.maximum(np.abs(ours), np.abs(theirs))
    differences[np.abs(differences) <= _ROUNDING * size] = 0.0
    if not np.isfinite(differences).all():
        raise ValueError("a value is not finite: leave its pair out, and say so")
    count, mean = len(differences), math.fsum(differences) / len(differences)
    low = high = t_low = t_high = None
    if count >= 2:
        from scipy.stats import t

        least = _ROUNDING * float(np.abs(differences).max())
        ends = mean_interval(differences, confidence, resamples, SEED)
        low, high = (0.0 if abs(end) <= least else end for end in ends)
        half = float(t.ppf((1 + confidence) / 2, count - 1)) * float(differences.std(ddof=1))
        t_low, t_high = mean - half / math.sqrt(count), mean + half / math.sqrt(count)
    return PairedDifference(
        count,
        mean,
        low,
        high,
        t_low,
        t_high,
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        int((differences == 0).sum()),
        sign_flip_p(differences),
    )


def sign_flip_p(differences: npt.ArrayLike) -> float:
    """Two-sided p of "the method makes no difference", by flipping the signs of n differences (n,).

    If method and baseline could change names within a pair, every assignment of signs is equally
    likely; p is the share whose mean is at least as far from zero. Exact up to 16 pairs (all 2^n
    assignments, as scipy.stats.permutation_test has it); beyond, 65,536 are drawn with a fixed seed
    and (hits + 1) / (draws + 1) is given. O(n · 2^min(n, 16)). It cannot be below `smallest_p(n)`.
    """
    values = np.asarray(differences, np.float64)
    total, scale = abs(values.sum()), np.abs(values).sum()
    count = len(values)
    if count <= EXACT_PAIRS:
        bits = np.arange(1 << count)[:, None] >> np.arange(count) & 1
        sums = (1 - 2 * bits) @ values
        return float(np.mean(np.abs(sums) >= total - _ROUNDING * scale))
    signs = np.random.default_rng(SEED).integers(0, 2, (_DRAWS, count), np.int8)
    sums = (1.0 - 2 * signs) @ values
    hits = int((np.abs(sums) >= total - _ROUNDING * scale).sum())
    return (hits + 1) / (_DRAWS + 1)


def smallest_p(pairs: int) -> float:
    """The least that `sign_flip_p` can be: all differences of one sign. 0.0625 for 5 pairs."""
    if pairs <= EXACT_PAIRS:
        return 1 / (1 << pairs - 1)
    return 1 / (_DRAWS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for their number (Holm 1979), in the given order: below α, any of them wrongly so
    with probability α at most, however they depend on each other.

    Args:
        p_values: (n,) in [0, 1].

    O(n log n). Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def percentile_coverage(pairs: int, confidence: float = 0.95) -> float:
    """How often a percentile bootstrap interval of the mean of n normal values covers the mean.

    Args:
        pairs: n, at least 1.
        confidence: of the interval, in (0, 1).

    A resample's mean varies with the standard deviation of the sample divided by n, not n - 1, and
    its percentiles are nearly the normal's: ``P(|t| <= z·sqrt((n - 1) / n))``, t with n - 1 degrees
    of freedom. For 2 and 3 values the ends are the least and the largest value: 1 - 2^(1 - n). At a
    nominal 0.95 that is 0.50 for 2 values, 0.75 for 3, 0.81 for 4, 0.85 for 5, 0.89 for 8, 0.90
    for 10 and 0.93 for 20; simulations are within 0.02 of it.
    """
    if pairs < 2:
        raise ValueError(f"there is no interval of {pairs} value, so nothing that it covers")
    from scipy.stats import norm, t

    # One resample in n^n is the least value n times.
    if pairs**-pairs >= (1 - confidence) / 2:
        return 1.0 - 1 / (1 << pairs - 1)
    reach = norm.ppf((1 + confidence) / 2) * math.sqrt((pairs - 1) / pairs)
    return float(2 * t.cdf(reach, pairs - 1) - 1)


def expected_exclusions(pairs: Iterable[int], confidence: float = 0.95) -> tuple[float, float]:
    """How many intervals, of so many pairs each, exclude zero by chance if nothing has an effect.

    The first number takes the intervals for as wide as their nominal confidence says, the second
    for what `percentile_coverage` says they are. Expectations: they hold however the intervals
    depend on each other.
    """
    counts = list(pairs)
    actual = math.fsum(1 - percentile_coverage(count, confidence) for count in counts)
    return (1 - confidence) * len(counts), actual
