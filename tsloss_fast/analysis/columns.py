"""One cloud of a record, column by column: what a report needs without reading whole rows.

A row with its points can hold millions of numbers; here only the columns asked for are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tsloss_fast.analysis.record import TopologyRecord

__all__ = ["CloudColumns"]


class CloudColumns:
    """The rows of one cloud and dimension, by step ascending. The last row of a step counts."""

    def __init__(self, record: TopologyRecord, cloud: int = 0, dimension: int = 0) -> None:
        self.record, self.cloud, self.dimension = record, cloud, dimension
        keys = (record.table.column(name).to_numpy() for name in ("cloud", "dimension", "step"))
        clouds, dimensions, steps = keys
        mine = np.flatnonzero((clouds == cloud) & (dimensions == dimension))
        newest = dict(zip(steps[mine].tolist(), mine.tolist(), strict=True))
        self.steps = np.array(sorted(newest), dtype=np.int64)
        self._rows = np.array([newest[step] for step in self.steps.tolist()], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.steps)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers (S,) float64, NaN where there is none."""
        return self.record.series(name, self.cloud, self.dimension)

    def lists(self, name: str, at: Sequence[int] | None = None) -> list[np.ndarray | None]:
        """A column of lists at positions `at` of `steps` (all of them): (n,), of pairs (n, 2)."""
        rows = self._rows if at is None else self._rows[np.asarray(at, dtype=np.int64)]
        column = self.record.table.column(name)
        # A chunk is a batch that was written. `take` on all of them would first copy the column.
        starts = np.cumsum([0, *map(len, column.chunks)])
        chunks = np.searchsorted(starts, rows, side="right") - 1
        found: list[np.ndarray | None] = []
        for row, chunk in zip(rows.tolist(), chunks.tolist(), strict=True):
            cell = column.chunk(chunk)[row - int(starts[chunk])]
            if not cell.is_valid:
                found.append(None)
            elif pa.types.is_fixed_size_list(cell.type.value_type):
                found.append(cell.values.flatten().to_numpy().reshape(-1, 2))
            else:
                found.append(cell.values.to_numpy(zero_copy_only=False))
        return found

    def present(self, name: str) -> np.ndarray:
        """Where a column is not null, (S,) bool."""
        column = self.record.table.column(name).is_valid().to_numpy(zero_copy_only=False)
        return np.asarray(column)[self._rows]
