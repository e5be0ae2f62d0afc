"""Paired differences, and how far their intervals may be trusted."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from scipy import stats

from tsloss_fast.compare.statistics import (
    SEED,
    PairedDifference,
    expected_exclusions,
    holm,
    paired_difference,
    percentile_coverage,
    sign_flip_p,
    smallest_p,
)

# How long one takes depends on who else uses the machine.
few = settings(deadline=None, max_examples=40)
# Differences of rates of 200 items, as accuracies have them: with ties and zeros.
RATES = st.lists(st.integers(-40, 40).map(lambda k: k / 200), min_size=2, max_size=9)


def of(differences: list[float], **options: float) -> PairedDifference:
    return paired_difference(differences, [0.0] * len(differences), **options)


def test_the_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 6))
    expected = stats.bootstrap(
        (x - y,), np.mean, n_resamples=700, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    found = paired_difference(x, y, confidence=0.9, resamples=700)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_students_interval_is_that_of_the_paired_t_test(confidence: float) -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 7))
    expected = stats.ttest_rel(x, y).confidence_interval(confidence)
    found = paired_difference(x, y, confidence=confidence)
    assert (found.t_low, found.t_high) == pytest.approx(tuple(expected), abs=1e-12)
    assert found.mean == pytest.approx((x - y).mean())


@few
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=9))
def test_the_exact_p_is_that_of_scipys_permutation_test(hits: list[int]) -> None:
    expected = stats.permutation_test(
        (np.array(hits),),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    # Whole numbers for the oracle, whose sums are exact; rates for ours, whose sums are not.
    assert sign_flip_p([hit / 200 for hit in hits]) == pytest.approx(expected, abs=1e-12)


def test_p_is_counted_over_all_signs() -> None:
    # |±3 ±2 ±1| >= 4: both of 6, both of 4.
    assert sign_flip_p([3.0, 2.0, -1.0]) == 4 / 8
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.1] * 5) == smallest_p(5) == 0.0625
    assert smallest_p(1) == 1.0


def test_beyond_16_pairs_signs_are_drawn_and_p_is_near_the_exact_one() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, size=17)
    signs = np.array(list(itertools.product((1, -1), repeat=17)), np.int8)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    found = sign_flip_p(differences)
    assert found == sign_flip_p(differences)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / 65_536))
    assert sign_flip_p([1.0] * 40) == smallest_p(40) == 1 / 65_537


@few
@given(RATES, st.integers(-100, 100))
def test_what_both_gain_makes_no_difference(differences: list[float], shift: int) -> None:
    base = [0.5 + 0.01 * index for index in range(len(differences))]
    ours = [b + d for b, d in zip(base, differences, strict=True)]
    first = paired_difference(ours, base, resamples=200)
    second = paired_difference([x + shift for x in ours], [x + shift for x in base], resamples=200)
    for name in ("mean", "low", "high", "t_low", "t_high", "p"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), abs=1e-9)


@few
@given(RATES, st.integers(-50, 50))
def test_a_constant_gain_moves_mean_and_intervals_by_it(values: list[float], gain: int) -> None:
    first, second = (of([v + g for v in values], resamples=200) for g in (0, gain))
    for name in ("mean", "low", "high", "t_low", "t_high"):
        assert getattr(second, name) - getattr(first, name) == pytest.approx(gain, abs=1e-9)


@few
@given(RATES)
def test_swapping_method_and_baseline_turns_everything_round(differences: list[float]) -> None:
    zeros = [0.0] * len(differences)
    found = paired_difference(differences, zeros, resamples=200)
    swapped = paired_difference(zeros, differences, resamples=200)
    assert swapped.mean == -found.mean
    for low, high in (("low", "high"), ("t_low", "t_high")):
        assert getattr(swapped, low) == pytest.approx(-getattr(found, high), abs=1e-12)
        assert getattr(swapped, high) == pytest.approx(-getattr(found, low), abs=1e-12)
    assert (swapped.above, swapped.below, swapped.equal) == (
        found.below, found.above, found.equal,
    )  # fmt: skip
    assert swapped.p == found.p
    assert swapped.excludes_zero == found.excludes_zero


@few
@given(RATES, st.randoms(use_true_random=False))
def test_the_order_of_seeds_changes_the_bootstraps_error_alone(values, random) -> None:
    shuffled = random.sample(values, len(values))
    first, second = of(values), of(shuffled)
    for name in ("mean", "t_low", "t_high", "p"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), abs=1e-12)
    # The error of a percentile at the edge of an atom of the distribution, such as one seed of 5.
    if len(values) >= 5:
        spread = 1.3 * float(np.std(values)) / math.sqrt(len(values)) + 1e-12
        assert second.low == pytest.approx(first.low, abs=spread)
        assert second.high == pytest.approx(first.high, abs=spread)


@few
@given(RATES)
def test_ends_enclose_the_mean_and_the_counts_all_seeds(differences: list[float]) -> None:
    found = of(differences, resamples=200)
    assert found.low - 1e-12 <= found.mean <= found.high + 1e-12
    assert found.t_low - 1e-12 <= found.mean <= found.t_high + 1e-12
    assert found.above + found.below + found.equal == found.pairs == len(differences)
    assert smallest_p(found.pairs) <= found.p <= 1.0
    assert found.excludes_zero == (found.low > 0 or found.high < 0)


def test_one_seed_has_no_interval_and_four_are_no_claim() -> None:
    one = of([0.1])
    assert (one.low, one.high, one.t_low, one.t_high) == (None, None, None, None)
    assert not one.excludes_zero
    assert not one.t_excludes_zero
    assert of([0.1] * 4).excludes_zero
    assert not of([0.1] * 4).claim
    assert of([0.1] * 5).claim
    assert of([-0.1] * 5).claim
    # Nearly one seed in two gains nothing: the bootstrap says more than Student's interval.
    few = of([0.1, 0.1, 0.05, 0.0, 0.0])
    assert few.excludes_zero
    assert not few.t_excludes_zero


def test_an_end_that_is_zero_but_for_rounding_does_not_exclude_zero() -> None:
    differences = [0.1, 0.2, -0.3]
    assert sum(differences) != 0  # 5.6e-17
    middle = of(differences, confidence=0.01)  # Both ends are medians of the resamples' means.
    assert (middle.low, middle.high) == (0.0, 0.0)
    assert not middle.excludes_zero
    equal = paired_difference([0.3] * 5, [0.1 + 0.2] * 5)
    assert (equal.above, equal.below, equal.equal) == (0, 0, 5)
    assert not equal.excludes_zero


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0 and 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        paired_difference([1.0, math.nan], [1.0, 1.0])


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_p_and_bonferronis_and_keeps_the_order(p_values) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p)
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("pairs", [2, 3, 5, 10])
def test_intervals_of_few_normal_seeds_cover_as_little_as_is_said(pairs: int) -> None:
    """1,000 simulations: the standard error of a rate is below 0.016."""
    generator = np.random.default_rng(pairs)
    values = generator.normal(size=(1000, pairs))
    found = [of(list(row), resamples=300) for row in values]
    covered = sum(not entry.excludes_zero for entry in found) / 1000
    assert covered == pytest.approx(percentile_coverage(pairs), abs=0.045)
    student = sum(not entry.t_excludes_zero for entry in found) / 1000
    assert student == pytest.approx(0.95, abs=0.03)


def test_the_coverage_in_the_docstring() -> None:
    said = {2: 0.50, 3: 0.75, 4: 0.81, 5: 0.85, 8: 0.89, 10: 0.90, 20: 0.93}
    assert {n: round(percentile_coverage(n), 2) for n in said} == said
    assert percentile_coverage(10_000) == pytest.approx(0.95, abs=1e-3)
    with pytest.raises(ValueError, match="no interval of 1 value"):
        percentile_coverage(1)


def test_expected_exclusions_add_up_over_intervals_of_different_seeds() -> None:
    nominal, actual = expected_exclusions([5, 5, 2])
    assert nominal == pytest.approx(0.15)
    assert actual == pytest.approx(2 * (1 - percentile_coverage(5)) + 0.5)
    assert expected_exclusions([], 0.9) == (0.0, 0.0)
    assert expected_exclusions([3] * 10, 0.9)[0] == pytest.approx(1.0)
