"""Saved prompts, adapters and tensors: their clouds, their numbers, and `tsloss analyze`.

The columns and limits are here, as the help names them before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLUMNS", "MAX_EDGE_LENGTH", "MAX_POINTS", "OURS", "PAPER"]

MAX_EDGE_LENGTH = 3.0
MAX_POINTS = 400
OURS = (
    *("bars", "total_persistence", "mean_lifetime", "max_lifetime"),
    *("coefficient_of_variation", "persistent_entropy", "entropy_gap"),
)
PAPER = (
    *("h0_bars", "h1_bars", "h0_mean_lifetime", "h0_max_lifetime"),
    *("h1_mean_lifetime", "h1_max_lifetime", "entropy"),
)
_NUMBERS = (
    *(f"h0_{name}" for name in (*OURS, "redundancy", "zero_bars")),
    *(f"h1_{name}" for name in OURS),
    *(f"paper_{name}" for name in PAPER),
    *(f"paper_cut_{name}" for name in PAPER),
    "max_edge_length",
)
COLUMNS: Mapping[str, type] = {
    "n_points": int,
    "n_features": int,
    **{name: int if name.endswith("bars") else float for name in _NUMBERS},
    "note": str,
}
