"""What a report's page is made from: the numbers its script draws, and the story of each cloud."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record.reader import CloudColumns
from tsloss_fast.analysis.report.frames import compact, frames, loops, thin, thin_curve
from tsloss_fast.analysis.report.health import SHORT
from tsloss_fast.analysis.report.map import Names, maps
from tsloss_fast.analysis.report.names import in_embedding_space, named, visible
from tsloss_fast.analysis.report.story import Story, tell
from tsloss_fast.analysis.report.task_story import control_of
from tsloss_fast.analysis.runs import Run

__all__ = ["Page", "page_data"]

# Steps of the slider; and what the page may hold at all, in points over steps, clouds and runs.
STEPS, LEAST = 61, 8
FRAME_POINTS, MAP_POINTS = 300_000, 20_000
# Points of a curve; a figure is fewer pixels wide.
CURVE_POINTS = 2000
# From so many points on a prompt has loops worth drawing (13 to 27 at 100, 0 to 2 at 20).
LOOPS_FROM = 40
# Columns of the record drawn over the steps; `changed` is the number of edges_added.
CURVES = (
    "mean_lifetime",
    "coefficient_of_variation",
    "entropy_gap",
    "redundancy",
    "total_persistence",
    "bottleneck_first",
    "bottleneck_previous",
    "displacement_first",
    "displacement_previous",
)
MEASURED = ("train_ce", "ce", "accuracy", "restricted_accuracy")
RATES = ("majority_rate", "zero_shot_accuracy", "zero_shot_restricted_accuracy")
# Okabe and Ito's colours; the control is grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREYS = ("#6b6b6b", "#9a9a9a", "#3f3f3f")


@dataclass(frozen=True)
class Page:
    """A page's content.

    Attributes:
        data: for the script, what JSON can hold.
        stories: by run and cloud.
        notes: what a reader must know of how it was made.
    """

    data: Mapping[str, Any]
    stories: Mapping[tuple[int, int], Story]
    notes: Sequence[str]


def page_data(runs: Sequence[Run], names: Sequence[Names | None]) -> Page:
    """Gather a page from runs, with the names of each (None: numbers alone)."""
    clouds = sorted({cloud for run in runs for cloud in run.record.clouds})
    recorded = [run.record.steps(cloud) for run in runs for cloud in run.record.clouds]
    size = sum(
        int(CloudColumns(run.record, cloud).numbers("n_points").max())
        for run in runs
        for cloud in run.record.clouds
    )
    every = sorted({step for steps in recorded for step in steps.tolist()})
    slider = thin(every, min(STEPS, max(LEAST, FRAME_POINTS // max(size, 1))))
    limit = max(2, min(len(slider), MAP_POINTS // max(size, 1)))
    shown: list[dict[str, Any]] = [_run(run) for run in runs]
    _colour(runs, shown)
    stories: dict[tuple[int, int], Story] = {}
    for cloud in clouds:
        records = {k: run.record for k, run in enumerate(runs) if cloud in run.record.clouds}
        where = {k: names[k] for k, r in records.items() if in_embedding_space(r, cloud)}
        found = maps(records, cloud, slider, limit, where)
        for k, record in records.items():
            entry = _cloud(runs[k], cloud, slider) | {"map": found.get(k)}
            shown[k]["clouds"][str(cloud)] = entry
            control = control_of(runs[k], list(runs))
            label = functools.partial(named, names=_last_names(found.get(k)))
            stories[k, cloud] = tell(record, cloud, control.record if control else None, label)
    titles = {cloud: _title(runs, cloud) for cloud in clouds}
    data = {
        "slider": slider,
        "clouds": [[cloud, titles[cloud]] for cloud in clouds],
        "runs": shown,
    }
    return Page(data, stories, _notes(runs, names, every, slider, shown))


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": visible(run.name, 80),
        "control": run.control,
        "metric": str(run.record.metadata.get("metric", "euclidean")),
        "rho": _rho(run),
        "measured": {
            name: _curve(series.steps, series.values)
            for name, series in run.measured.items()
            if name in MEASURED
        },
        "rates": {
            name: float(run.reference[name])
            for name in RATES
            if isinstance(run.reference.get(name), (int, float))
        },
        "clouds": {},
    }


def _rho(run: Run) -> float:
    """Below which share of the mean a bar counts as redundant; records of old do not say it."""
    rho = run.record.metadata.get("rho")
    return float(rho) if isinstance(rho, (int, float)) else SHORT


def _curve(steps: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    steps, values = thin_curve(steps, values, CURVE_POINTS)
    return {"steps": steps.tolist(), "values": compact(values)}


def _colour(runs: Sequence[Run], shown: Sequence[dict[str, Any]]) -> None:
    counts = {True: 0, False: 0}
    for run, entry in zip(runs, shown, strict=True):
        colours = GREYS if run.control else COLOURS
        entry["colour"] = colours[counts[run.control] % len(colours)]
        # Colours come again after the last one; then another dash tells them apart.
        dashes = ("dash", "dot", "dashdot") if run.control else ("solid", "longdash", "dashdot")
        entry["dash"] = dashes[counts[run.control] // len(colours) % len(dashes)]
        counts[run.control] += 1


def _cloud(run: Run, cloud: int, slider: Sequence[int]) -> dict[str, Any]:
    columns = CloudColumns(run.record, cloud)
    added = columns.lists("edges_added")
    curves = {name: columns.numbers(name) for name in CURVES}
    curves["changed"] = np.array([np.nan if x is None else len(x) for x in added])
    one = CloudColumns(run.record, cloud, 1)
    entry: dict[str, Any] = {
        "features": int(columns.numbers("n_features")[-1]),
        "records": len(columns),
        "ends": [int(columns.steps[0]), int(columns.steps[-1])],
        "curves": {
            name: _curve(columns.steps, values)
            for name, values in curves.items()
            if np.isfinite(values).any()
        },
        **frames(run.record, cloud, slider),
    }
    bars = one.numbers("bars")
    reason = _no_loops(int(columns.numbers("n_points")[-1]), one.steps, bars)
    if reason is None:
        entry["h1"] = loops(run.record, cloud, slider)
        entry["loops"] = _curve(one.steps, bars)
    else:
        entry["no_h1"] = reason
    return entry


def _no_loops(points: int, steps: np.ndarray, bars: np.ndarray) -> str | None:
    """Why dimension 1 is not drawn, or None if it is."""
    small = f"{points} tokens have almost no loops; from about {LOOPS_FROM} on they say something"
    if not len(steps):
        return "Loops were not recorded" + (f": {small}." if points < LOOPS_FROM else ".")
    if points < LOOPS_FROM and not (bars > 0).any():
        times = counted(len(steps), "record")
        return f"No loop was found in {times}: {small}."
    return None


def _last_names(found: Mapping[str, Any] | None) -> list[str] | None:
    if not found or "nearest" not in found["frames"][-1]:
        return None
    return [found["tokens"][k] for k in found["frames"][-1]["nearest"]]


def _title(runs: Sequence[Run], cloud: int) -> str:
    name = next(run.record.cloud_name(cloud) for run in runs if cloud in run.record.clouds)
    return visible(name, 60)


def _notes(
    runs: Sequence[Run],
    names: Sequence[Names | None],
    every: Sequence[int],
    slider: Sequence[int],
    shown: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = []
    longest = max(
        [cloud["records"] for entry in shown for cloud in entry["clouds"].values()]
        + [len(s.steps) for run in runs for name, s in run.measured.items() if name in MEASURED]
    )
    if len(slider) < len(every):
        whole = "the summary uses" if longest > CURVE_POINTS else "the curves and the summary use"
        notes.append(
            f"The slider shows {len(slider)} of {len(every)} recorded steps, evenly spaced, the "
            f"first and the last among them; {whole} every record."
        )
    if longest > CURVE_POINTS:
        notes.append(
            f"Curves of more than {CURVE_POINTS:,} values are drawn with the first, the last, and "
            "the least and the greatest of each of many short stretches between them."
        )
    for run, entry in zip(runs, shown, strict=True):
        if run.record.damage is not None:
            notes.append(f"{entry['name']}: the record {run.record.damage}.")
        if not any(cloud["map"] for cloud in entry["clouds"].values()):
            notes.append(f"{entry['name']}: the points were not kept, so there is no map.")
        left_out = sum(c["map"]["left_out"] for c in entry["clouds"].values() if c["map"])
        if left_out:
            notes.append(
                f"{entry['name']}: at some steps the points have another number of coordinates "
                f"than at the last; the map leaves out {left_out} of them."
            )
    unnamed = [
        run.record.cloud_name(cloud)
        for run, found in zip(runs, names, strict=True)
        for cloud in run.record.clouds
        if found is not None and not in_embedding_space(run.record, cloud)
    ]
    if unnamed:
        notes.append(
            f"The points of {visible(unnamed[0], 60)}"
            + (" and other clouds" if len(set(unnamed)) > 1 else "")
            + " are no embeddings of tokens, so they have numbers and no names."
        )
    if not any(run.control for run in runs):
        notes.append(
            "None of these runs is a control with cross-entropy alone, so what the loss did cannot "
            "be told from what training does anyway."
        )
    return notes
