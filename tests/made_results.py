"""Results of measurements that nobody made."""

from __future__ import annotations

from tsloss_fast.benchmarks.records import Measurement, Row


def cell_of(row: Row, label: str) -> Measurement:
    return next(m for m in row.measurements if m.label == label)
