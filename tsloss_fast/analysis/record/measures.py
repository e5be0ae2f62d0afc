"""What is recorded of the 0- and the 1-dimensional barcode of a cloud at one step."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast import barcode

__all__ = [
    "LOGGED",
    "changed_edges",
    "diagram_distances",
    "lifetime_measures",
    "scales_for",
    "summary",
]

# The columns that `TopologyTracker.record` returns, and that a training log shows.
LOGGED = (
    "mean_lifetime",
    "max_lifetime",
    "total_persistence",
    "coefficient_of_variation",
    "persistent_entropy",
    "entropy_gap",
    "redundancy",
    "bottleneck_previous",
    "bottleneck_first",
    "wasserstein_previous",
    "wasserstein_first",
    "displacement_previous",
    "displacement_first",
)
SCALES = 33
# Hera's relative error; it would be 1 % by default.
_DELTA = 1e-6


@torch.no_grad()
def lifetime_measures(
    lifetimes: Tensor, lengths: Tensor | None = None, rho: float | None = None
) -> dict[str, list[float]]:
    """Functionals of the lifetimes (death - birth) of each barcode of a batch.

    Args:
        lifetimes: (B, M) float64, >= 0.
        lengths: (B,) as in `tsloss_fast.barcode`: one more than the bars of each cloud.
        rho: of `barcode.redundancy`; None leaves it out.

    Returns:
        One number per barcode for each column of the record. A barcode without bars has zeros.
    """
    size = lifetimes.shape[-1]
    bars = (
        torch.full(lifetimes.shape[:-1], size, device="cpu")
        if lengths is None
        else (lengths - 1).clamp(min=0, max=size)
    )
    shown = lifetimes
    if lengths is not None:
        shown = torch.where(torch.arange(size, device="cpu") < bars.unsqueeze(-1), lifetimes, 0)
    entropy = barcode.persistent_entropy(lifetimes, lengths)
    highest = bars.clamp(min=1).to(lifetimes.dtype).log()
    # Bars all of length 0 have entropy 0 by definition, which says nothing of a gap.
    gap = torch.where(shown.sum(-1) > 0, (highest - entropy).clamp(min=0), 0)
    found = {
        "bars": bars,
        "total_persistence": barcode.total_persistence(lifetimes, lengths=lengths),
        "mean_lifetime": barcode.mean_death(lifetimes, lengths),
        "max_lifetime": shown.amax(-1) if size else shown.sum(-1),
        "coefficient_of_variation": barcode.coefficient_of_variation(lifetimes, lengths),
        "persistent_entropy": entropy,
        # The clamp takes NaN to NaN.
        "entropy_gap": torch.where(entropy.isnan(), entropy, gap),
    }
    if rho is not None:
        found["redundancy"] = barcode.redundancy(lifetimes, rho, lengths)
    return {name: values.tolist() for name, values in found.items()}


def summary(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Means over clouds of the named columns, those left out that no cloud has."""
    means = {}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            means[name] = sum(values) / len(values)
    return means


def scales_for(deaths: Tensor) -> np.ndarray:
    """Scales (33,) from 0 to twice the longest of the deaths, or to 1 if there is none."""
    finite = deaths[deaths.isfinite()]
    longest = float(finite.max()) if finite.numel() else 0.0
    return np.linspace(0.0, 2.0 * longest if longest > 0 else 1.0, SCALES)


def changed_edges(before: np.ndarray, now: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each cloud the edges (n, 2) that came and those that went, sorted.

    Args:
        before, now: (B, M, 2) and (B, M', 2), -1 in the padding.
    """
    # An edge as one number; the order of edges is that of their numbers.
    base = 1 + int(max(before.max(initial=0), now.max(initial=0)))
    old, new = (np.sort(e[..., 0] * base + e[..., 1], axis=-1) for e in (before, now))
    none = np.empty((0, 2), dtype=np.int64)
    # Most trees of most steps are those of the step before.
    same = (old == new).all(-1) if old.shape == new.shape else np.zeros(len(old), dtype=bool)
    changes = []
    for cloud, unchanged in enumerate(same.tolist()):
        if unchanged:
            changes.append((none, none))
            continue
        pairs = []
        for one, other in ((new[cloud], old[cloud]), (old[cloud], new[cloud])):
            codes = np.setdiff1d(one, other)
            pairs.append(np.stack(np.divmod(codes[codes >= 0], base), axis=-1))
        changes.append((pairs[0], pairs[1]))
    return changes


def diagram_distances(a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    """Bottleneck and 1-Wasserstein distance of two finite diagrams (n, 2), through GUDHI's Hera
    with its ground metric L∞; None where GUDHI is not installed."""
    if importlib.util.find_spec("gudhi") is None:
        return {"bottleneck": None, "wasserstein": None}
    if len(a) == 0 and len(b) == 0:
        return {"bottleneck": 0.0, "wasserstein": 0.0}
    from gudhi import hera

    return {
        # GUDHI's own bottleneck_distance can depend on the order of the points.
        "bottleneck": float(hera.bottleneck_distance(a, b, _DELTA)),
        "wasserstein": float(hera.wasserstein_distance(a, b, 1.0, np.inf, _DELTA)),
    }
