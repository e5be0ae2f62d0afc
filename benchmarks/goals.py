"""What the kernels are meant to reach, and whether a run did."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Measurement, Results, Row
from .workloads import CLOUDS, LOW

# Instead of a label: the fastest other way with a right result, whichever it is.
BEST = "the best other way"
_GEMM = "sgemm X·Xᵀ"
_CDIST = "torch.cdist + fastcluster"
_RIPS = "GUDHI RipsComplex"
# A soft prompt is so small that the call counts as much as the work.
_SMALL = ("5x768", "10x576", "32x128")
HEADER = ["work", "against", "AVX-512", "AVX2", "measured", ""]


@dataclass(frozen=True)
class Goal:
    """An upper bound of ``(ours - spare) / against``, of shortest times.

    Attributes:
        avx512, avx2: the bound for a run with that instruction set, or None for no goal.
        spare: seconds for the overhead of a call.
        aim: a lower ratio that is hoped for; missing it does not miss the goal.
    """

    workload: str
    against: str
    avx512: float | None
    avx2: float | None
    spare: float = 0.0
    aim: float | None = None


GOALS = (
    *(
        Goal(name, BEST, 1.0, 1.0, aim=0.75) if name in _SMALL else Goal(name, BEST, 0.6, 0.75)
        for name in CLOUDS
    ),
    Goal("20x2048", _GEMM, 0.40, 0.9, 5e-6),
    Goal("100x4096", _GEMM, 0.55, 0.8),
    Goal("256x1024", _GEMM, 0.60, 0.75),
    Goal("1024x768", _GEMM, 0.40, 0.6),
    Goal("4096x768", _GEMM, 0.25, 0.4),
    Goal("10000x768", _GEMM, 0.20, None),
    Goal("vocabulary-49152x576", _GEMM, 0.18, None),
    Goal("clusters-4096x768", _GEMM, 1.0, 1.0),
    Goal("clusters-10000x768", _GEMM, 1.0, 1.0),
    Goal("64x100x128@1", _GEMM, 0.8, None),
    Goal("20x2048", _RIPS, 1 / 100, None),
    Goal("100x4096", _RIPS, 1 / 60, None),
    Goal("256x1024", _RIPS, 1 / 50, None),
    Goal("1024x768", _RIPS, 1 / 100, None),
    Goal("20x2048", _CDIST, 1 / 30, None),
    Goal("1024x768", _CDIST, 1 / 5, None),
    Goal("64x64x16@1", _CDIST, 1 / 6, None),
    Goal("backward-4096x768", "X.clone()", 1.5, 1.5),
    Goal("loss-20x2048", "torch-topological", 1 / 10, 1 / 10),
    Goal("threads-4096x768", "tsloss_fast, one thread", 0.55, 0.55),
    *(Goal(name, "quitefastmst", 1.0, 1.0) for name in LOW),
)


def assess(results: Results) -> list[list[str]]:
    """For each goal on a measured row: work, against what, both goals, the ratio, the verdict."""
    wide = "avx512" in results.machine["instruction set of tsloss_fast"]
    rows = {row.workload: row for row in results.rows}
    table = []
    for goal in GOALS:
        row = rows.get(goal.workload)
        other = None if row is None else _against(row, goal.against)
        if row is None or row.ours.minimum is None or other is None or other.minimum is None:
            continue
        ratio = max(row.ours.minimum - goal.spare, 0.0) / other.minimum
        limit = goal.avx512 if wide else goal.avx2
        table.append(
            [
                row.label,
                f"{goal.against}: {other.label}" if goal.against == BEST else goal.against,
                _bound(goal.avx512, goal.spare),
                _bound(goal.avx2, goal.spare),
                f"{ratio:.3g}",
                "no goal here" if limit is None else _verdict(ratio, limit, goal.aim),
            ]
        )
    return table


def _against(row: Row, label: str) -> Measurement | None:
    found = [*row.of_role("baseline"), *row.of_role("yardstick")]
    if label == BEST:
        return next(iter(row.of_role("baseline")), None)
    return next((m for m in found if m.label == label), None)


def _bound(limit: float | None, spare: float) -> str:
    if limit is None:
        return "-"
    return f"≤ {limit:.3g}" + (f" + {1e6 * spare:.0f} µs" if spare else "")


def _verdict(ratio: float, limit: float, aim: float | None) -> str:
    if ratio > limit:
        return f"missed by {100 * (ratio / limit - 1):.0f}%"
    return "met" if aim is None or ratio <= aim else f"met, the aim of {aim:.3g} is not"
