"""What a report's page shows of one cloud at each step of its slider, as JSON can hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tsloss_fast.analysis.record.reader import CloudColumns, TopologyRecord

__all__ = ["compact", "frames", "loops", "newest", "thin", "thin_curve"]


def thin(steps: Iterable[int], limit: int) -> list[int]:
    """At most `limit` (2 or more) of the steps, evenly spaced by rank, the first and last among
    them."""
    ordered = sorted(set(steps))
    if len(ordered) <= limit:
        return ordered
    chosen = np.linspace(0, len(ordered) - 1, limit).round().astype(int)
    return [ordered[k] for k in chosen.tolist()]


def thin_curve(steps: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` (5 or more) points of a curve that look as all of them do: the first and the
    last, and of each of many stretches the least, the greatest, and a gap where there is one."""
    if len(steps) <= limit:
        return steps, values
    finite = np.isfinite(values)
    kept = {0, len(steps) - 1}
    stretches = (limit - 2) // (2 if finite.all() else 3)
    for part in np.array_split(np.arange(1, len(steps) - 1), stretches):
        known = part[finite[part]]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        kept |= set(part[~finite[part]][:1].tolist())
    chosen = np.array(sorted(kept))
    return steps[chosen], values[chosen]


def newest(steps: np.ndarray, slider: Sequence[int]) -> np.ndarray:
    """For each step of the slider the position in `steps` of the newest not after it, or -1."""
    return np.searchsorted(steps, np.asarray(slider, dtype=np.int64), side="right") - 1


def compact(values: Iterable[float] | np.ndarray) -> list[float | None]:
    """Six significant digits, which no figure can show; None for what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return [float(f"{v:.6g}") if ok else None
            for v, ok in zip(array.tolist(), np.isfinite(array).tolist(), strict=True)]  # fmt: skip


def frames(record: TopologyRecord, cloud: int, slider: Sequence[int]) -> dict[str, Any]:
    """The barcodes of dimension 0: `frames`, and at each step of the slider the index `at` of the
    one to show (-1: nothing was recorded yet)."""
    columns = CloudColumns(record, cloud)
    used, at = _used(columns.steps, slider)
    deaths, edges = columns.lists("deaths", used), columns.lists("edges", used)
    points = columns.numbers("n_points")[used]
    shown = []
    for position, size, died, merged in zip(used, points, deaths, edges, strict=True):
        frame: dict[str, Any] = {"step": int(columns.steps[position]), "n": int(size)}
        # A cloud that is not finite is recorded without bars.
        if died is not None and merged is not None:
            frame["deaths"] = compact(died)
            frame["edges"] = merged.ravel().tolist()
        shown.append(frame)
    return {"frames": shown, "at": at}


def loops(record: TopologyRecord, cloud: int, slider: Sequence[int]) -> dict[str, Any] | None:
    """The same of dimension 1, or None where it was not recorded."""
    columns = CloudColumns(record, cloud, 1)
    if not len(columns):
        return None
    used, at = _used(columns.steps, slider)
    births, deaths = columns.lists("births", used), columns.lists("deaths", used)
    shown = [
        {
            "step": int(columns.steps[position]),
            "births": compact([] if born is None else born),
            "deaths": compact([] if died is None else died),
        }
        for position, born, died in zip(used, births, deaths, strict=True)
    ]
    return {"frames": shown, "at": at}


def _used(steps: np.ndarray, slider: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of the rows that the slider reaches, and the rank among them for each step."""
    positions = newest(steps, slider).tolist()
    used = sorted({position for position in positions if position >= 0})
    rank = {position: k for k, position in enumerate(used)}
    return used, [rank.get(position, -1) for position in positions]
