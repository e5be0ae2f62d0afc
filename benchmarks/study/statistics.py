"""Paired differences of an arm to the baseline: intervals, tests, and what the seeds could show.

The two runs of a pair share their seed, and with it the items and their order. The seeds are what
varies between pairs, so all that is said here is about other seeds of the same task and model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import optimize, stats

from tsloss_fast.benchmarks.study.outcomes import CENSORED, OUTCOMES, Outcome, Study

# With fewer pairs nothing is claimed about other seeds.
MINIMUM_SEEDS = 5
# All assignments of signs up to 14 pairs; with more pairs as many are drawn, always the same ones.
_ASSIGNMENTS = 2**14
# Values that agree in so many digits would be equal if sums of decimals were not rounded.
_DIGITS = 9


@dataclass(frozen=True)
class Difference:
    """The differences arm - baseline of n pairs; a field is None where n does not suffice for it.

    Attributes:
        pairs: n, of finite values.
        left_out: pairs with a value that is not finite, as a run has it that diverged.
        mean, spread: of the differences; the spread is their standard deviation (n - 1).
        low, high: Student's interval of the mean, right for every n if differences are normal.
        p: of the two-sided sign-flip test, which holds if arm and baseline could change names.
            It is at least 2 / 2^n.
        above, below, equal: numbers of positive, negative and zero differences.
        equivalence: p of two one-sided t tests that the mean is outside of ± margin (TOST).
        detectable: the true mean that the interval would exclude zero for in 80 % of studies with
            this spread and n.
    """

    pairs: int
    left_out: int
    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    above: int = 0
    below: int = 0
    equal: int = 0
    equivalence: float | None = None
    detectable: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is on one side of zero, with seeds enough to say it."""
        if self.low is None or self.high is None or self.pairs < MINIMUM_SEEDS:
            return False
        return self.low > 0 or self.high < 0


def paired_difference(
    arm: Sequence[float],
    baseline: Sequence[float],
    *,
    confidence: float = 0.95,
    margin: float | None = None,
) -> Difference:
    """Return what n pairs of runs say of the mean difference arm - baseline.

    If all differences are equal, their spread is 0: the interval is the mean alone, and the mean is
    inside of the margin or not, so that the p of the equivalence is 0 or 1.

    Args:
        arm, baseline: (n,), the same seeds in the same order; NaN where there is no outcome.
        confidence: of the interval, in (0, 1).
        margin: the difference that would not matter; None without one.

    Raises:
        ValueError: the numbers are not pairs.
    """
    ours, theirs = np.asarray(arm, np.float64), np.asarray(baseline, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(
            f"got values of shapes {ours.shape} and {theirs.shape}; expected one of the arm and "
            "one of the baseline for each seed"
        )
    finite = np.isfinite(ours) & np.isfinite(theirs)
    count, left_out = int(finite.sum()), int((~finite).sum())
    if not count:
        return Difference(0, left_out)
    ours, theirs = ours[finite], theirs[finite]
    largest = float(max(np.abs(ours).max(), np.abs(theirs).max()))
    places = min(_DIGITS - math.ceil(math.log10(largest)), 100) if largest else 0
    differences = np.round(ours - theirs, places)
    found = Difference(
        count,
        left_out,
        mean=math.fsum(differences) / count,
        p=sign_flip_p(differences),
        above=int((differences > 0).sum()),
        below=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )
    if count < 2:
        return found
    if (differences == differences[0]).all():
        mean = float(differences[0])
        same = None if margin is None else float(abs(mean) >= margin)
        return replace(found, mean=mean, spread=0.0, low=mean, high=mean, equivalence=same)
    spread = float(differences.std(ddof=1))
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
    return replace(
        found,
        spread=spread,
        low=float(interval.low),
        high=float(interval.high),
        equivalence=None if margin is None else equivalence_p(differences, margin),
        detectable=detectable_difference(spread, count, confidence),
    )


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of the mean of (n,) differences under all changes of their signs."""
    largest = np.abs(differences).max()
    if largest == 0:
        return 1.0
    # Sums of whole numbers have no rounding, so that equal sums count as equal.
    whole = np.rint(differences / largest * 10.0**_DIGITS)
    found = stats.permutation_test(
        (whole,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_ASSIGNMENTS,
        random_state=np.random.default_rng(0),
    )
    return float(found.pvalue)


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """The larger p of two one-sided t tests: small if the mean is inside of ± margin."""
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))


def detectable_difference(
    spread: float, pairs: int, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The true mean that Student's interval would exclude zero for with this probability."""
    critical = float(stats.t.ppf((1 + confidence) / 2, pairs - 1))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, pairs - 1, shift)) - power

    # The interval beyond zero on the wrong side is so rare at this power that it is left out.
    shift = optimize.brentq(missing, 0.0, 4 * critical + 10)
    return float(shift) * spread / math.sqrt(pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for their number, in the given order: the probability that any is below α if none
    has an effect is at most α, however they depend on each other.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """One outcome of an arm beside the baseline's.

    Attributes:
        difference: over the seeds that both have; without pairs if no run of any pair reached the
            threshold (`never`).
        censored: runs of the pairs that never reached the threshold, counted at each rate.
        other_rates: whether the two had different learning rates, so that the difference is one of
            the rates too.
        holm: the sign-flip p, adjusted for all primary outcomes of all arms of the group; None if
            the outcome is not primary.
    """

    group: int
    arm: str
    outcome: Outcome
    difference: Difference
    censored: int
    never: bool
    other_rates: bool
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """The side of zero that the interval is on, empty if it includes zero."""
        if not self.difference.excludes_zero:
            return ""
        sign = 1 if self.difference.mean > 0 else -1  # type: ignore[operator]
        if not self.outcome.better:
            return "higher" if sign > 0 else "lower"
        return "better" if sign == self.outcome.better else "worse"


def compare(
    study: Study, group: int, outcomes: Iterable[str] = (), baseline: str = ""
) -> list[Comparison]:
    """Compare every arm of a group with the baseline, by arm and then by outcome.

    Args:
        outcomes: names, beside those of the primary outcomes, which always come first.
        baseline: an arm; by default that of the study.
    """
    base = baseline or study.baseline
    names = dict.fromkeys([*study.primary, *outcomes])
    found = [
        _compare(study, group, arm, base, OUTCOMES[name])
        for arm in study.arms_of(group)
        if arm != base
        for name in names
    ]
    tested = [
        index
        for index, entry in enumerate(found)
        if entry.outcome.name in study.primary and entry.difference.p is not None
    ]
    adjusted = holm([found[index].difference.p or 0.0 for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        found[index] = replace(found[index], holm=p)
    return found


def pairs_of(study: Study, group: int, arm: str, baseline: str) -> pd.DataFrame:
    """A row a seed that both have with the same items, in the order of seeds; columns of the
    baseline end in "_base"."""
    ours, theirs = study.of(group, arm), study.of(group, baseline)
    return ours.merge(theirs, on=["seed", "digest"], suffixes=("", "_base")).sort_values("seed")


def _compare(study: Study, group: int, arm: str, baseline: str, outcome: Outcome) -> Comparison:
    pairs = pairs_of(study, group, arm, baseline)
    name, late = outcome.name, CENSORED.get(outcome.name)
    censored = int(pairs[[late, f"{late}_base"]].to_numpy().sum()) if late else 0
    runs = sum(map(len, [*pairs["rates"], *pairs["rates_base"]]))
    never = 0 < runs == censored
    rates = [frozenset().union(*pairs[column]) for column in ("rates", "rates_base")]
    difference = Difference(0, 0)
    if not never:
        difference = paired_difference(
            pairs[name].to_numpy(float),
            pairs[f"{name}_base"].to_numpy(float),
            confidence=study.confidence,
            margin=study.margins.get(name),
        )
    return Comparison(group, arm, outcome, difference, censored, never, rates[0] != rates[1])
