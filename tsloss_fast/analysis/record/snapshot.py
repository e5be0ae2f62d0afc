"""A snapshot of all clouds at one step: the source of a record's rows and of its comparisons."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsloss_fast import H0Persistence, barcode, h0_persistence
from tsloss_fast._batch import has_cuda_kernels
from tsloss_fast.analysis.record.measures import changed_edges, lifetime_measures

__all__ = ["Snapshot", "h0_rows", "snapshot_of_rows", "take"]


@dataclass(frozen=True)
class Snapshot:
    """B clouds at one step.

    Attributes:
        deaths: (B, N-1) float64 on the CPU; NaN for a cloud that is not finite.
        edges: (B, N-1, 2) int64; -1 in the padding, and for a cloud that is not finite.
        points: (B, N, D) on their device, a copy; None if they are not known any more.
        lengths: (B,) int64 on the CPU, the valid points of each cloud; None: all.
        n_points: N.
    """

    deaths: Tensor
    edges: np.ndarray
    points: Tensor | None
    lengths: Tensor | None
    n_points: int

    @property
    def finite(self) -> list[bool]:
        found: list[bool] = self.deaths.isfinite().all(-1).tolist()
        return found

    def sizes(self) -> list[int]:
        """Valid points of each cloud."""
        if self.lengths is not None:
            found: list[int] = self.lengths.tolist()
            return found
        return [self.n_points] * len(self.deaths)


def take(
    points: Tensor, metric: str, lengths: Tensor | None, h0: H0Persistence | None = None
) -> Snapshot:
    """A copy of points (B, N, D) with their barcodes, which are computed unless `h0` has them."""
    if h0 is None:
        # The bars are wanted on the CPU: where only its kernels can find them, the points go there.
        near = points if has_cuda_kernels(points.device) else points.cpu()
        h0 = h0_persistence(near, metric, lengths, check_finite=False)
    # A copy, because float64 deaths would still be those of the caller.
    deaths = h0.deaths.to("cpu", torch.float64, copy=True)
    edges = h0.edges.cpu().numpy()
    sizes = None if lengths is None else lengths.cpu()
    edges = np.where(deaths.isfinite().all(-1).numpy()[:, None, None], edges, -1)
    return Snapshot(deaths, edges, points.clone(), sizes, points.shape[1])


def h0_rows(
    step: int,
    now: Snapshot,
    previous: Snapshot | None,
    first: Snapshot | None,
    *,
    scales: np.ndarray,
    rho: float,
    keep_points: bool,
) -> list[dict[str, Any]]:
    """The rows of dimension 0 of a record, one per cloud; `record.SCHEMA` has the columns."""
    assert now.points is not None
    measures: dict[str, Sequence[Any]] = dict(lifetime_measures(now.deaths, now.lengths, rho))
    curve = barcode.betti_curve(now.deaths, torch.from_numpy(scales), now.lengths)
    measures["components"] = curve.tolist()
    measures |= _compare({"previous": previous, "first": first}, now)
    kept = now.points.cpu().double().numpy() if keep_points else None
    changes = None if previous is None else changed_edges(previous.edges, now.edges)
    at = time.time()
    rows = []
    for cloud, (size, finite) in enumerate(zip(now.sizes(), now.finite, strict=True)):
        row: dict[str, Any] = {
            "step": step,
            "cloud": cloud,
            "dimension": 0,
            "time": at,
            "n_points": size,
            "n_features": now.points.shape[2],
            "scales": scales,
            **{name: _number(values[cloud]) for name, values in measures.items()},
        }
        if finite:
            bars = max(size - 1, 0)
            edges = now.edges[cloud, :bars]
            row["births"] = np.zeros(bars)
            row["deaths"] = now.deaths[cloud, :bars].numpy()
            row["edges"] = edges
            if changes is not None:
                row["edges_added"], row["edges_removed"] = changes[cloud]
        else:
            row |= dict.fromkeys(measures)
        if kept is not None:
            row["points"] = kept[cloud, :size].ravel()
        rows.append(row)
    return rows


def _compare(pasts: Mapping[str, Snapshot | None], now: Snapshot) -> dict[str, list[Any]]:
    """Columns that say how far each cloud is from what it was, at each of several times."""
    known = {name: past for name, past in pasts.items() if past is not None}
    found: dict[str, list[Any]] = {}
    if not known:
        return found
    # All pairs in one call: on barcodes this small the number of calls is what costs.
    bars = max(past.deaths.shape[-1] for past in known.values())
    before = torch.stack([F.pad(p.deaths, (0, bars - p.deaths.shape[-1])) for p in known.values()])
    # The padding of deaths is 0: bars that are not there and bars of length 0 are the same here.
    pair = (before, now.deaths.expand(len(known), *now.deaths.shape))
    distances = {
        "bottleneck": barcode.bottleneck_distance(*pair).tolist(),
        "wasserstein": barcode.wasserstein_distance(*pair).tolist(),
    }
    for index, (name, past) in enumerate(known.items()):
        for kind, values in distances.items():
            found[f"{kind}_{name}"] = values[index]
        old, new = past.points, now.points
        assert new is not None
        if old is not None and old.shape[2] == new.shape[2]:
            width = min(old.shape[1], new.shape[1])
            gap = new[:, :width] - old[:, :width].to(new)
            moved = torch.linalg.vector_norm(gap, dim=-1).cpu().double().numpy()
            # A point is followed by its index, which means nothing if their number has changed.
            # Each cloud is summed by itself: the padding may not change the last digit.
            found[f"displacement_{name}"] = [
                float(cloud[:n].sum()) / max(n, 1) if was == n else None
                for cloud, was, n in zip(moved, past.sizes(), now.sizes(), strict=True)
            ]
    return found


def _number(value: Any) -> Any:
    """None for what is not defined: NaN, or infinite because something overflowed."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def snapshot_of_rows(rows: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Rows of one step, one per cloud, as they were when they were measured."""
    sizes = [row["n_points"] for row in rows]
    size = max(sizes)
    bars = max(size - 1, 0)
    deaths = np.zeros((len(rows), bars))
    edges = np.full((len(rows), bars, 2), -1, dtype=np.int64)
    known = all(row["points"] is not None for row in rows)
    points = np.zeros((len(rows), size, rows[0]["n_features"])) if known else None
    for index, row in enumerate(rows):
        if row["deaths"] is None:
            deaths[index, : max(sizes[index] - 1, 0)] = np.nan
        else:
            deaths[index, : len(row["deaths"])] = row["deaths"]
            edges[index, : len(row["edges"])] = row["edges"]
        if points is not None:
            points[index, : sizes[index]] = row["points"]
    return Snapshot(
        torch.from_numpy(deaths),
        edges,
        None if points is None else torch.from_numpy(points),
        torch.tensor(sizes, device="cpu"),
        size,
    )
