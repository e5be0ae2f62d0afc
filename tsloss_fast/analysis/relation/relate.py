"""How recorded topology goes with performance: rank correlations, with intervals over runs.

Steps of one run follow from each other, so a hundred of them are not a hundred observations: within
a run there is one coefficient, and what is resampled is runs. Nor are runs of one seed independent,
such as a run and its control: there is an interval, and so a claim, only with 5 different seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tsloss_fast.analysis.record.reader import TopologyRecord
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.relation.findings import Correlation, Relation
from tsloss_fast.analysis.relation.groups import count_seeds, describe_group, group_runs
from tsloss_fast.analysis.relation.spearman import (
    MINIMUM_SEEDS,
    mean_interval,
    spearman,
    spearman_interval,
)
from tsloss_fast.analysis.runs import Run, Series

__all__ = ["OUTCOMES", "QUANTITIES", "relate"]

QUANTITIES = (
    "mean_lifetime",
    "max_lifetime",
    "total_persistence",
    "coefficient_of_variation",
    "entropy_gap",
    "redundancy",
    "displacement_first",
    "bottleneck_previous",
    "wasserstein_first",
)
OUTCOMES = ("accuracy", "ce")
# Over two steps a coefficient is +1 or -1 whatever happens.
_MINIMUM_STEPS = 3
_H1 = "h1_"
_COLUMNS = [f.name for f in SCHEMA if f.type == pa.float64() and f.name != "time"]


def relate(
    runs: Sequence[Run],
    quantities: Sequence[str] | None = None,
    outcomes: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Relation:
    """Spearman's rank correlation of recorded quantities with measured outcomes.

    Over the steps: within each run, over the steps at which both are there (the record's step is
    the evaluation's), then the mean over runs; its interval resamples runs, not steps, because the
    steps of a run are not independent. Over the runs: the last value of each run against its last
    outcome. Intervals are percentile bootstraps over runs, with 5 different seeds or more: runs of
    one seed are not independent, so 3 runs and their 3 controls are 3 observations. They are too
    narrow for few runs (`mean_interval` and `spearman_interval` have the figures), and for runs
    that share seeds, which a remark says.

    Runs of different tasks (or difficulties of one) or models are never taken together: each
    (task, model) is a group. Runs that do not say theirs are a group of their own, with a remark.
    Runs of one group may differ in loss or settings: remarks name what differs.

    Args:
        runs: as `load_runs` gives them, each once.
        quantities: columns of numbers of the record, dimension 0, or with the prefix ``h1_`` of
            dimension 1; the mean over clouds, at steps that all clouds have. By default
            `QUANTITIES`.
        outcomes: names in `Run.measured`. By default `OUTCOMES`.
        confidence: of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same numbers, whatever else is asked for.

    Raises:
        ValueError: an unknown quantity, a confidence outside (0, 1), fewer than 1 resample.
    """
    quantities = tuple(QUANTITIES if quantities is None else quantities)
    outcomes = tuple(OUTCOMES if outcomes is None else outcomes)
    unknown = [name for name in quantities if name.removeprefix(_H1) not in _COLUMNS]
    if unknown:
        raise ValueError(
            f"the record has no column of numbers {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(_COLUMNS)}, each also with the prefix {_H1}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95; got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, such as 2000; got {resamples}")

    settings = (confidence, resamples, seed)
    groups = group_runs(runs)
    found: list[Correlation] = []
    for index, members in enumerate(groups):
        series = {name: [_quantity(run.record, name) for run in members] for name in quantities}
        measured = {name: [_outcome(run, name) for run in members] for name in outcomes}
        pairs = [(q, o) for q in quantities for o in outcomes]
        for view, correlate in (("steps", _over_steps), ("runs", _over_runs)):
            found += [
                Correlation(
                    view, index, q, o, **correlate(members, series[q], measured[o], settings)
                )
                for q, o in pairs
            ]
    described = tuple(describe_group(members) for members in groups)
    return Relation(tuple(found), described, confidence, resamples, seed)


def _over_steps(
    runs: Sequence[Run],
    quantity: Sequence[Series],
    outcome: Sequence[Series],
    settings: tuple[float, int, int],
) -> dict[str, Any]:
    by_run: list[float | None] = []
    steps = constant = missing = 0
    for x, y in zip(quantity, outcome, strict=True):
        common, in_x, in_y = np.intersect1d(x.steps, y.steps, return_indices=True)
        value = None
        if len(common) < _MINIMUM_STEPS:
            missing += 1
        else:
            value = _number(spearman(x.values[in_x], y.values[in_y]))
            constant += value is None
            steps += len(common) if value is not None else 0
        by_run.append(value)
    values = [value for value in by_run if value is not None]
    seeds = count_seeds([r for r, value in zip(runs, by_run, strict=True) if value is not None])
    interval = mean_interval(values, *settings) if seeds >= MINIMUM_SEEDS else None
    return {
        "coefficient": math.fsum(values) / len(values) if values else None,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "runs": len(values),
        "steps": steps,
        "constant": constant,
        "missing": missing,
        "by_run": tuple(by_run),
        "seeds": seeds,
    }


def _over_runs(
    runs: Sequence[Run],
    quantity: Sequence[Series],
    outcome: Sequence[Series],
    settings: tuple[float, int, int],
) -> dict[str, Any]:
    known = [
        (run, x.values[-1], y.values[-1])
        for run, x, y in zip(runs, quantity, outcome, strict=True)
        if len(x.values) and len(y.values)
    ]
    both = [(x, y) for _, x, y in known]
    seeds = count_seeds([run for run, _, _ in known])
    count, value, interval, constant = len(both), None, None, 0
    if seeds >= MINIMUM_SEEDS:
        x, y = np.array(both).T
        value = _number(spearman(x, y))
        constant = count if value is None else 0
        interval = spearman_interval(x, y, *settings) if value is not None else None
    return {
        "coefficient": value,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "runs": count - constant,
        "steps": count - constant,
        "constant": constant,
        "missing": len(quantity) - count,
        "seeds": 0 if constant else seeds,
    }


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _quantity(record: TopologyRecord, name: str) -> Series:
    """The mean over clouds. A step that some cloud lacks would make the mean jump: left out; a
    cloud that never has the quantity has no part in it."""
    dimension = int(name.startswith(_H1))
    column = name.removeprefix(_H1)
    by_cloud = []
    for cloud in record.clouds:
        series = Series(record.steps(cloud, dimension), record.series(column, cloud, dimension))
        series = _present(series)
        if len(series.steps):
            by_cloud.append(dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)))
    common = sorted(set.intersection(*map(set, by_cloud))) if by_cloud else []
    means = [math.fsum(cloud[step] for cloud in by_cloud) / len(by_cloud) for step in common]
    return Series(np.array(common, np.int64), np.array(means, np.float64))


def _outcome(run: Run, name: str) -> Series:
    empty = Series(np.zeros(0, np.int64), np.zeros(0))
    return _present(run.measured.get(name, empty))


def _present(series: Series) -> Series:
    there = ~np.isnan(series.values)
    return Series(series.steps[there], series.values[there])
