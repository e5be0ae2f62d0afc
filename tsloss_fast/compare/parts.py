"""The parts of a design: tasks, starts, the search, and the groups that they make."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

from tsloss_fast.compare.checks import at_least_one, different_seeds, label, text
from tsloss_fast.compare.methods import Method
from tsloss_fast.tuning.config import INITS

__all__ = ["Group", "Search", "Start", "TaskPlan"]

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class TaskPlan:
    """A task, how long it is trained on, and the thresholds that count as having learned it.

    Attributes:
        task, difficulty: as in `load_task`.
        train_size, validation_size, test_size: items of the splits, which no two seeds mix.
        curve_size: the test items that are evaluated along the way; all are at the end.
        steps, batch_size, eval_every: of the training. A search has evaluations of its own.
        ce_threshold, accuracy_threshold: of the outcomes "steps to"; on the curve's items.
    """

    task: str
    train_size: int = 128
    validation_size: int = 60
    test_size: int = 200
    curve_size: int = 50
    steps: int = 60
    batch_size: int = 8
    eval_every: int = 5
    ce_threshold: float = 0.6
    accuracy_threshold: float = 0.75
    difficulty: int | None = None

    def __post_init__(self) -> None:
        text("a task's name", self.task)
        for name in ("train_size", "validation_size", "test_size", "steps", "batch_size"):
            at_least_one(f"task {self.task!r}: {name}", getattr(self, name))
        at_least_one(f"task {self.task!r}: eval_every", self.eval_every)
        if not 1 <= self.curve_size <= self.test_size:
            raise ValueError(
                f"task {self.task!r}: curve_size must be in 1 … test_size ({self.test_size}), got "
                f"{self.curve_size}"
            )
        if not self.ce_threshold > 0 or not 0 < self.accuracy_threshold <= 1:
            raise ValueError(
                f"task {self.task!r}: ce_threshold must be above 0 and accuracy_threshold in "
                f"(0, 1], got {self.ce_threshold} and {self.accuracy_threshold}"
            )


@dataclass(frozen=True)
class Start:
    """How a prompt begins; the fields but the name are those of `initial_prompt`."""

    name: str = "vocabulary"
    init: str = "vocabulary"
    init_text: str | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        label("a start's name", self.name)
        if self.init not in INITS:
            raise ValueError(
                f"start {self.name!r}: init must be one of {', '.join(INITS)}, got {self.init!r}"
            )
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError(
                f"start {self.name!r}: init_text belongs to init: text, and only there"
            )
        if not (math.isfinite(self.jitter) and self.jitter >= 0):
            raise ValueError(f"start {self.name!r}: jitter must be at least 0, got {self.jitter}")


@dataclass(frozen=True)
class Search:
    """How learning rate and weight are chosen, with as many runs for every method.

    Each method gets `trials` runs a seed. Cross-entropy has no weight, so it tries as many learning
    rates, a geometric row over `lr`. Others try `trials / weights` learning rates of the same range
    with each of `weights` weights, a geometric row over `weight` in units of the method's scale.
    Chosen is the lowest cross-entropy of the validation items, averaged over the last `evaluations`
    evaluations (evenly over the second half of the training) and the seeds.

    With `weights: null` every learning rate is tried with one weight, in another order (a Latin
    hypercube): cheaper, but a good learning rate may have met a bad weight alone.
    """

    trials: int = 6
    weights: int | None = 2
    evaluations: int = 3
    seeds: tuple[int, ...] = (1000,)
    lr: tuple[float, float] = (0.01, 0.1)
    weight: tuple[float, float] = (0.3, 3.0)

    def __post_init__(self) -> None:
        at_least_one("search: trials", self.trials)
        at_least_one("search: evaluations", self.evaluations)
        if self.weights is not None:
            at_least_one("search: weights", self.weights)
            if self.trials % self.weights:
                raise ValueError(
                    f"search: trials ({self.trials}) must be a multiple of weights "
                    f"({self.weights}), so that every learning rate meets every weight"
                )
        different_seeds("search: seeds", self.seeds)
        for name in ("lr", "weight"):
            values = getattr(self, name)
            if len(values) != 2 or not 0 < values[0] <= values[1] < math.inf:
                raise ValueError(f"search: {name} must be [low, high] above 0, got {list(values)}")

    def points(self, method: Method) -> list[tuple[float, float]]:
        """(learning rate, weight) of each trial of a method."""
        if method.adds_nothing:
            return [(rate, 0.0) for rate in _row(self.lr, self.trials)]
        if self.weights is not None:
            rates = _row(self.lr, self.trials // self.weights)
            weights = [
                _rounded(method.scale * factor) for factor in _row(self.weight, self.weights)
            ]
            return list(itertools.product(rates, weights))
        # The ranks of multiples of the golden ratio: an even order without a pattern.
        marks = [((k + 1) * _GOLDEN) % 1 for k in range(self.trials)]
        factors = _row(self.weight, self.trials)
        return [
            (rate, _rounded(method.scale * factors[sorted(marks).index(mark)]))
            for rate, mark in zip(_row(self.lr, self.trials), marks, strict=True)
        ]

    def eval_every(self, steps: int) -> int:
        """Steps between evaluations of a trial."""
        if self.evaluations == 1:
            return steps
        return max(1, steps // (2 * (self.evaluations - 1)))


@dataclass(frozen=True)
class Group:
    """What is the same for all methods and seeds that are compared with one another."""

    model: str
    plan: TaskPlan
    adapter: str
    virtual_tokens: int
    start: Start

    def fields(self) -> dict[str, Any]:
        """Of a trial and of a choice, so that both can be told to belong here."""
        plan = asdict(self.plan)
        del plan["ce_threshold"], plan["accuracy_threshold"]
        start = asdict(self.start)
        return {
            "model": self.model,
            **plan,
            "adapter": self.adapter,
            "virtual_tokens": self.virtual_tokens,
            "start": start.pop("name"),
            **start,
        }

    def describe(self) -> str:
        """For a reader of the live table."""
        return f"{self.plan.task}, {self.virtual_tokens} tokens, {self.start.name}" + (
            "" if self.adapter == "prompt" else f", {self.adapter}"
        )


def _row(bounds: tuple[float, float], count: int) -> list[float]:
    """`count` numbers from low to high, each the same multiple of the one before."""
    low, high = bounds
    if count == 1:
        return [_rounded(math.sqrt(low * high))]
    return [_rounded(low * (high / low) ** (k / (count - 1))) for k in range(count)]


def _rounded(value: float) -> float:
    # Three digits are what a reader can copy.
    return float(f"{value:.3g}")
