"""Paired differences of an arm to the baseline over seeds: intervals, tests, power.

The two runs of a pair share their seed, and with it the items and their order. What varies between
pairs is the seed, so that all of this is about other seeds of the same task and model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from tsloss_fast.benchmarks.study.outcomes import CENSORED, OUTCOMES, Outcome, Study

# Nothing is claimed about other seeds if there are fewer pairs.
MINIMUM_SEEDS = 5
# All assignments of signs up to 14 pairs; with more pairs as many are drawn, always the same ones.
ASSIGNMENTS = 2**14


@dataclass(frozen=True)
class Difference:
    """The differences arm - baseline of n pairs; a field is None where n does not suffice for it.

    Attributes:
        pairs: n, without pairs that have a value that is not finite, as after a divergence.
        p: of the two-sided sign-flip test, at least 2 / 2^n and 2 / `ASSIGNMENTS`.
        above, below, equal: numbers of positive, negative and zero differences.
        low, high: Student's interval of the mean.
        equivalence: p of two one-sided t tests (TOST); small if the mean is within the margin.
    """

    pairs: int
    mean: float | None = None
    p: float | None = None
    above: int = 0
    below: int = 0
    equal: int = 0
    low: float | None = None
    high: float | None = None
    equivalence: float | None = None
    detectable: float | None = None


def paired_difference(
    arm: ArrayLike, baseline: ArrayLike, confidence: float = 0.95, margin: float | None = None
) -> Difference:
    """Return what n pairs of runs say of the mean difference arm - baseline.

    If all differences are equal, the interval is the mean alone, and the p of the equivalence is 0
    or 1.

    Args:
        arm, baseline: (n,), the same seeds in the same order; NaN for a missing outcome.
        margin: the difference that would not matter; None without one.
    """
    values = np.subtract(arm, baseline, dtype=np.float64)
    # Nine decimals: differences that would be equal without rounding errors are equal.
    values = values[np.isfinite(values)].round(9)
    count = len(values)
    if not count:
        return Difference(0)
    signs = [int((np.sign(values) == sign).sum()) for sign in (1, -1, 0)]
    mean = round(math.fsum(values) / count, 12) + 0.0  # No sum is -0.0 or nearly zero.
    found = Difference(count, mean, sign_flip_p(values), *signs)
    if count < 2:
        return found
    if (values == values[0]).all():
        sure = None if margin is None else float(abs(mean) >= margin)
        return replace(found, low=mean, high=mean, equivalence=sure)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    found = replace(found, low=float(interval.low), high=float(interval.high))
    if margin is not None:
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        found = replace(found, equivalence=float(max(above, below)))
    spread = float(values.std(ddof=1))
    return replace(found, detectable=detectable_difference(spread, count, confidence))


def sign_flip_p(values: np.ndarray) -> float:
    """Two-sided p of the sum of (n,) differences under all changes of their signs."""
    if len(values) < 2:
        return 1.0
    draws = {"n_resamples": ASSIGNMENTS, "random_state": np.random.default_rng(0)}
    found = stats.permutation_test((values,), np.sum, permutation_type="samples", **draws)
    return float(found.pvalue)


def detectable_difference(spread: float, pairs: int, confidence: float = 0.95) -> float:
    """The true mean for which 80 % of studies have an interval that excludes zero.

    An interval on the wrong side of zero is then so rare that it is left out.
    """
    critical = float(stats.t.ppf((1 + confidence) / 2, pairs - 1))
    missing = lambda shift: float(stats.nct.sf(critical, pairs - 1, shift)) - 0.8  # noqa: E731
    return float(optimize.brentq(missing, 0, 4 * critical + 10)) * spread / math.sqrt(pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for their number, in the given order: if nothing has an effect, any of them is
    below α with a probability of at most α, however they depend on each other.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass
class Comparison:
    """One outcome of an arm beside the baseline's, over the seeds that both have.

    Attributes:
        censored: runs of the pairs that never reached the threshold, counted at each rate.
        never: whether these are all runs, so that nothing is compared.
        holm: p adjusted for all primary outcomes of all arms of the group; None for others.
    """

    arm: str
    outcome: Outcome
    difference: Difference
    censored: int
    never: bool
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """The side of zero that the interval is on; empty if it has zero, or with few seeds."""
        low, high = self.difference.low or 0.0, self.difference.high or 0.0
        if low <= 0 <= high or self.difference.pairs < MINIMUM_SEEDS:
            return ""
        words = ("worse", "better") if self.outcome.better else ("lower", "higher")
        return words[low * (self.outcome.better or 1) > 0]


def compare(
    study: Study, group: int, outcomes: Iterable[str] = (), baseline: str = ""
) -> list[Comparison]:
    """Compare every arm of a group with the baseline, by default the first arm of the study, in
    the primary outcomes and then in others."""
    base = baseline or study.arms[0]
    names = dict.fromkeys([*study.primary, *outcomes])
    arms = [arm for arm in study.arms_of(group) if arm != base]
    found = [_compare(study, group, arm, base, OUTCOMES[name]) for arm in arms for name in names]
    tested = [e for e in found if e.outcome.name in study.primary and e.difference.p is not None]
    for entry, p in zip(tested, holm([e.difference.p for e in tested]), strict=True):
        entry.holm = p
    return found


def _compare(study: Study, group: int, arm: str, baseline: str, outcome: Outcome) -> Comparison:
    ours, theirs = study.of(group, arm), study.of(group, baseline)
    # Runs of other items, after a task has changed, are not pairs.
    pairs = ours.merge(theirs, on=["seed", "digest"], suffixes=("", "_base")).sort_values("seed")
    name, late = outcome.name, CENSORED.get(outcome.name)
    censored = int(pairs[[late, f"{late}_base"]].to_numpy().sum()) if late else 0
    never = 0 < censored == sum(map(len, [*pairs["rates"], *pairs["rates_base"]]))
    difference = paired_difference(
        *([] if never else pairs[column].to_numpy(float) for column in (name, f"{name}_base")),
        study.design["confidence"],
        study.design.get("margins", {}).get(name),
    )
    return Comparison(arm, outcome, difference, censored, never)
