"""One cloud of a record, column by column: what a report needs without reading whole rows.

A row with its points can hold millions of numbers; here only the columns asked for are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

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
        chunks, starts = _chunks(self.record, name)
        where = np.searchsorted(starts, rows, side="right") - 1
        found: list[np.ndarray | None] = []
        for row, chunk in zip((rows - starts[where]).tolist(), where.tolist(), strict=True):
            valid, offsets, values = chunks[chunk]
            found.append(values[offsets[row] : offsets[row + 1]] if valid[row] else None)
        return found

    def present(self, name: str) -> np.ndarray:
        """Where a column is not null, (S,) bool."""
        column = self.record.table.column(name).is_valid().to_numpy(zero_copy_only=False)
        return np.asarray(column)[self._rows]


# Validity, offsets and values of each chunk, which is a batch that was written. They are views:
# `take` would copy the column, and there is one call for each cloud.
_Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]
_CHUNKS: WeakKeyDictionary[TopologyRecord, dict[str, tuple[list[_Chunk], np.ndarray]]] = (
    WeakKeyDictionary()
)


def _chunks(record: TopologyRecord, name: str) -> tuple[list[_Chunk], np.ndarray]:
    """The chunks of a column of lists, and the rows at which they begin."""
    known = _CHUNKS.setdefault(record, {})
    if name not in known:
        column = record.table.column(name)
        starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)], dtype=np.int64)
        known[name] = [_views(chunk) for chunk in column.chunks], starts
    return known[name]


def _views(chunk: pa.ListArray) -> _Chunk:
    values = chunk.values
    if pa.types.is_fixed_size_list(values.type):
        numbers = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    else:
        numbers = values.to_numpy(zero_copy_only=False)
    return (
        chunk.is_valid().to_numpy(zero_copy_only=False),
        chunk.offsets.to_numpy(zero_copy_only=False),
        numbers,
    )
