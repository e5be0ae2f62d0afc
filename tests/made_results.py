"""Results of measurements that nobody made."""

from __future__ import annotations

from typing import Any

from tsloss_fast.benchmarks.records import Measurement, Results, Row

GEMM = "sgemm X·Xᵀ"
MACHINE = {
    "processor": "a processor",
    "cores": "2",
    "system": "a system",
    "tsloss-fast": "1",
    "torch": "2",
    "instruction set of tsloss_fast": "avx512_vnni",
    "instruction set of torch": "AVX512",
    "instruction set of MKL": "its choice",
}
SETTINGS: dict[str, Any] = {"threads": 1, "isa": None, "date": "2026-11-30"}


def cell_of(row: Row, label: str) -> Measurement:
    return next(m for m in row.measurements if m.label == label)


def made_row(workload: str, ours: float, **others: float | Measurement) -> Row:
    """A row with the time of ours and of others, named by their labels (`**{"a label": 1.0}`)."""
    cells = [Measurement("tsloss_fast", "ours", seconds=[ours], cpu_seconds=[ours])]
    for label, other in others.items():
        role = (
            "yardstick" if label in (GEMM, "X.clone()", "tsloss_fast, one thread") else "baseline"
        )
        if isinstance(other, float):
            other = Measurement(label, role, seconds=[other], cpu_seconds=[other])
        cells.append(other)
    return Row(workload, 0.0, cells)


def results_of(*rows: Row, **settings: Any) -> Results:
    return Results(dict(MACHINE), SETTINGS | settings, list(rows))
