"""What of a run is drawn: a step that was recorded, a cloud, quantities by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tsloss_fast.analysis.plots.axes import homology
from tsloss_fast.analysis.record.reader import CloudColumns
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.runs import Run, Series

__all__ = [
    "Choice",
    "chosen_series",
    "chosen_step",
    "known_quantities",
    "label_of",
    "scale_of",
    "steps_with_points",
    "usual_quantities",
]

DEFAULT_QUANTITIES = (
    "ce",
    "accuracy",
    "mean_lifetime",
    "coefficient_of_variation",
    "redundancy",
)
_KEYS = ("step", "cloud", "dimension", "time", "n_points", "n_features")
COLUMNS = tuple(
    field.name
    for field in SCHEMA
    if field.name not in _KEYS
    and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
)
_NAMES = {
    "ce": "cross-entropy (nats)",
    "train_ce": "cross-entropy in training (nats)",
    "entropy_gap": "ln(bars) − entropy (nats)",
    "persistent_entropy": "persistent entropy (nats)",
}

_SCALES = {
    "euclidean": "Euclidean distance",
    "sqeuclidean": "squared Euclidean distance",
    "cosine": "cosine distance",
    "manhattan": "Manhattan distance",
}


@dataclass(frozen=True)
class Choice:
    """What of the runs is drawn.

    Attributes:
        step: a recorded step; None for each run's last.
        cloud: index of the cloud.
        quantities: names of series, `NAME` or `NAME:1` for dimension 1; empty for the usual ones.
    """

    step: int | None = None
    cloud: int = 0
    quantities: tuple[str, ...] = ()


def steps_with_points(run: Run, cloud: int) -> list[int]:
    """The steps at which the points themselves were kept."""
    columns = CloudColumns(run.record, cloud)
    return [int(step) for step in columns.steps[columns.present("points")]]


def check_cloud(name: str, run: Run, cloud: int) -> None:
    """Raise ValueError if the run has no such cloud."""
    known = run.record.clouds
    if cloud not in known:
        there = ", ".join(f"{k} ({run.record.cloud_name(k)})" for k in known)
        raise ValueError(f"cloud {cloud} is not in {name}; expected one of {there}")


def chosen_step(name: str, run: Run, choice: Choice, with_points: bool = False) -> int:
    """The step to draw of a run; with_points: one of those at which the points were kept.

    Raises:
        ValueError: it was not recorded, or the cloud was not.
    """
    record, cloud = run.record, choice.cloud
    check_cloud(name, run, cloud)
    steps = record.steps(cloud).tolist()
    what = "was not recorded"
    if with_points:
        what = "has no points in the record" if choice.step in steps else what
        steps = steps_with_points(run, cloud)
        if not steps:
            raise ValueError(
                f"the record of {name} holds no points to map, of any step: they were not kept "
                "when it was written"
            )
    if choice.step is None:
        return int(steps[-1])
    if choice.step not in steps:
        nearest = sorted(sorted(steps, key=lambda step: abs(step - (choice.step or 0)))[:4])
        raise ValueError(
            f"step {choice.step} of {name} {what}; nearest: {', '.join(map(str, nearest))} "
            f"({len(steps)} steps from {steps[0]} to {steps[-1]})"
        )
    return choice.step


def usual_quantities(runs: Mapping[str, Run], cloud: int) -> list[str]:
    """The default quantities that have values, training cross-entropy where there is no other."""
    known = known_quantities(runs, cloud)
    present = [quantity for quantity in DEFAULT_QUANTITIES if quantity in known]
    return present if "ce" in known or "train_ce" not in known else ["train_ce", *present]


def chosen_series(name: str, run: Run, quantity: str, cloud: int) -> Series | None:
    """A quantity of the run's log or of its record; None if it has no value of it.

    Raises:
        ValueError: the cloud was not recorded.
    """
    check_cloud(name, run, cloud)
    column, _, dimension = quantity.partition(":")
    if column in run.measured and not dimension:
        found = run.measured[column]
    elif column in COLUMNS and dimension in ("", "0", "1"):
        key = cloud, int(dimension or 0)
        found = Series(run.record.steps(*key), run.record.series(column, *key))
    else:
        return None
    return None if np.isnan(found.values).all() else found


def known_quantities(runs: Mapping[str, Run], cloud: int) -> list[str]:
    """What `chosen_series` finds in at least one of the runs."""
    measured = [name for run in runs.values() for name in run.measured]
    names = [*dict.fromkeys(measured), *COLUMNS, *(f"{name}:1" for name in COLUMNS)]
    return [
        quantity
        for quantity in names
        if any(chosen_series(name, run, quantity, cloud) for name, run in runs.items())
    ]


def label_of(quantity: str) -> str:
    """Its name on an axis, with the unit if it has one of its own."""
    name, _, dimension = quantity.partition(":")
    text = _NAMES.get(name, name.replace("_", " "))
    return f"{homology(int(dimension))}: {text}" if dimension else text


def scale_of(runs: Sequence[Run]) -> str:
    """What the axis of scales is called, from the metric of the records."""
    metrics = {str(run.record.metadata.get("metric")) for run in runs}
    return _SCALES.get(metrics.pop(), "scale") if len(metrics) == 1 else "scale"
