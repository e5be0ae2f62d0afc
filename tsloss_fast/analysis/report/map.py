"""A map of the prompt: its points in the plane of their two principal directions, with the
vocabulary tokens that they are nearest to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tsloss_fast.analysis.plane import principal_plane
from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord
from tsloss_fast.analysis.report.frames import compact, newest, thin

__all__ = ["Names", "maps"]

# The directions are fitted to at most this many points; more would not turn them visibly.
FITTED = 2000


class Names(Protocol):
    """Where names of tokens come from."""

    def nearest(self, points: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray] | None:
        """Of points (N, D): the nearest tokens' names, distances (N,), and vectors (N, D)."""


@dataclass(frozen=True)
class _Kept:
    step: int
    points: np.ndarray
    names: list[str] | None
    distances: np.ndarray
    vectors: np.ndarray


def maps(
    records: Mapping[int, TopologyRecord],
    cloud: int,
    slider: Sequence[int],
    limit: int,
    names: Mapping[int, Names | None],
) -> dict[int, dict[str, Any]]:
    """Maps of one cloud in several runs, by run; runs without points have none.

    Runs whose points have the same number of coordinates share their directions, so that a place
    in one map is the same place in the other. Points of another number of coordinates than the
    last record's are in no map; `left_out` counts the steps at which such were kept.
    """
    kept: dict[int, list[_Kept]] = {}
    for run, record in records.items():
        found = _kept(record, cloud, slider, limit, names.get(run))
        if found:
            kept[run] = found
    result: dict[int, dict[str, Any]] = {}
    for size in sorted({snaps[0].points.shape[1] for snaps in kept.values()}):
        group = {run: s for run, s in kept.items() if s[0].points.shape[1] == size}
        rows = [x for s in group.values() for k in s for x in (k.points, k.vectors)]
        stacked = np.concatenate(rows)
        fitted = np.linspace(0, len(stacked) - 1, FITTED).round().astype(int)
        centre, axes, share = principal_plane(stacked[np.unique(fitted)])
        for run, snaps in group.items():
            result[run] = _as_json(snaps, slider, centre, axes, share)
            result[run]["left_out"] = int((~_drawable(CloudColumns(records[run], cloud))[1]).sum())
    return result


def _drawable(columns: CloudColumns) -> tuple[np.ndarray, np.ndarray]:
    """Positions at which points were kept, and whether they are as wide as the last record's."""
    where = np.flatnonzero(columns.present("points"))
    features = columns.numbers("n_features")
    return where, features[where] == features[-1]


def _kept(
    record: TopologyRecord, cloud: int, slider: Sequence[int], limit: int, names: Names | None
) -> list[_Kept]:
    """The steps at which points were kept that the slider shows."""
    columns = CloudColumns(record, cloud)
    where, alike = _drawable(columns)
    where = where[alike]
    if not len(where):
        return []
    features = int(columns.numbers("n_features")[-1])
    reached = sorted({int(k) for k in newest(columns.steps[where], slider) if k >= 0})
    chosen = thin([int(where[k]) for k in reached], limit)
    found = []
    for position, flat in zip(chosen, columns.lists("points", chosen), strict=True):
        assert flat is not None
        if flat.size and np.isfinite(flat).all():
            found.append((int(columns.steps[position]), flat.reshape(-1, features)))
    return _name(found, names)


def _name(snaps: Sequence[tuple[int, np.ndarray]], names: Names | None) -> list[_Kept]:
    """With the names of all points, found in one search, which reads the whole vocabulary."""
    if not snaps:
        return []
    stacked = np.concatenate([points for _, points in snaps])
    found = names.nearest(stacked) if names else None
    kept, start = [], 0
    for step, points in snaps:
        part = slice(start, start + len(points))
        start += len(points)
        if found is None:
            kept.append(_Kept(step, points, None, points[:0, 0], points[:0]))
        else:
            kept.append(_Kept(step, points, found[0][part], found[1][part], found[2][part]))
    return kept


def _as_json(
    snaps: Sequence[_Kept],
    slider: Sequence[int],
    centre: np.ndarray,
    axes: np.ndarray,
    share: np.ndarray,
) -> dict[str, Any]:
    tokens: dict[tuple[str, bytes], int] = {}
    places: list[float | None] = []
    shown = []
    for snap in snaps:
        frame: dict[str, Any] = {
            "step": snap.step,
            "xy": compact(((snap.points - centre) @ axes).ravel()),
        }
        if snap.names is not None:
            indices = []
            flat = (snap.vectors - centre) @ axes
            for name, place in zip(snap.names, flat, strict=True):
                key = name, place.tobytes()
                if key not in tokens:
                    tokens[key] = len(tokens)
                    places += compact(place)
                indices.append(tokens[key])
            frame |= {"nearest": indices, "distances": compact(snap.distances)}
        shown.append(frame)
    steps = np.array([snap.step for snap in snaps])
    return {
        "frames": shown,
        "at": newest(steps, slider).tolist(),
        "tokens": [name for name, _ in tokens],
        "places": places,
        "share": compact(share),
    }
