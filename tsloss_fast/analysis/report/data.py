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

__all__ = ["page_data", "thin", "thin_curve"]

# Steps of the slider, and what a page may hold: points of clouds over all steps, clouds and runs;
# values of all curves; values of one curve, whose figure is fewer pixels wide.
STEPS, LEAST = 61, 8
FRAME_POINTS, MAP_POINTS = 300_000, 20_000
CURVE_VALUES, CURVE_POINTS = 150_000, 2000
# The directions of a map are fitted to at most this many points; more would not turn them visibly.
FITTED = 2000
# Curves over the steps, in their order: what was measured, columns of the record, `changed_merges`
# (the number of `edges_added`) and `loops` (bars of dimension 1).
MEASURED = ("accuracy", "restricted_accuracy", "ce", "train_ce")
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
    "changed_merges",
    "loops",
)
# Strokes, as SVG has them: the first of a colour, then others when the colours come again.
DASHES = {False: ("", "10 4", "7 3 2 3"), True: ("6 4", "2 3", "7 3 2 3")}

Curve = tuple[np.ndarray, np.ndarray]


def page_data(
    runs: Sequence[Run], names: Sequence[VocabularyNames | None]
) -> tuple[dict[str, Any], list[str]]:
    """Return what the page's script draws, and notes on what was left out of it.

    Args:
        names: of the tokens of each run, None for numbers alone.
    """
    clouds = sorted({cloud for run in runs for cloud in run.record.clouds})
    each = [(run.record, cloud) for run in runs for cloud in run.record.clouds]
    size = sum(int(record.series("n_points", cloud).max()) for record, cloud in each)
    every = sorted({step for record, cloud in each for step in record.steps(cloud).tolist()})
    slider = thin(every, min(STEPS, max(LEAST, FRAME_POINTS // max(size, 1))))
    groups = _groups(runs)
    shown = [
        {"name": visible(run.name, 80), "control": run.control, "clouds": {}}
        | {"metric": str(run.record.metadata.get("metric", "euclidean")), "rho": _rho(run)}
        for run in runs
    ]
    for index, group in enumerate(groups):
        for k in group["runs"]:
            shown[k] |= {"group": index, "colour": group["colour"], "dash": group["dash"]}
    left_out = [0] * len(runs)
    limit = max(2, min(len(slider), MAP_POINTS // max(size, 1)))
    for cloud in clouds:
        with_cloud = {k: run.record for k, run in enumerate(runs) if cloud in run.record.clouds}
        found = _maps(with_cloud, cloud, slider, limit, names)
        for k, record in with_cloud.items():
            entry = _cloud(record, cloud, slider) | {"map": found.get(k)}
            left_out[k] += entry["map"].pop("left_out") if entry["map"] else 0
            shown[k]["clouds"][str(cloud)] = entry
    titles = [
        next(run.record.cloud_name(cloud) for run in runs if cloud in run.record.clouds)
        for cloud in clouds
    ]
    panels = {str(cloud): _panels(runs, groups, cloud, len(clouds)) for cloud in clouds}
    data = {
        "thresholds": THRESHOLDS,
        "slider": slider,
        "clouds": [[c, visible(title, 60)] for c, title in zip(clouds, titles, strict=True)],
        "runs": shown,
        "groups": groups,
        "shown": [group["runs"][0] for group in groups][:4],
        "panels": {cloud: drawn for cloud, (drawn, _) in panels.items()},
        "quiet": {cloud: said for cloud, (_, said) in panels.items()},
    }
    notes = [*_notes(runs, names, every, slider), *_notes_of_maps(shown, left_out)]
    return data, notes


def _groups(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The methods: a colour each, controls in greys, and a name that tells them apart."""
    groups: list[dict[str, Any]] = []
    members = group_runs(runs)
    for indices in members:
        run = runs[indices[0]]
        name = run.name
        if len(indices) > 1:
            name = describe(run.config.get("loss", "ce"), run.config.get("weight", 0))
            others = [runs[m[0]].config for m in members if m is not indices and len(m) > 1]
            alike = [c for c in others if c.get("loss") == run.config.get("loss")]
            differing = [
                f"{setting} {value}"
                for setting, value in run.config.items()
                if setting not in ("loss", "weight", "seed", "task_digest")
                and any(config.get(setting) != value for config in alike)
            ]
            name = ", ".join([f"control: {name}" if run.control else name, *differing])
        colours = PALETTE["controls" if run.control else "runs"]
        before = sum(group["control"] == run.control for group in groups)
        dashes = DASHES[run.control]
        groups.append(
            {
                "name": visible(name, 80),
                "colour": colours[before % len(colours)],
                "dash": dashes[before // len(colours) % len(dashes)],
                "control": run.control,
                "runs": indices,
            }
        )
    return groups


def _rho(run: Run) -> float:
    """Below which share of the mean a bar counts as redundant; records of old do not say it."""
    rho = run.record.metadata.get("rho")
    return float(rho) if isinstance(rho, (int, float)) else THRESHOLDS["short"]


# What is shown of one cloud at each step of the slider


def _cloud(record: TopologyRecord, cloud: int, slider: Sequence[int]) -> dict[str, Any]:
    columns, loops = CloudColumns(record, cloud), CloudColumns(record, cloud, 1)
    points = columns.numbers("n_points")
    used, at = _used(columns.steps, slider)
    deaths, edges = columns.lists("deaths", used), columns.lists("edges", used)
    frames: list[dict[str, Any]] = []
    for k, died, merged in zip(used, deaths, edges, strict=True):
        frames.append({"step": int(columns.steps[k]), "n": int(points[k])})
        # A cloud that is not finite is recorded without bars.
        if died is not None and merged is not None:
            frames[-1] |= {"deaths": compact(died), "edges": merged.ravel().tolist()}
    entry: dict[str, Any] = {
        "features": int(columns.numbers("n_features")[-1]),
        "records": len(columns),
        "frames": frames,
        "at": at,
    }
    few, last = int(THRESHOLDS["loops_from"]), int(points[-1])
    small = f"{last} tokens have almost no loops; from about {few} on they say something"
    if not len(loops):
        entry["no_h1"] = f"Loops were not recorded{f': {small}' if last < few else ''}."
    elif last < few and not (loops.numbers("bars") > 0).any():
        entry["no_h1"] = f"No loop was found in {counted(len(loops), 'record')}: {small}."
    else:
        used, at = _used(loops.steps, slider)
        pairs = zip(used, loops.lists("births", used), loops.lists("deaths", used), strict=True)
        frames = [
            {"step": int(loops.steps[k])}
            | {"births": [] if born is None else compact(born)}
            | {"deaths": [] if died is None else compact(died)}
            for k, born, died in pairs
        ]
        entry["h1"] = {"frames": frames, "at": at}
    return entry


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
    record's are in no map; `left_out` counts the steps at which such were kept.
    """
    result: dict[int, dict[str, Any]] = {}
    rows: dict[int, dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for k, record in records.items():
        columns = CloudColumns(record, cloud)
        features = columns.numbers("n_features").astype(int)
        kept = np.flatnonzero(columns.present("points"))
        alike = kept[features[kept] == features[-1]]
        chosen = thin(alike[_used(columns.steps[alike], slider)[0]].tolist(), limit)
        snaps = [
            (int(columns.steps[position]), flat.reshape(-1, features[-1]))
            for position, flat in zip(chosen, columns.lists("points", chosen), strict=True)
            if flat is not None and flat.size and np.isfinite(flat).all()
        ]
        if not snaps:
            continue
        steps, clouds = zip(*snaps, strict=True)
        points, ends = np.concatenate(clouds), np.cumsum([len(x) for x in clouds])[:-1]
        frames: list[dict[str, Any]] = [{"step": step} for step in steps]
        tokens: list[str] = []
        vectors = points[:0]
        vocabulary = names[k] if in_embedding_space(record, cloud) else None
        # One search finds the names of all points, since it reads the whole vocabulary.
        if vocabulary is not None and (near := vocabulary.nearest(points)) is not None:
            tokens, vectors, which, distances = near
            for frame, w, d in zip(
                frames, np.split(which, ends), np.split(distances, ends), strict=True
            ):
                frame |= {"nearest": w.tolist(), "distances": compact(d)}
        at = newest(np.array(steps), slider).tolist()
        result[k] = {"frames": frames, "at": at, "tokens": tokens}
        result[k]["left_out"] = len(kept) - len(alike)
        rows.setdefault(int(features[-1]), {})[k] = points, vectors, ends
    for group in rows.values():
        stacked = np.concatenate([x for found in group.values() for x in found[:2]])
        fitted = np.linspace(0, len(stacked) - 1, FITTED).round().astype(int)
        centre, axes, share = principal_plane(stacked[np.unique(fitted)])
        for k, (points, vectors, ends) in group.items():
            result[k] |= {"places": compact(((vectors - centre) @ axes).ravel())}
            result[k] |= {"share": compact(share)}
            places = np.split((points - centre) @ axes, ends)
            for frame, xy in zip(result[k]["frames"], places, strict=True):
                frame["xy"] = compact(xy.ravel())
    return result


# Curves over the steps


def _panels(
    runs: Sequence[Run], groups: Sequence[Mapping[str, Any]], cloud: int, clouds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Panels of curves, a line for each method, and sentences for the curves that never change."""
    panels, quiet = [], []
    lines_of_all = clouds * len(groups) * (len(CURVES) + len(MEASURED))
    limit = min(CURVE_POINTS, max(100, CURVE_VALUES // lines_of_all))
    for name in (*MEASURED, *CURVES):
        curves = {k: c for k, run in enumerate(runs) if (c := _curve(run, cloud, name)) is not None}
        if not curves:
            continue
        says, label = QUANTITIES[name]["says"], QUANTITIES[name]["label"]
        values = np.concatenate([values for _, values in curves.values()])
        known = values[np.isfinite(values)]
        if known.min() == known.max():
            when = "evaluation" if name in MEASURED else "record"
            quiet.append(
                f"{capital(label)} was {number(known[0])} in every {when} of "
                f"{'every run' if len(runs) > 1 else 'the run'}. ({says})"
            )
            continue
        panels.append(
            {
                "name": name,
                "heading": capital(label_of(name)),
                "says": says,
                "zero": bool(known.min() >= 0),
                "whole": name in ("changed_merges", "loops"),
                "rates": list(_rates(runs)) if name == "accuracy" else [],
                "lines": [line for group in groups for line in _lines(group, curves, limit)],
            }
        )
    return panels, quiet


def _curve(run: Run, cloud: int, name: str) -> Curve | None:
    """Steps (S,) and values (S,) of a curve; None if no value is finite."""
    if name in MEASURED:
        series = run.measured.get(name)
        steps, values = (np.zeros(0),) * 2 if series is None else (series.steps, series.values)
    else:
        columns = CloudColumns(run.record, cloud, int(name == "loops"))
        steps = columns.steps
        if name == "changed_merges":
            added = columns.lists("edges_added")
            values = np.array([np.nan if x is None else len(x) for x in added])
        else:
            values = columns.numbers("bars" if name == "loops" else name)
    return (steps, values) if np.isfinite(values).any() else None


def _lines(
    group: Mapping[str, Any], curves: Mapping[int, Curve], limit: int
) -> Iterator[dict[str, Any]]:
    """The line of a method: the mean of its runs at the steps that all of them have, with a band
    from the least to the greatest; a line for each run if there is no such step."""
    members = [curves[k] for k in group["runs"] if k in curves]
    if not members:
        return
    common = members[0][0]
    for steps, _ in members[1:]:
        common = np.intersect1d(common, steps)
    for part in [members] if len(common) else [[member] for member in members]:
        steps = common if len(common) else part[0][0]
        stacked = np.array([values[np.isin(at, steps)] for at, values in part])
        mean = stacked.mean(0)
        chosen = thin_curve(mean, limit)
        line = {name: group[name] for name in ("name", "colour", "dash")}
        line |= {"steps": steps[chosen].tolist(), "values": compact(mean[chosen])}
        if len(part) > 1:
            line["low"] = compact(stacked.min(0)[chosen])
            line["high"] = compact(stacked.max(0)[chosen])
        yield line


def _rates(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Accuracies without tuning, the mean over the runs that have them."""
    for (name, text), dash in zip(RATES.items(), ("2 3", "7 3 2 3"), strict=False):
        found = [run.reference.get(name) for run in runs]
        rates = [float(rate) for rate in found if isinstance(rate, (int, float))]
        if rates and np.isfinite(rates).all():
            yield {"value": compact([np.mean(rates)])[0], "text": text, "dash": dash}


# Thinning


def thin(steps: Iterable[int], limit: int) -> list[int]:
    """At most `limit` (2 or more) of the steps, evenly spaced by rank, the first and last among
    them."""
    ordered = sorted(set(steps))
    if len(ordered) <= limit:
        return ordered
    chosen = np.linspace(0, len(ordered) - 1, limit).round().astype(int)
    return [ordered[k] for k in chosen.tolist()]


def thin_curve(values: np.ndarray, limit: int) -> np.ndarray:
    """Positions of at most `limit` (5 or more) values of a curve that look as all of them do: the
    first and the last, and of each of many stretches the least, the greatest, and a gap."""
    if len(values) <= limit:
        return np.arange(len(values))
    finite = np.isfinite(values)
    kept = {0, len(values) - 1}
    stretches = (limit - 2) // (2 if finite.all() else 3)
    for part in np.array_split(np.arange(1, len(values) - 1), stretches):
        known = part[finite[part]]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        kept |= set(part[~finite[part]][:1].tolist())
    return np.array(sorted(kept))


def newest(steps: np.ndarray, slider: Sequence[int]) -> np.ndarray:
    """For each step of the slider the position in `steps` of the newest not after it, or -1."""
    return np.searchsorted(steps, np.asarray(slider, dtype=np.int64), side="right") - 1


def _used(steps: np.ndarray, slider: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of the rows that the slider reaches, and the rank among them for each step."""
    positions = newest(steps, slider)
    used = np.unique(positions[positions >= 0])
    at = np.where(positions < 0, -1, np.searchsorted(used, positions))
    return used.tolist(), at.tolist()


def compact(values: Iterable[float] | np.ndarray) -> list[float | None]:
    """Six significant digits, which no figure can show; None for what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in array.tolist()]


def _notes(
    runs: Sequence[Run],
    names: Sequence[VocabularyNames | None],
    every: Sequence[int],
    slider: Sequence[int],
) -> Iterator[str]:
    if len(slider) < len(every):
        yield (
            f"The slider shows {len(slider)} of {len(every)} recorded steps, evenly spaced, the "
            "first and the last among them; the sentences use every record."
        )
    for run in runs:
        if run.record.damage is not None:
            yield f"{visible(run.name, 80)}: the record {run.record.damage}."
    unnamed = {
        run.record.cloud_name(cloud): None
        for run, found in zip(runs, names, strict=True)
        for cloud in run.record.clouds
        if found is not None and not in_embedding_space(run.record, cloud)
    }
    if unnamed:
        more = " and other clouds" if len(unnamed) > 1 else ""
        yield (
            f"The points of {visible(next(iter(unnamed)), 60)}{more} are no embeddings of tokens, "
            "so they have numbers and no names."
        )


def _notes_of_maps(shown: Sequence[Mapping[str, Any]], left_out: Sequence[int]) -> Iterator[str]:
    for entry, missing in zip(shown, left_out, strict=True):
        if not any(cloud["map"] for cloud in entry["clouds"].values()):
            yield f"{entry['name']}: the points were not kept, so there is no map."
        if missing:
            yield (
                f"{entry['name']}: at some steps the points have another number of coordinates "
                f"than at the last; the map leaves out {missing} of them."
            )
