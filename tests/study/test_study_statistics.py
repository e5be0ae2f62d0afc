"""Intervals and tests against SciPy, numbers by hand, and simulated studies without an effect."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import flat, make_design, make_pairs, make_run
from scipy import stats
from tsloss_fast.benchmarks.study.outcomes import read_study
from tsloss_fast.benchmarks.study.statistics import (
    Difference,
    compare,
    detectable_difference,
    holm,
    paired_difference,
)

DECIMALS = st.lists(st.integers(-1000, 1000).map(lambda k: k / 1000), min_size=1, max_size=9)


def all_sign_flips(values: list[float]) -> float:
    """The share of all changes of signs whose sum is as far from zero, in whole numbers."""
    whole = [round(value * 1000) for value in values]
    signs = itertools.product((1, -1), repeat=len(whole))
    sums = [abs(sum(s * v for s, v in zip(row, whole, strict=True))) for row in signs]
    return sum(each >= abs(sum(whole)) for each in sums) / len(sums)


@settings(deadline=None, max_examples=60)
@given(DECIMALS)
def test_a_difference_is_what_scipy_and_an_enumeration_say(values: list[float]) -> None:
    base = [0.1 * (k % 7) for k in range(len(values))]
    found = paired_difference(np.add(base, values), base, margin=0.3)
    assert found.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-9)
    assert found.p == pytest.approx(all_sign_flips(values))
    counts = [sum(v > 0 for v in values), sum(v < 0 for v in values), values.count(0)]
    assert [found.above, found.below, found.equal] == counts
    if len(set(values)) > 1:
        low, high = stats.t.interval(
            0.95, len(values) - 1, np.mean(values), stats.sem(values, ddof=1)
        )
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)
        t = [(np.mean(values) + s * 0.3) / stats.sem(values) for s in (1, -1)]
        p = max(stats.t.sf(t[0], len(values) - 1), stats.t.cdf(t[1], len(values) - 1))
        assert found.equivalence == pytest.approx(p, abs=1e-6)


def test_no_pair_says_nothing_and_one_pair_has_no_interval() -> None:
    assert paired_difference([], []) == Difference(0)
    some = paired_difference([0.7, math.nan, 0.5, 0.6], [0.5, 0.5, math.inf, 0.5])
    assert some == paired_difference([0.7, 0.6], [0.5, 0.5])
    one = paired_difference([0.7], [0.5], margin=0.1)
    assert (one.pairs, one.mean, one.p, one.above) == (1, pytest.approx(0.2), 1.0, 1)
    assert (one.low, one.high, one.equivalence, one.detectable) == (None, None, None, None)


def test_equal_differences_have_an_interval_of_one_point() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in binary, nor are these differences the same there.
    same = paired_difference([0.1 + 0.2, 0.7], [0.3, 0.7], margin=0.03)
    assert (same.mean, same.low, same.high, same.p, same.equal) == (0, 0, 0, 1, 2)
    assert same.equivalence == 0
    shift = paired_difference(
        [0.1 + 0.2, 0.4, 1.1, 0.9, 0.8], [0.1, 0.2, 0.9, 0.7, 0.6], margin=0.1
    )
    assert shift.low == shift.high == shift.mean == pytest.approx(0.2)
    assert (shift.p, shift.equivalence, shift.detectable) == (2 / 2**5, 1, None)


def test_the_detectable_difference_is_seen_in_80_percent_of_studies() -> None:
    assert detectable_difference(0.062, 5) == pytest.approx(0.104, abs=5e-4)
    size = detectable_difference(2.0, 8)
    studies = np.random.default_rng(2).normal(size, 2.0, (20_000, 8))
    assert np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05) == pytest.approx(
        0.8, abs=0.01
    )


def test_holm_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_are_of_the_same_seed_and_items() -> None:
    runs = make_pairs([0.1, 0.1, 0.1])
    runs[5]["task_digest"] = "changed"
    (entry,) = compare(read_study([make_design(primary=["final_accuracy"]), *runs[1:]]), 0)
    assert entry.difference.pairs == 1
    assert not entry.verdict


def test_the_correction_is_for_all_primary_outcomes_of_all_methods() -> None:
    records = [make_design(["ce", "tsloss", "l2"]), *make_pairs([0.1, 0.2, 0.3, 0.1, 0.2])]
    records += make_pairs([0.01, -0.01, 0.02, 0.0, 0.01], "l2")[1::2]
    found = compare(read_study(records), 0, ["final_ce"])
    primary = [entry for entry in found if entry.outcome.name != "final_ce"]
    assert [e.holm for e in primary] == holm([e.difference.p or 0.0 for e in primary])
    assert [e.holm for e in found if e.outcome.name == "final_ce"] == [None, None]
    assert primary[1].holm == 4 * 0.0625


@pytest.mark.parametrize(("sign", "verdict"), [(1, "better"), (-1, "worse")])
def test_a_verdict_needs_five_seeds(sign: int, verdict: str) -> None:
    design = make_design(primary=["final_accuracy", "final_ce", "accuracy_area"])
    gains = [sign * gain for gain in (0.1, 0.11, 0.1, 0.12, 0.1)]
    for count, expected in ((5, verdict), (4, "")):
        found = compare(read_study([design, *make_pairs(gains[:count])]), 0)
        assert [entry.verdict for entry in found] == [expected] * 3


def test_runs_that_all_miss_the_threshold_are_not_compared() -> None:
    design = make_design(primary=["steps_to_accuracy"])
    (entry,) = compare(read_study([design, *make_pairs([0.0, 0.01])]), 0)
    assert (entry.never, entry.censored, entry.difference) == (True, 4, Difference(0))
    late = [*make_pairs([0.0]), make_run("ce", 1), make_run("tsloss", 1, accuracy=flat(0.8))]
    (entry,) = compare(read_study([design, *late]), 0)
    assert (entry.never, entry.censored, entry.difference.mean) == (False, 3, -4)
