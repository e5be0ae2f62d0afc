"""How recorded topology goes with performance: Spearman's rank correlation, with intervals.

The question is that of arXiv 2602.16500. Steps of one run follow from each other, so a hundred of
them are one observation. Runs of one seed, such as a run and its control, are not independent
either: a seed is one observation, the mean of its runs, and seeds are resampled. Intervals are
percentile bootstraps, which are too narrow for few seeds (BCa needs the coefficient without each
seed in turn, which ranks of five seeds often lack).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.runs import Run
from tsloss_fast.analysis.words import label_of

__all__ = ["CAUTION", "MINIMUM_SEEDS", "Correlation", "Relation", "relate"]

CAUTION = "Correlation is not cause: over the steps, all that grows in training correlates."
MINIMUM_SEEDS = 5
QUANTITIES = (
    *("mean_lifetime", "max_lifetime", "total_persistence", "coefficient_of_variation"),
    *("entropy_gap", "redundancy", "displacement_first", "bottleneck_previous"),
    "wasserstein_first",
)
OUTCOMES = ("accuracy", "ce")
_COLUMNS = [field.name for field in SCHEMA if str(field.type) == "double" and field.name != "time"]


@dataclass(frozen=True)
class Correlation:
    """Spearman's coefficient of a quantity with an outcome, in [-1, 1], in one group of runs.

    `view` is "steps" for the mean over seeds of the coefficient over the steps within each run, and
    "runs" for that over the seeds, last value against last value. `group` is the task and the model
    of the runs. `coefficient` is None where it is undefined, and over the runs of fewer than 5
    seeds; `low` and `high` are the ends of its interval, None with fewer than 5 seeds. It comes
    from `runs` runs of `seeds` seeds; a run that does not say its seed has its own.
    """

    view: str
    group: str
    quantity: str
    outcome: str
    coefficient: float | None
    low: float | None
    high: float | None
    runs: int
    seeds: int

    @property
    def claim(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Relation:
    """All correlations that were looked at, by group, then view, quantity and outcome."""

    correlations: tuple[Correlation, ...]
    said: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dictionary a correlation, of what JSON can hold (None, never NaN)."""
        return [asdict(entry) | {"claim": entry.claim} for entry in self.correlations]

    def sentences(self) -> list[str]:
        """Return what may be said of other runs, and how far, in English; the caution always."""
        return [*self.said, CAUTION]


def relate(
    runs: Sequence[Run],
    quantities: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
) -> Relation:
    """Spearman's rank correlation of recorded quantities with measured outcomes.

    Runs of different tasks (or difficulties of one) or models are never taken together.

    Args:
        runs: as `load_runs` gives them, each once.
        quantities: columns of numbers of the record, with the prefix ``h1_`` those of dimension 1;
            the mean over clouds, at steps that all clouds have. By default `QUANTITIES`.
        outcomes: names in `Run.measured`. By default `OUTCOMES`.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: an unknown quantity, or a confidence outside (0, 1).
    """
    quantities = QUANTITIES if quantities is None else quantities
    outcomes = OUTCOMES if outcomes is None else outcomes
    if unknown := [name for name in quantities if name.removeprefix("h1_") not in _COLUMNS]:
        raise ValueError(
            f"the record has no column of numbers {', '.join(map(repr, unknown))}; expected one of "
            f"{', '.join(_COLUMNS)}, each also with the prefix h1_"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    groups: dict[str, list[tuple[object, Run]]] = {}
    for index, run in enumerate(runs):
        task = run.config.get("task") or run.record.metadata.get("task") or "unknown"
        level = run.config.get("difficulty")
        level = "" if level is None else f" (difficulty {level})"
        seed = run.config.get("seed")
        seed = f"run {index}" if seed is None else seed
        group = f"Task {task}{level}, model {run.model or 'unknown'}"
        groups.setdefault(group, []).append((seed, run))
    found: list[Correlation] = []
    said: list[str] = []
    for group, members in groups.items():
        seeds = [seed for seed, _ in members]
        xs = {x: [_quantity(run, x) for _, run in members] for x in quantities}
        ys = {y: [_outcome(run, y) for _, run in members] for y in outcomes}
        entries = [
            Correlation(view, group, x, y, *_correlate(view, seeds, xs[x], ys[y], confidence))
            for view in ("steps", "runs")
            for x in quantities
            for y in outcomes
        ]
        found += entries
        said += _sentences(group, seeds, entries, confidence)
    return Relation(tuple(found), tuple(said))


Values = Mapping[int, float]


def _quantity(run: Run, name: str) -> Values:
    """Return the mean over clouds by step. A step that some cloud lacks is left out, because the
    mean would jump there; a cloud that never has the quantity has no part in it."""
    column, dimension = name.removeprefix("h1_"), int(name.startswith("h1_"))
    clouds = [
        _present(run.record.steps(cloud, dimension), run.record.series(column, cloud, dimension))
        for cloud in run.record.clouds
    ]
    clouds = [cloud for cloud in clouds if cloud]
    common = sorted(set.intersection(*map(set, clouds))) if clouds else []
    return {step: math.fsum(cloud[step] for cloud in clouds) / len(clouds) for step in common}


def _outcome(run: Run, name: str) -> Values:
    measured = run.measured.get(name)
    return {} if measured is None else _present(measured.steps, measured.values)


def _present(steps: Any, values: Any) -> Values:
    return {int(s): float(v) for s, v in zip(steps, values, strict=True) if not math.isnan(v)}


def _observe(view: str, x: Values, y: Values) -> list[float]:
    """Return the coefficient within a run, or its last values; nothing where there is none."""
    if view == "runs":
        return [[*x.values()][-1], [*y.values()][-1]] if x and y else []
    common = [(x[step], y[step]) for step in x.keys() & y.keys()]
    # Over two steps every coefficient is +1 or -1.
    value = float(_spearman(*np.array(common).T)) if len(common) > 2 else math.nan
    return [] if math.isnan(value) else [value]


def _correlate(
    view: str, seeds: Sequence[object], x: list[Values], y: list[Values], confidence: float
) -> tuple[float | None, float | None, float | None, int, int]:
    """Return the last five fields of a Correlation of the values of runs of these seeds."""
    from scipy.stats import bootstrap

    by_seed: dict[object, list[list[float]]] = {}
    for seed, *pair in zip(seeds, x, y, strict=True):
        if observed := _observe(view, *pair):
            by_seed.setdefault(seed, []).append(observed)
    samples = np.array([np.mean(observed, axis=0) for observed in by_seed.values()]).T
    counts = sum(map(len, by_seed.values())), len(by_seed)
    statistic = np.mean if view == "steps" else _spearman
    enough = len(by_seed) >= MINIMUM_SEEDS
    value = float(statistic(*samples)) if enough or (by_seed and view == "steps") else math.nan
    if math.isnan(value) or not enough:
        return None if math.isnan(value) else value, None, None, *counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples without a coefficient, which are seen below
        drawn = bootstrap(
            samples,
            statistic,
            n_resamples=2000,
            paired=True,
            vectorized=True,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).bootstrap_distribution
    # A resample of a constant has no coefficient. Where many have none, an interval would stand for
    # a part of them that the data chose.
    if np.isnan(drawn).mean() > 0.05:
        return value, None, None, *counts
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return value, float(low), float(high), *counts


def _spearman(x: Any, y: Any, axis: int = -1) -> Any:
    """`scipy.stats.spearmanr` of many series at once; NaN where one is constant."""
    from scipy.stats import rankdata

    # Ranks less their mean are multiples of 1/2, so that the sums are exact in any order.
    a, b = (rankdata(values, axis=axis) - (values.shape[axis] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis) / np.sqrt((a * a).sum(axis) * (b * b).sum(axis))


def _sentences(
    group: str, seeds: Sequence[object], entries: Sequence[Correlation], confidence: float
) -> Iterator[str]:
    count = len(set(seeds))
    runs = f"{counted(len(seeds), 'run')} of {counted(count, 'seed')}"
    if count < MINIMUM_SEEDS:
        yield (
            f"{group}, {runs}: too few to say anything about other runs; at least {MINIMUM_SEEDS} "
            "different seeds are needed."
        )
        return
    tested = [entry for entry in entries if entry.low is not None]
    claims = [entry for entry in tested if entry.claim]
    narrow = ", and more because intervals of so few seeds are too narrow" * (count < 20)
    yield (
        f"{group}, {runs}: {len(claims)} of {len(tested)} intervals exclude zero; "
        f"{len(entries)} correlations were looked at. About {(1 - confidence) * len(tested):.2g} "
        f"intervals would by chance alone{narrow}."
    )
    for entry in claims:
        loops = " of loops" if entry.quantity.startswith("h1_") else ""
        quantity = label_of(entry.quantity.removeprefix("h1_")) + loops
        yield (
            f"Over the {entry.view}, {quantity} and {label_of(entry.outcome)}: Spearman "
            f"{entry.coefficient:+.2g} ({100 * confidence:g}% interval {entry.low:+.2g} to "
            f"{entry.high:+.2g}; {entry.runs} runs of {entry.seeds} seeds)."
        )
