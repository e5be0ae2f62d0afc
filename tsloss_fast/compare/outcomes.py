"""What a run came to: accuracy, its area over the training, steps to a threshold, cross-entropy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "OUTCOMES",
    "PRIMARY",
    "Outcome",
    "accuracy_area",
    "first_reached",
    "is_censored",
    "run_outcomes",
]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A number that a run comes to.

    Attributes:
        name, label: in code, in tables.
        better: +1 if more is better, -1 if less is, 0 if neither.
        steps: whether it counts training steps, and so is censored at all steps of the run.
    """

    name: str
    label: str
    better: int
    steps: bool = False


OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("final_accuracy", "final accuracy", +1),
        Outcome("accuracy_area", "area under accuracy", +1),
        Outcome("steps_to_accuracy", "steps to accuracy", -1, steps=True),
        Outcome("steps_to_ce", "steps to CE", -1, steps=True),
        Outcome("final_ce", "end CE", -1),
        Outcome("final_restricted_accuracy", "restricted accuracy", +1),
        # Whether the loss did what it optimises, which is no evidence that it helps.
        Outcome("coefficient_of_variation", "coefficient of variation", 0),
        Outcome("mean_death", "mean death", 0),
        Outcome("redundancy", "redundancy", 0),
    )
}
# What an experiment is about unless its design says otherwise.
PRIMARY = ("steps_to_ce", "steps_to_accuracy", "accuracy_area", "final_accuracy")
# What is measured along the curve, the threshold's name in the design, and which way is past it.
_REACHED = {
    "steps_to_ce": ("ce", "ce_threshold", -1),
    "steps_to_accuracy": ("accuracy", "accuracy_threshold", +1),
}


def run_outcomes(run: Record, plan: Record) -> dict[str, float | None]:
    """Every outcome of a finished run by name; None where it cannot be had or is not finite.

    `steps_to_ce` and `steps_to_accuracy` are the first evaluated step at which the curve is at the
    threshold or past it, and all steps of the run if none is (censored: the truth may be more).

    Args:
        run: a record of the kind "run".
        plan: the task's entry in the design. Without its "ce_threshold" or "accuracy_threshold"
            there are no steps to it.
    """
    end, curve = run["end"], run["curve"]
    last = curve[-1] if curve else {}
    found: dict[str, float | None] = {
        "final_accuracy": end.get("accuracy"),
        "accuracy_area": accuracy_area(curve, run["trial"]["steps"]),
        "final_ce": end.get("ce"),
        "final_restricted_accuracy": end.get("restricted_accuracy"),
    }
    for name in _REACHED:
        step = _reached(run, name, plan)
        known = curve and _threshold(name, plan) is not None
        found[name] = (run["trial"]["steps"] if step is None else step) if known else None
    for name in ("coefficient_of_variation", "mean_death", "redundancy"):
        found[name] = last.get(name)
    return {
        name: float(value) if value is not None and math.isfinite(value) else None
        for name, value in found.items()
    }


def is_censored(run: Record, outcome: str, plan: Record) -> bool:
    """Whether the outcome counts the steps to a threshold that the run never reached."""
    if outcome not in _REACHED or _threshold(outcome, plan) is None:
        return False
    return _reached(run, outcome, plan) is None


def accuracy_area(curve: Sequence[Record], steps: int) -> float | None:
    """The mean over steps of the accuracy, straight between evaluations: in [0, 1].

    The trapezoid area over the step, divided by the steps. After a curve that ends early, as that
    of a run that diverged, its last value counts to the end. None without an evaluation at step 0.
    """
    if not curve or curve[0]["step"] != 0 or steps < 1:
        return None
    area = math.fsum(
        (b["step"] - a["step"]) * (a["accuracy"] + b["accuracy"]) / 2
        for a, b in itertools.pairwise(curve)
    )
    return float(area + (steps - curve[-1]["step"]) * curve[-1]["accuracy"]) / steps


def first_reached(curve: Sequence[Record], name: str, threshold: float, better: int) -> int | None:
    """The first evaluated step at which a value is at the threshold or past it; None if never."""
    for point in curve:
        value = point[name]
        if value is not None and better * value >= better * threshold:
            return int(point["step"])
    return None


def _threshold(outcome: str, plan: Record) -> float | None:
    value = plan.get(_REACHED[outcome][1])
    return None if value is None else float(value)


def _reached(run: Record, outcome: str, plan: Record) -> int | None:
    name, _, better = _REACHED[outcome]
    threshold = _threshold(outcome, plan)
    return None if threshold is None else first_reached(run["curve"], name, threshold, better)
