"""Numbers in tables with no more digits than what was measured has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tsloss_fast.compare.outcomes import Outcome
from tsloss_fast.compare.run_group import RunGroup
from tsloss_fast.compare.statistics import PairedDifference

__all__ = [
    "NEVER",
    "NONE",
    "decimals",
    "difference_text",
    "interval_text",
    "p_text",
    "shown",
    "signed",
    "span",
]

MINUS, NONE, NEVER = "\N{MINUS SIGN}", "–", "never reached"


def decimals(group: RunGroup, outcome: Outcome) -> int:
    """Digits after the point: as one item's share of the items has for a rate (an area is over the
    items of all evaluations), none for steps between evaluations of 5 or more, else 3."""
    trial = group.trial
    if outcome.steps:
        return 0 if trial.get("eval_every", 1) >= 5 else 1
    steps = trial.get("steps", 1)
    items = {
        "final_accuracy": trial.get("test_size"),
        "final_restricted_accuracy": trial.get("test_size"),
        "accuracy_area": trial.get("curve_size", 0) * (steps // trial.get("eval_every", 1)),
    }.get(outcome.name)
    return max(1, math.ceil(math.log10(items))) if items and items > 1 else 3


def shown(value: float | None, digits: int) -> str:
    """Without a sign unless it is negative."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int) -> str:
    """With a sign unless it is zero; what only rounds to zero keeps its sign."""
    if value is None or value == 0:
        return NONE if value is None else f"{0:.{digits}f}"
    return f"{value:+.{digits}f}".replace("-", MINUS)


def span(values: Sequence[float], digits: int) -> str:
    """The mean, and from the least to the largest if they differ."""
    if not values:
        return NONE
    mean, low, high = math.fsum(values) / len(values), min(values), max(values)
    if low == high:
        return shown(mean, digits)
    return f"{shown(mean, digits)} ({shown(low, digits)}–{shown(high, digits)})"


def interval_text(low: float | None, high: float | None, digits: int) -> str:
    return NONE if low is None else f"{signed(low, digits)} to {signed(high, digits)}"


def difference_text(difference: PairedDifference | None, digits: int) -> str:
    """ "+0.012 (+0.003 to +0.021)": the mean difference and its bootstrap interval."""
    if difference is None:
        return NONE
    mean = signed(difference.mean, digits)
    if difference.low is None:
        return f"{mean} (one seed)"
    return f"{mean} ({interval_text(difference.low, difference.high, digits)})"


def p_text(p: float | None) -> str:
    return NONE if p is None else f"{p:.3g}" if p >= 1e-4 else "< 0.0001"
