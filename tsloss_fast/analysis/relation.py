"""How recorded topology goes with performance: Spearman's rank correlation and its interval.

The question is that of arXiv 2602.16500. The steps of one run follow from each other, so a hundred
of them are one observation. Runs of one seed, such as a run and its control, are not independent
either: a seed is one observation, the mean of its runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.words import label_of

__all__ = ["CAUTION", "MINIMUM_SEEDS", "Correlation", "Relation", "mean_interval", "relate"]

CAUTION = "Correlation is not cause."
MINIMUM_SEEDS = 5
QUANTITIES = (
    *("mean_lifetime", "max_lifetime", "total_persistence", "coefficient_of_variation"),
    *("entropy_gap", "redundancy", "displacement_first", "bottleneck_previous"),
    "wasserstein_first",
)
_COLUMNS = [field.name for field in SCHEMA if str(field.type) == "double" and field.name != "time"]


@dataclass(frozen=True)
class Correlation:
    """Spearman's coefficient of a quantity with an outcome, in [-1, 1], in one group of runs.

    `view` is "steps" for the mean over seeds of the coefficient over the steps within each run, and
    "runs" for that over the seeds, last value against last value; `group` is task and model.
    `coefficient` is None where it is undefined. `low` and `high` are the ends of its 95 % interval,
    None with fewer than 5 seeds: Student's over the steps, Fisher's over the runs.
    """

    view: str
    group: str
    quantity: str
    outcome: str
    runs: int
    seeds: int
    coefficient: float | None
    low: float | None
    high: float | None

    @property
    def claim(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Relation:
    """All correlations that were looked at, by group, then view, quantity and outcome."""

    correlations: tuple[Correlation, ...]
    said: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Return what the correlations allow to be said of other runs, with the caution."""
        return [*self.said, CAUTION]


def relate(
    runs: Sequence[Run],
    quantities: Sequence[str] = QUANTITIES,
    outcomes: Sequence[str] = ("accuracy", "ce"),
) -> Relation:
    """Spearman's rank correlation of recorded quantities with measured outcomes.

    Runs of different tasks (or difficulties of one) or models are never taken together.

    Args:
        runs: as `load_runs` gives them, each once. A run that does not say its seed has its own.
        quantities: columns of numbers of the record; the mean over the clouds of a step.
        outcomes: names in `Run.measured`.

    Raises:
        ValueError: the record has no such quantity.
    """
    if unknown := [name for name in quantities if name not in _COLUMNS]:
        raise ValueError(
            f"the record has no column of numbers {', '.join(map(repr, unknown))}; expected "
            f"some of {', '.join(_COLUMNS)}"
        )
    groups: dict[str, list[tuple[object, Run]]] = {}
    for index, run in enumerate(runs):
        seed = f"run {index}" if run.seed is None else run.seed
        groups.setdefault(run.subject, []).append((seed, run))
    pairs = [(view, x, y) for view in ("steps", "runs") for x in quantities for y in outcomes]
    found: list[Correlation] = []
    said: list[str] = []
    for group, members in groups.items():
        entries = [Correlation(v, group, x, y, *_correlate(members, v, x, y)) for v, x, y in pairs]
        found += entries
        said += _sentences(group, [seed for seed, _ in members], entries)
    return Relation(tuple(found), tuple(said))


def _quantity(run: Run, name: str) -> dict[int, float]:
    """The mean over the clouds by step. A cloud that never has the quantity has no part in it; a
    step that another cloud lacks is left out, because the mean would jump there."""
    record = run.record
    every = [_present(record.steps(c), record.series(name, c)) for c in record.clouds]
    found = [values for values in every if values]
    common = sorted(set.intersection(*map(set, found))) if found else []
    return {step: float(np.mean([values[step] for values in found])) for step in common}


def _present(steps: np.ndarray, values: np.ndarray) -> dict[int, float]:
    return {int(s): float(v) for s, v in zip(steps, values, strict=True) if not np.isnan(v)}


def _correlate(
    members: Sequence[tuple[object, Run]], view: str, quantity: str, outcome: str
) -> tuple[int, int, float | None, float | None, float | None]:
    """How many runs and seeds have a coefficient, that, and the ends of its interval."""
    from scipy.stats import pearsonr, rankdata, spearmanr

    by_seed: dict[object, list[Any]] = {}
    for seed, run in members:
        measured = run.measured.get(outcome)
        y = {} if measured is None else _present(measured.steps, measured.values)
        x = _quantity(run, quantity)
        both = np.array([(x[step], y[step]) for step in sorted(x.keys() & y.keys())])
        if view == "runs" and x and y:
            by_seed.setdefault(seed, []).append(([*x.values()][-1], [*y.values()][-1]))
        # Over two steps every coefficient is +1 or -1, and of a constant there is none.
        elif view == "steps" and len(both) > 2 and np.ptp(both, axis=0).all():
            by_seed.setdefault(seed, []).append(float(spearmanr(*both.T).statistic))
    counts = sum(map(len, by_seed.values())), len(by_seed)
    samples = np.array([np.mean(values, axis=0) for values in by_seed.values()])
    if view == "steps" and len(samples):
        value = float(samples.mean())
        if len(samples) < MINIMUM_SEEDS:
            return *counts, value, None, None
        low, high = mean_interval(samples)
    elif len(samples) < MINIMUM_SEEDS or not np.ptp(samples, axis=0).all():
        return *counts, None, None, None
    else:
        # Spearman's coefficient is Pearson's of the ranks.
        found = pearsonr(*rankdata(samples, axis=0).T)
        value, (low, high) = float(found.statistic), map(float, found.confidence_interval(0.95))
    return *counts, value, max(low, -1.0), min(high, 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of two values or more."""
    from scipy.stats import t

    mean, count = float(values.mean()), len(values)
    half = float(t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)
    return mean - half, mean + half


def _sentences(
    group: str, seeds: Sequence[object], entries: Sequence[Correlation]
) -> Iterator[str]:
    runs = f"{group}, {counted(len(seeds), 'run')} of {counted(len(set(seeds)), 'seed')}"
    if len(set(seeds)) < MINIMUM_SEEDS:
        few = f"too few to say anything about other runs; at least {MINIMUM_SEEDS} different seeds"
        yield f"{runs}: {few} are needed."
        return
    if not any(entry.runs for entry in entries):
        yield f"{runs}: nothing was measured, so there is nothing to relate."
        return
    views = []
    for view, but in (
        ("steps", "training alone moves both"),
        ("runs", "by chance alone one in twenty would, and more with so few seeds"),
    ):
        tested = [entry for entry in entries if entry.view == view and entry.low is not None]
        claims = f"{sum(entry.claim for entry in tested)} of {len(tested)} intervals exclude zero"
        seeds = " or ".join(str(n) for n in sorted({entry.seeds for entry in tested}))
        none = f"fewer than {MINIMUM_SEEDS} seeds have values that vary, so there is no interval"
        said = f"{claims} ({seeds} seeds), but {but}" if tested else none
        views.append(f"over the {view}, {said}")
    yield f"{runs}: {'; '.join(views)}."
    for entry in (entry for entry in entries if entry.claim):
        names = f"{label_of(entry.quantity)} and {label_of(entry.outcome)}"
        yield (
            f"Over the {entry.view}, {names}: Spearman {entry.coefficient:+.2g} (95% interval "
            f"{entry.low:+.2g} to {entry.high:+.2g}; {entry.runs} runs of {entry.seeds} seeds)."
        )
