"""What the kernels are meant to reach, and whether a run did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .records import Row

_GEMM = "sgemm X·Xᵀ"
_CDIST = "torch.cdist + fastcluster"
_RIPS = "GUDHI RipsComplex"


@dataclass(frozen=True)
class Goal:
    """``ours / against`` (shortest times) is to be at most ``ratio``, after ``spare`` seconds."""

    workload: str
    against: str
    ratio: float
    spare: float = 0.0


GOALS = (
    Goal("20x2048", _GEMM, 0.40, 5e-6),
    Goal("20x2048", _RIPS, 1 / 100),
    Goal("20x2048", _CDIST, 1 / 30),
    Goal("100x4096", _GEMM, 0.55),
    Goal("100x4096", _RIPS, 1 / 60),
    Goal("256x1024", _GEMM, 0.60),
    Goal("256x1024", _RIPS, 1 / 50),
    Goal("1024x768", _GEMM, 0.40),
    Goal("1024x768", _CDIST, 1 / 5),
    Goal("1024x768", _RIPS, 1 / 100),
    Goal("4096x768", _GEMM, 0.25),
    Goal("10000x768", _GEMM, 0.20),
    Goal("vocabulary-49152x576", _GEMM, 0.18),
    Goal("clusters-4096x768", _GEMM, 1.0),
    Goal("clusters-10000x768", _GEMM, 1.0),
    Goal("64x100x128", _GEMM, 0.8),
    Goal("64x64x16", _CDIST, 1 / 6),
    Goal("backward-4096x768", "X.clone()", 1.5),
    Goal("loss-20x2048", "torch-topological, signature", 1 / 10),
    Goal("threads-4096x768", "tsloss_fast, one thread", 0.55),
)


def assess(rows: Sequence[Row]) -> list[list[str]]:
    """For each goal on a measured row: work, against what, the goal, the ratio, and the verdict."""
    table = []
    found = {row.workload: row for row in rows}
    for goal in GOALS:
        row = found.get(goal.workload)
        if row is None or row.ours.minimum is None:
            continue
        other = next((m for m in row.measurements if m.label == goal.against), None)
        if other is None or other.minimum is None:
            continue
        ratio = max(row.ours.minimum - goal.spare, 0.0) / other.minimum
        missed = ratio / goal.ratio - 1
        verdict = "met" if missed <= 0 else f"missed by {100 * missed:.0f}%"
        spare = f" + {1e6 * goal.spare:.0f} µs" if goal.spare else ""
        table.append(
            [row.label, goal.against, f"≤ {goal.ratio:.3g}{spare}", f"{ratio:.3g}", verdict]
        )
    return table
