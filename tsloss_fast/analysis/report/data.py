"""The numbers that a report's page draws, thinned to what a page can hold, as JSON can hold them.

A series has `frames`, and `at`: for each step of the page's slider the index of the frame to show,
which is the newest one not after the step (-1 where nothing was recorded yet).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.report.names import VocabularyNames, in_embedding_space, visible
from tsloss_fast.analysis.report.story import capital, number
from tsloss_fast.analysis.runs import Run, describe, group_runs
from tsloss_fast.analysis.words import PALETTE, QUANTITIES, RATES, THRESHOLDS, label_of

__all__ = ["compact", "newest", "page_data", "thin", "thin_curve"]

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


def page_data(
    runs: Sequence[Run], names: Sequence[VocabularyNames | None]
) -> tuple[dict[str, Any], list[str]]:
    """Return what the page's script draws, and notes on what was left out of it.

    Args:
        names: of the tokens of each run, None for numbers alone.
    """
    recorded = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    titles = {cloud: visible(record.cloud_name(cloud), 60) for record, cloud in recorded[::-1]}
    size = sum(max(int(record.series("n_points", cloud).max()), 1) for record, cloud in recorded)
    every = sorted({step for record, cloud in recorded for step in record.steps(cloud).tolist()})
    slider = thin(every, min(STEPS, max(LEAST, FRAME_POINTS // size)))
    limit = max(2, min(len(slider), MAP_POINTS // size))
    groups = _groups(runs)
    shown: list[dict[str, Any]] = [_run(run) for run in runs]
    for index, group in enumerate(groups):
        for k in group["runs"]:
            shown[k] |= {"group": index, "colour": group["colour"], "dash": group["dash"]}
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
        "clouds": [[cloud, titles[cloud]] for cloud in sorted(titles)],
        "runs": shown,
        "groups": groups,
        "shown": [group["runs"][0] for group in groups][:4],
        "panels": {cloud: found for cloud, (found, _) in panels.items()},
        "quiet": {cloud: said for cloud, (_, said) in panels.items()},
    }
    return data, _notes(runs, names, every, data)


def _run(run: Run) -> dict[str, Any]:
    rho = run.record.metadata.get("rho")
    known = isinstance(rho, (int, float)) and np.isfinite(rho)
    return {
        "name": visible(run.name, 80),
        "control": run.control,
        # The share of the mean below which a bar counts as redundant; old records do not say it.
        "rho": rho if known else THRESHOLDS["short"],
        "metric": str(run.record.metadata.get("metric", "euclidean")),
        "clouds": {},
    }


def _groups(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The methods: a colour each, controls in greys, and names that tell them apart."""
    groups: list[dict[str, Any]] = []
    members = group_runs(runs)
    tuned = [runs[k].config for k, *others in members if others]
    for indices in members:
        run = runs[indices[0]]
        config, control, name = run.config, run.control, run.name
        if len(indices) > 1 and "loss" in config:
            alike = [other for other in tuned if other.get("loss") == config["loss"]]
            differing = [
                f"{setting} {value}"
                for setting, value in config.items()
                if setting not in ("loss", "weight", "seed", "task_digest")
                and any(other.get(setting) != value for other in alike)
            ]
            name = "control: " * control + describe(config["loss"], config["weight"])
            name = ", ".join([name, *differing])
        colours = PALETTE["controls" if control else "runs"]
        before = sum(group["control"] == control for group in groups)
        groups.append(
            {
                "name": visible(name, 80),
                "colour": colours[before % len(colours)],
                "dash": DASHES[control][before // len(colours) % 3],
                "control": control,
                "runs": indices,
            }
        )
    return groups


def _cloud(record: TopologyRecord, cloud: int, slider: Sequence[int]) -> dict[str, Any]:
    """What is shown of one cloud at each step of the slider, but for the map."""
    columns, loops = CloudColumns(record, cloud), CloudColumns(record, cloud, 1)
    points, features = (int(columns.numbers(name)[-1]) for name in ("n_points", "n_features"))
    entry = {"features": features, "records": len(columns), **_frames(columns, slider)}
    few = int(THRESHOLDS["loops_from"])
    small = f"{points} tokens have almost no loops; from about {few} on they say something"
    if not len(loops):
        entry["no_h1"] = f"Loops were not recorded{f': {small}' if points < few else ''}."
    elif points < few and not (loops.numbers("bars") > 0).any():
        entry["no_h1"] = f"No loop was found in {counted(len(loops), 'record')}: {small}."
    else:
        entry["h1"] = _frames(loops, slider)
    return entry


def _frames(columns: CloudColumns, slider: Sequence[int]) -> dict[str, Any]:
    """The barcodes of a cloud in one dimension that the slider reaches."""
    used, at = _used(columns.steps, slider)
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
    # The points of all frames, the tokens, and where each frame ends, by width and run.
    rows: dict[int, dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for k, record in records.items():
        columns = CloudColumns(record, cloud)
        width = columns.numbers("n_features").astype(int)
        kept = np.flatnonzero(columns.present("points") & (width == width[-1]))
        chosen = thin(kept[_used(columns.steps[kept], slider)[0]].tolist(), limit)
        found = {
            int(columns.steps[position]): flat.reshape(-1, width[-1])
            for position, flat in zip(chosen, columns.lists("points", chosen), strict=True)
            if flat is not None and flat.size and np.isfinite(flat).all()
        }
        if not found:
            continue
        points, ends = np.concatenate([*found.values()]), np.cumsum([*map(len, found.values())])
        frames: list[dict[str, Any]] = [{"step": step} for step in found]
        tokens: list[str] = []
        vectors = points[:0]
        vocabulary = names[k] if in_embedding_space(record, cloud) else None
        # One search finds the names of all points, since it reads the whole vocabulary.
        if vocabulary is not None and (near := vocabulary.nearest(points)) is not None:
            tokens, vectors, which, distances = near
            for frame, part in zip(
                frames, np.split(np.arange(len(points)), ends[:-1]), strict=True
            ):
                frame["nearest"] = which[part].tolist()
                frame["distances"] = compact(distances[part])
        at = newest(np.array([*found]), slider).tolist()
        maps[k] = {"frames": frames, "at": at, "tokens": tokens}
        rows.setdefault(int(width[-1]), {})[k] = points, vectors, ends
    for group in rows.values():
        stacked = np.concatenate(
            [x for points, vectors, _ in group.values() for x in (points, vectors)]
        )
        fitted = np.linspace(0, len(stacked) - 1, FITTED).round().astype(int)
        centre, axes, share = principal_plane(stacked[np.unique(fitted)])
        for k, (points, vectors, ends) in group.items():
            maps[k]["places"] = compact(((vectors - centre) @ axes).ravel())
            maps[k]["share"] = compact(share)
            places = np.split((points - centre) @ axes, ends[:-1])
            for frame, xy in zip(maps[k]["frames"], places, strict=True):
                frame["xy"] = compact(xy.ravel())
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
            when = "evaluation" if name in MEASURED else "record"
            every = "every run" if len(runs) > 1 else "the run"
            quiet.append(f"{heading} was {number(known[0])} in every {when} of {every}. ({says})")
            continue
        panel = {"name": name, "heading": heading, "says": says, "zero": bool(known.min() >= 0)}
        panel |= {"whole": name in ("changed_merges", "loops")}
        panel |= {"rates": [*_rates(runs)] if name == "accuracy" else []}
        panel |= {"lines": [line for group in groups for line in _lines(group, curves, limit)]}
        panels.append(panel)
    return panels, quiet


def _curve(run: Run, cloud: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,) and values (S,) of a curve."""
    if name in MEASURED:
        series = run.measured.get(name)
        return (np.zeros(0), np.zeros(0)) if series is None else (series.steps, series.values)
    columns = CloudColumns(run.record, cloud, int(name == "loops"))
    if name == "changed_merges":
        added = columns.lists("edges_added")
        return columns.steps, np.array([np.nan if x is None else len(x) for x in added])
    return columns.steps, columns.numbers("bars" if name == "loops" else name)


def _lines(
    group: Mapping[str, Any], curves: Mapping[int, tuple[np.ndarray, np.ndarray]], limit: int
) -> Iterator[dict[str, Any]]:
    """The line of a method: the mean of its runs at the steps that all of them have, with a band
    from the least to the greatest; without such a step, a line for each run."""
    members = [curves[k] for k in group["runs"] if k in curves]
    common = set.intersection(*({*at.tolist()} for at, _ in members)) if members else set()
    for part in [members] if common else [[member] for member in members]:
        steps = np.array(sorted(common)) if common else part[0][0]
        stacked = np.array([values[np.isin(at, steps)] for at, values in part])
        chosen = thin_curve(stacked.mean(0), limit)
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


def thin(steps: Iterable[int], limit: int) -> list[int]:
    """Return at most `limit` (2 or more) of the steps, evenly spaced by rank, the first and last
    among them."""
    ordered = sorted(set(steps))
    chosen = np.linspace(0, len(ordered) - 1, min(limit, len(ordered))).round().astype(int)
    return [ordered[k] for k in chosen.tolist()]


def thin_curve(values: np.ndarray, limit: int) -> np.ndarray:
    """Return the positions of at most `limit` values of a curve that look as all of them do: the
    first and the last, and of each of many stretches the least and the greatest."""
    if len(values) <= limit:
        return np.arange(len(values))
    finite = np.isfinite(values)
    low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    parts = np.array_split(np.arange(len(values)), (limit - 2) // 2)
    ends = [k for p in parts for k in (p[low[p].argmin()], p[high[p].argmax()])]
    return np.unique([0, *ends, len(values) - 1])


def newest(steps: np.ndarray, slider: Sequence[int]) -> np.ndarray:
    """Return, for each step of the slider, the position in `steps` of the newest not after it, or
    -1."""
    return np.searchsorted(steps, np.asarray(slider, dtype=np.int64), side="right") - 1


def _used(steps: np.ndarray, slider: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of the rows that the slider reaches, and the rank among them for each step."""
    positions = newest(steps, slider)
    used = np.unique(positions[positions >= 0])
    at = np.where(positions < 0, -1, np.searchsorted(used, positions))
    return used.tolist(), at.tolist()


def compact(values: Iterable[float] | np.ndarray) -> list[float | None]:
    """Return six significant digits, which no figure can show; None for what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in array.tolist()]


def _notes(
    runs: Sequence[Run],
    names: Sequence[VocabularyNames | None],
    every: Sequence[int],
    data: Mapping[str, Any],
) -> list[str]:
    """Sentences on how the page was made from the records."""
    notes = []
    if (shown := len(data["slider"])) < len(every):
        notes.append(
            f"The slider shows {shown} of {len(every)} recorded steps, evenly spaced, the first "
            "and the last among them; the sentences use every record."
        )
    unnamed: dict[str, None] = {}
    for run, entry, found in zip(runs, data["runs"], names, strict=True):
        if run.record.damage is not None:
            notes.append(f"{entry['name']}: the record {run.record.damage}.")
        if not any(cloud["map"] for cloud in entry["clouds"].values()):
            notes.append(f"{entry['name']}: the points were not kept, so there is no map.")
        left_out = 0
        for cloud in run.record.clouds:
            columns = CloudColumns(run.record, cloud)
            width = columns.numbers("n_features")
            left_out += int((columns.present("points") & (width != width[-1])).sum())
            if found is not None and not in_embedding_space(run.record, cloud):
                unnamed[visible(run.record.cloud_name(cloud), 60)] = None
        if left_out:
            notes.append(
                f"{entry['name']}: at some steps the points have another number of coordinates "
                f"than at the last; the map leaves out {left_out} of them."
            )
    if unnamed:
        more = " and other clouds" if len(unnamed) > 1 else ""
        notes.append(
            f"The points of {next(iter(unnamed))}{more} are no embeddings of tokens, so they have "
            "numbers and no names."
        )
    return notes
