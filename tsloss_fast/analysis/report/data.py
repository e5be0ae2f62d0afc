"""The numbers that a report's page draws, thinned to what a page can hold, as JSON can hold them.

A series has `frames`, and `at`: for each step of the page's slider the index of the frame to show,
which is the newest one not after the step (-1 where nothing was recorded yet). Steps of the
slider, maps and curves are thinned in one way: evenly spaced by rank, with the first and the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.report.names import VocabularyNames, in_embedding_space, visible
from tsloss_fast.analysis.report.story import VARIATION, capital, number
from tsloss_fast.analysis.runs import Run, Series, group_runs, method_name
from tsloss_fast.analysis.words import PALETTE, QUANTITIES, RATES, THRESHOLDS, label_of

__all__ = ["methods", "page_data", "thin"]

# Limits that keep a page below 1.5 MB: steps of the slider; points of clouds over all steps, clouds
# and runs; values of all curves; values of one curve, whose figure is fewer pixels wide.
STEPS, LEAST = 61, 8
FRAME_POINTS, MAP_POINTS = 40_000, 10_000
CURVE_VALUES, CURVE_POINTS, LEAST_POINTS = 20_000, 2000, 50
# The directions of a map are fitted to at most this many points; more would not turn them visibly.
FITTED = 2000
# Curves over the steps, in their order: what was measured, columns of the record, and two more:
# `changed_merges` is the number of `edges_added`, `loops` that of the bars of dimension 1.
MEASURED = ("accuracy", "restricted_accuracy", "ce", "train_ce")
CURVES = (
    *MEASURED, "mean_lifetime", "coefficient_of_variation", "entropy_gap", "redundancy",
    "total_persistence", "bottleneck_first", "bottleneck_previous", "displacement_first",
    "displacement_previous", "changed_merges", "loops",
)  # fmt: skip
# Strokes, as SVG has them, of runs and of controls: the next one when the colours come again.
DASHES = {False: ("", "10 4", "7 3 2 3"), True: ("6 4", "2 3", "7 3 2 3")}


def methods(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the methods, each with the indices of its `runs`, its `colour` (greys for controls),
    its `dash`, a `name` that no other has, and those of its runs that are `whole`.

    A whole run has the last record and the last log of its method. The means are made of whole runs
    alone, because a run that was cut off ends at another step.
    """
    groups: list[dict[str, Any]] = []
    members = group_runs(runs)
    names = [visible(method_name([runs[k] for k in each], runs), 120) for each in members]
    for indices, name in zip(members, names, strict=True):
        control = runs[indices[0]].control
        if names.count(name) > 1:
            name += f", from {visible('/'.join(runs[indices[0]].folder.parts[-2:]), 60)}"
            name += f" ({len(groups) + 1})" * any(group["name"] == name for group in groups)
        colours = PALETTE["controls" if control else "runs"]
        before = sum(runs[group["runs"][0]].control == control for group in groups)
        look = {"name": name, "colour": colours[before % len(colours)]}
        look["dash"] = DASHES[control][before // len(colours) % 3]
        reach = {k: _reach(runs[k]) for k in indices}
        whole = [k for k in indices if reach[k] == max(reach.values())]
        groups.append(look | {"runs": indices, "whole": whole})
    return groups


def _reach(run: Run) -> list[int]:
    """The last step of the record and of each measured quantity, -1 for one without any."""
    logs = [run.measured[name].steps.max() if name in run.measured else -1 for name in MEASURED]
    return [int(run.record.steps().max()), *map(int, logs)]


def page_data(
    runs: Sequence[Run],
    names: Sequence[VocabularyNames | None],
    groups: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """Return what the page's script draws, and notes on what was left out of it.

    Args:
        names: of the tokens of each run, None for numbers alone.
        groups: as `methods` returns them.
    """
    recorded = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    titles = {cloud: visible(record.cloud_name(cloud), 60) for record, cloud in recorded[::-1]}
    size = sum(max(int(record.series("n_points", cloud).max()), 1) for record, cloud in recorded)
    every = sorted({step for record, cloud in recorded for step in record.steps(cloud).tolist()})
    slider = [every[k] for k in thin(len(every), min(STEPS, max(LEAST, FRAME_POINTS // size)))]
    limit = max(2, min(len(slider), MAP_POINTS // size))
    looks = {k: group for group in groups for k in group["runs"]}
    shown: list[dict[str, Any]] = [
        {"name": visible(run.name, 80), "colour": looks[k]["colour"], "dash": looks[k]["dash"]}
        | {"clouds": {}}
        for k, run in enumerate(runs)
    ]
    for cloud in sorted(titles):
        records = {k: run.record for k, run in enumerate(runs) if cloud in run.record.clouds}
        maps = _maps(records, cloud, slider, limit, names)
        for k, record in records.items():
            shown[k]["clouds"][str(cloud)] = _cloud(record, cloud, slider) | {"map": maps.get(k)}
    lines = len(CURVES) * len(titles) * len(groups)
    limit = min(CURVE_POINTS, max(LEAST_POINTS, CURVE_VALUES // lines))
    panels = {str(cloud): _panels(runs, groups, cloud, limit) for cloud in sorted(titles)}
    data = {
        "thresholds": THRESHOLDS,
        "slider": slider,
        "clouds": sorted(titles.items()),
        "runs": shown,
        "shown": [group["runs"][0] for group in groups][:4],
        "panels": {cloud: found for cloud, (found, _) in panels.items()},
        "quiet": {cloud: said for cloud, (_, said) in panels.items()},
    }
    return data, _notes(runs, names, len(every), data)


def _cloud(record: TopologyRecord, cloud: int, slider: Sequence[int]) -> dict[str, Any]:
    """What is shown of one cloud at each step of the slider, but for the map."""
    columns, loops = CloudColumns(record, cloud), CloudColumns(record, cloud, 1)
    points, features = (int(columns.numbers(name)[-1]) for name in ("n_points", "n_features"))
    entry = {"features": features, **_frames(columns, slider)}
    few = int(THRESHOLDS["loops_from"])
    if (loops.numbers("bars") > 0).any():
        return entry | {"h1": _frames(loops, slider)}
    said = f"No loop was found in {counted(len(loops), 'record')}"
    said = said if len(loops) else "Loops were not recorded"
    if points < few:
        said += f": {counted(points, 'token')} can hardly have a loop; from about {few} on they do"
    return entry | {"no_h1": f"{said}."}


def _frames(columns: CloudColumns, slider: Sequence[int]) -> dict[str, Any]:
    """The barcodes of a cloud in one dimension that the slider reaches."""
    used, at = _reached(columns.steps, slider)
    points = columns.numbers("n_points")
    frames: list[dict[str, Any]] = [
        {"step": int(columns.steps[k]), "n": int(points[k])} for k in used
    ]
    for name in ("births", "deaths") if columns.dimension else ("deaths", "edges"):
        for frame, found in zip(frames, columns.lists(name, used), strict=True):
            # A cloud that is not finite is recorded without bars.
            if found is not None:
                frame[name] = found.ravel().tolist() if name == "edges" else compact(found)
    return {"frames": frames, "at": at}


def _maps(
    records: Mapping[int, TopologyRecord],
    cloud: int,
    slider: Sequence[int],
    limit: int,
    names: Sequence[VocabularyNames | None],
) -> dict[int, dict[str, Any]]:
    """Maps of one cloud in the plane of its two principal directions, by run; runs without points
    have none.

    Runs whose points have the same number of coordinates share their plane, so that a place in one
    map is the same place in the other. Points of another number of coordinates than the last
    record's are in no map.
    """
    maps: dict[int, dict[str, Any]] = {}
    # The points of all frames and the vectors of their tokens, by width and run.
    drawn: dict[int, dict[int, tuple[list[np.ndarray], np.ndarray]]] = {}
    for k, record in records.items():
        columns = CloudColumns(record, cloud)
        width = columns.numbers("n_features")
        # A cloud that is not finite is recorded without bars.
        kept = columns.present("points") & columns.present("deaths") & (width == width[-1])
        positions = np.flatnonzero(kept & (width * columns.numbers("n_points") > 0))
        used, at = _reached(columns.steps[positions], slider, limit)
        found = columns.lists("points", positions[used].tolist())
        points = [x.reshape(-1, int(width[-1])) for x in found if x is not None]
        if not points:
            continue
        frames: list[dict[str, Any]] = [{"step": int(columns.steps[i])} for i in positions[used]]
        tokens: list[str] = []
        vectors = points[0][:0]
        vocabulary = names[k] if in_embedding_space(record, cloud) else None
        # One search finds the names of all points, since it reads the whole vocabulary.
        near = None if vocabulary is None else vocabulary.nearest(np.concatenate(points))
        if near is not None:
            tokens, vectors, which, distances = near
            ends = np.cumsum([len(x) for x in points])[:-1]
            parts = zip(frames, np.split(which, ends), np.split(distances, ends), strict=True)
            for frame, nearest, far in parts:
                frame |= {"nearest": nearest.tolist(), "distances": compact(far)}
        maps[k] = {"frames": frames, "at": at, "tokens": tokens}
        drawn.setdefault(int(width[-1]), {})[k] = points, vectors
    for group in drawn.values():
        stacked = np.concatenate(
            [x for points, vectors in group.values() for x in (*points, vectors)]
        )
        centre, axes, share = principal_plane(stacked[thin(len(stacked), FITTED)])
        for k, (points, vectors) in group.items():
            maps[k]["places"] = compact(((vectors - centre) @ axes).ravel())
            maps[k]["share"] = compact(share)
            for frame, xy in zip(maps[k]["frames"], points, strict=True):
                frame["xy"] = compact(((xy - centre) @ axes).ravel())
    return maps


def _panels(
    runs: Sequence[Run], groups: Sequence[Mapping[str, Any]], cloud: int, limit: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Panels of curves, a line for each method, and sentences on the curves that never change."""
    panels, quiet = [], []
    for name in CURVES:
        found = {k: _curve(run, cloud, name) for k, run in enumerate(runs)}
        curves = {k: curve for k, curve in found.items() if np.isfinite(curve[1]).any()}
        if not curves:
            continue
        known = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()])
        heading, says = capital(label_of(name)), QUANTITIES[name]["says"]
        if known.min() == known.max():
            quiet.append(f"{heading} was {number(known[0])} wherever it was recorded. ({says})")
            continue
        lines = [line for group in groups for line in _lines(group, curves, limit)]
        panel: dict[str, Any] = {"name": name, "heading": heading, "says": says, "lines": lines}
        panel |= {"zero": bool(known.min() >= 0), "whole": name in ("changed_merges", "loops")}
        panels.append(panel | {"rates": [*_rates(runs)] if name == "accuracy" else []})
    return panels, quiet


def _curve(run: Run, cloud: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,) and values (S,) of a curve."""
    if name in MEASURED:
        series = run.measured.get(name, Series(np.zeros(0), np.zeros(0)))
        return series.steps, series.values
    columns = CloudColumns(run.record, cloud, int(name == "loops"))
    if name == "changed_merges":
        added = columns.lists("edges_added")
        return columns.steps, np.array([np.nan if x is None else len(x) for x in added])
    if name == "loops" or name.startswith("displacement"):
        return columns.steps, columns.numbers("bars" if name == "loops" else name)
    # A cloud without bars has no mean, and bars that are all 0 have no relative spread.
    none = columns.numbers("mean_lifetime" if name == VARIATION else "bars") == 0
    return columns.steps, np.where(none, np.nan, columns.numbers(name))


def _lines(
    group: Mapping[str, Any], curves: Mapping[int, tuple[np.ndarray, np.ndarray]], limit: int
) -> Iterator[dict[str, Any]]:
    """The line of a method: the mean of its whole runs at the steps that all of them have, a band
    from the least to the greatest; without such a step, a line for each run."""
    members = [curves[k] for k in group["whole"] if k in curves]
    common = set.intersection(*({*at.tolist()} for at, _ in members)) if members else set()
    for part in [members] if common else [[member] for member in members]:
        steps = np.array(sorted(common)) if common else part[0][0]
        stacked = np.array([values[np.isin(at, steps)] for at, values in part])
        chosen = thin(len(steps), limit)
        line = {name: group[name] for name in ("name", "colour", "dash")}
        line |= {"steps": steps[chosen].tolist(), "values": compact(stacked.mean(0)[chosen])}
        if len(part) > 1:
            low, high = stacked.min(0)[chosen], stacked.max(0)[chosen]
            line |= {"low": compact(low), "high": compact(high)}
        yield line


def _rates(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Accuracies without tuning, the mean over the runs that have them."""
    for (name, text), dash in zip(RATES.items(), ("2 3", "7 3 2 3"), strict=False):
        found = [run.reference.get(name) for run in runs]
        rates = [float(rate) for rate in found if isinstance(rate, (int, float))]
        if rates and np.isfinite(rates).all():
            yield {"value": compact([sum(rates) / len(rates)])[0], "text": text, "dash": dash}


def thin(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` (2 or more) of the positions 0 to count - 1, evenly spaced, the first
    and the last among them."""
    chosen: np.ndarray = np.linspace(0, count - 1, min(limit, count)).round().astype(int)
    return chosen


def _reached(
    steps: np.ndarray, slider: Sequence[int], limit: int = STEPS
) -> tuple[list[int], list[int]]:
    """Positions in `steps` that the slider reaches, at most `limit`, and for each of its
    steps the rank among them of the newest one not after it, or -1."""
    newest = np.searchsorted(steps, slider, side="right") - 1
    used = np.unique(newest[newest >= 0])
    used = used[thin(len(used), limit)]
    return used.tolist(), (np.searchsorted(steps[used], slider, side="right") - 1).tolist()


def compact(values: Iterable[float] | np.ndarray) -> list[float | None]:
    """Return six significant digits, which no figure can show; None for what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in array.tolist()]


def _notes(
    runs: Sequence[Run],
    names: Sequence[VocabularyNames | None],
    steps: int,
    data: Mapping[str, Any],
) -> list[str]:
    """Sentences on how the page was made from the records."""
    notes = []
    if (shown := len(data["slider"])) < steps:
        notes.append(
            f"The slider shows {shown} of {steps} recorded steps, evenly spaced, the first and the "
            "last among them; the sentences use every record."
        )
    for run, entry in zip(runs, data["runs"], strict=True):
        if run.record.damage is not None:
            notes.append(f"{entry['name']}: the record {run.record.damage}.")
        if not any(cloud["map"] for cloud in entry["clouds"].values()):
            notes.append(f"{entry['name']}: the points were not kept, so there is no map.")
        if any(np.ptp(run.record.series("n_features", cloud)) > 0 for cloud in run.record.clouds):
            notes.append(
                f"{entry['name']}: the number of coordinates changes; the map leaves out the "
                "points that have another one than the last."
            )
    recorded = [(run.record, found) for run, found in zip(runs, names, strict=True) if found]
    if not all(in_embedding_space(record, c) for record, _ in recorded for c in record.clouds):
        notes.append("The points of clouds that are no embeddings of tokens have no names.")
    return notes
