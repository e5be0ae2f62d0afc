"""Runs whose topology and performance are chosen here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import pyarrow as pa

from tsloss_fast.analysis.record.reader import TopologyRecord
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.relation import Correlation, Relation
from tsloss_fast.analysis.relation import relate
from tsloss_fast.analysis.runs import Run, Series

X, Y = "mean_lifetime", "accuracy"
NAN = float("nan")


def make_run(
    x: Mapping[int, float] | Sequence[Mapping[int, float]],
    y: Mapping[int, float],
    *,
    column: str = X,
    dimension: int = 0,
    outcome: str = Y,
    name: str = "run",
    **config: object,
) -> Run:
    """A run with one quantity by step (a list of them for several clouds), and one outcome."""
    clouds = [x] if isinstance(x, Mapping) else x
    rows = [
        {"step": step, "cloud": cloud, "dimension": dimension, column: value}
        for cloud, values in enumerate(clouds)
        for step, value in values.items()
    ]
    rows += [{"step": step, "cloud": 0, "dimension": 0} for step in clouds[0] if dimension]
    record = TopologyRecord(pa.Table.from_pylist(rows, schema=SCHEMA), {})
    series = Series(np.array(sorted(y), np.int64), np.array([y[s] for s in sorted(y)], np.float64))
    config = {"task": "reviews", "model": "smollm2"} | config
    return Run(name, Path("nowhere"), record, {outcome: series}, {}, config)


def random_runs(count: int, steps: int = 8, seed: int = 0, slope: float = 1.0) -> list[Run]:
    generator = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        x = generator.normal(size=steps)
        y = slope * x + generator.normal(size=steps)
        runs.append(make_run(dict(enumerate(x)), dict(enumerate(y)), seed=index))
    return runs


def entry(relation: Relation, view: str, quantity: str = X, outcome: str = Y) -> Correlation:
    (found,) = (
        c
        for c in relation.correlations
        if (c.view, c.quantity, c.outcome) == (view, quantity, outcome)
    )
    return found


def related(runs: Sequence[Run], view: str, **options: object) -> Correlation:
    return entry(relate(runs, [X], [Y], **options), view)
