"""Reading a record: whole rows, or one cloud column by column."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tsloss_fast._terminal import counted
from tsloss_fast.analysis.record import RECORD, RecordError
from tsloss_fast.analysis.record.schema import METADATA_KEY, SCHEMA

__all__ = ["CloudColumns", "TopologyRecord", "read_record"]


class TopologyRecord:
    """The contents of a record.

    Attributes:
        table: every row, as a `pyarrow.Table`; `table.to_pandas()` for pandas.
        metadata: `metric`, `clouds` (names), `rho`, `h1` (the engine), and the user's own entries.
        damaged_bytes: bytes from the first batch on that is cut off, as by a kill, or damaged, or
            that has a row whose parts do not go together. Nothing of them is in `table`.
    """

    def __init__(
        self, table: pa.Table, metadata: Mapping[str, Any], damaged_bytes: int = 0
    ) -> None:
        self.table = table
        self.metadata = dict(metadata)
        self.damaged_bytes = damaged_bytes
        # (cloud, dimension) -> step -> row; of two rows of a step the later one counts.
        self._rows: dict[tuple[int, int], dict[int, int]] = {}
        keys = (table.column(name).to_pylist() for name in ("cloud", "dimension", "step"))
        for row, (cloud, dimension, step) in enumerate(zip(*keys, strict=True)):
            self._rows.setdefault((cloud, dimension), {})[step] = row

    @property
    def damage(self) -> str | None:
        """The place and size of the part of the file that was left out, as the end of a sentence;
        None if nothing was."""
        if not self.damaged_bytes:
            return None
        steps = self.table.column("step")
        last = pa.compute.max(steps).as_py() if len(steps) else None
        place = "before its first row" if last is None else f"after step {last}"
        left_out = counted(self.damaged_bytes, "byte")
        return f"is damaged or cut off {place}, and is read without its last {left_out}"

    @property
    def clouds(self) -> list[int]:
        """Indices of the clouds that have a row, ascending."""
        return sorted({cloud for cloud, _ in self._rows})

    def cloud_name(self, cloud: int) -> str:
        names = self.metadata.get("clouds") or []
        return str(names[cloud]) if cloud < len(names) else f"cloud {cloud}"

    def rows(self, cloud: int = 0, dimension: int = 0) -> Mapping[int, int]:
        """Return the index of each step's row in `table`. A later row replaces an earlier one."""
        return self._rows.get((cloud, dimension), {})

    def steps(self, cloud: int = 0, dimension: int = 0) -> np.ndarray:
        """Recorded steps (S,) int64, ascending."""
        return np.array(sorted(self.rows(cloud, dimension)), dtype=np.int64)

    def series(self, name: str, cloud: int = 0, dimension: int = 0) -> np.ndarray:
        """A column of numbers at `steps(cloud, dimension)`, (S,) float64; NaN where there is none.

        Raises:
            KeyError: no such column.
        """
        column = self.table.column(name)
        rows = self.rows(cloud, dimension)
        values = column.take(pa.array([rows[step] for step in sorted(rows)], pa.int64()))
        return np.asarray(values.cast(pa.float64()).fill_null(float("nan")).to_numpy())

    def row(self, step: int, cloud: int = 0, dimension: int = 0) -> dict[str, Any]:
        """One row as Python values, lists as arrays: bars (n,), edges (n, 2) int32, points (N, D).

        Columns without a value are None: `births`, `deaths` and `edges` where the cloud was not
        finite, `points` where they were not kept.

        Raises:
            KeyError: nothing was recorded there.
        """
        try:
            index = self._rows[cloud, dimension][step]
        except KeyError:
            raise KeyError(
                f"the record has no row of step {step}, cloud {cloud}, dimension {dimension}"
            ) from None
        row: dict[str, Any] = self.table.slice(index, 1).to_pylist()[0]
        for name in ("births", "deaths", "scales", "components", "points"):
            if row[name] is not None:
                row[name] = np.array(row[name], np.int32 if name == "components" else np.float64)
        for name in ("edges", "edges_added", "edges_removed"):
            if row[name] is not None:
                row[name] = np.array(row[name], dtype=np.int32).reshape(-1, 2)
        if row["points"] is not None:
            row["points"] = row["points"].reshape(row["n_points"], row["n_features"])
        return row

    def diagrams(self, step: int, cloud: int = 0) -> list[np.ndarray]:
        """Persistence diagrams by dimension, (n, 2) each, as ripser and persim have them: dimension
        0 with its infinite bar, dimension 1 if it was recorded at this step.

        Raises:
            KeyError: nothing was recorded there.
            ValueError: the points were not finite.
        """
        row = self.row(step, cloud)
        if row["births"] is None or row["deaths"] is None:
            raise ValueError(
                f"step {step}, cloud {cloud}: the points were not finite, so there are no bars"
            )
        infinite = [[0.0, np.inf]] if row["n_points"] else []
        finite = np.stack([row["births"], row["deaths"]], -1)
        found = [np.concatenate([finite, np.array(infinite).reshape(-1, 2)])]
        if step in self.rows(cloud, 1):
            row = self.row(step, cloud, 1)
            found.append(np.stack([row["births"], row["deaths"]], -1))
        return found


def read_record(path: str | os.PathLike[str]) -> TopologyRecord:
    """Read a record, or the record in a run's folder. Works while the run goes on. O(bytes) time
    and memory. `TopologyTracker` has an example.

    Args:
        path: the file or the folder.

    Raises:
        FileNotFoundError: there is none.
        RecordError: the file is not an Arrow stream, has other columns, or is damaged before its
            first row. After that, the first damaged row and all that follow are left out, and
            `damaged_bytes` says how much that is.
    """
    path = Path(path)
    if path.is_dir():
        path /= RECORD
    data = pa.py_buffer(path.read_bytes())
    source = pa.BufferReader(data)
    try:
        reader = pa.ipc.open_stream(source)
        schema = reader.schema
        names = schema.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordError(
            f"{path} is not a record of topology: no Arrow stream ({error}); give the folder of a "
            "tracked run, or its topology.arrows"
        ) from error
    if not set(SCHEMA.names) <= set(names) or METADATA_KEY not in (schema.metadata or {}):
        raise RecordError(
            f"{path} is an Arrow stream, but not a record of topology: it has the columns "
            f"{', '.join(names) or '(none)'}"
        )
    other = [
        name
        for name in SCHEMA.names
        if names.count(name) > 1 or schema.field(name).type != SCHEMA.field(name).type
    ]
    if other:
        raise RecordError(
            f"{path} is damaged, or was written by another version: the type of its columns "
            f"{', '.join(other)} is not that of a record of topology"
        )
    try:
        metadata = dict(json.loads(schema.metadata[METADATA_KEY]))
        if not isinstance(metadata.get("clouds") or [], list):
            raise ValueError(f"clouds is {metadata['clouds']!r}, and no list of names")
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: its metadata is not JSON ({error})") from error
    batches, ends = [], [source.tell()]
    # A half batch shows itself in several types of error, depending on where it ends.
    while True:
        try:
            batch = reader.read_next_batch()
            batch.validate(full=True)
        except StopIteration:
            break
        except (pa.ArrowException, OSError, ValueError):
            break
        batches.append(batch)
        ends.append(source.tell())
    table = pa.Table.from_batches(batches, schema)
    fit = _rows_that_fit(table)
    if not fit.all():
        rows = np.cumsum([0, *(batch.num_rows for batch in batches)])
        whole = int(np.searchsorted(rows, np.argmin(fit), side="right")) - 1
        table = pa.Table.from_batches(batches[:whole], schema)
        del ends[whole + 1 :]
    return TopologyRecord(table, metadata, data.size - ends[-1])


def _rows_that_fit(table: pa.Table) -> np.ndarray:
    """True for each row that has its step, cloud and dimension, and whose lists have no gaps, and
    lengths and numbers of points that agree."""
    numbers = {
        name: np.asarray(table.column(name).cast(pa.int64()).fill_null(-1))
        for name in ("cloud", "dimension", "n_points", "n_features")
    }
    lengths = {
        name: np.asarray(pa.compute.list_value_length(table.column(name)).fill_null(-1))
        for name in ("births", "deaths", "edges", "points")
    }
    fit = np.asarray(table.column("step").is_valid()) & (numbers["cloud"] >= 0)
    fit &= np.isin(numbers["dimension"], (0, 1))
    bars = lengths["deaths"]
    points = numbers["n_points"] * numbers["n_features"]
    for name, expected in {"births": bars, "edges": np.maximum(bars, 0), "points": points}.items():
        fit &= (lengths[name] < 0) | (lengths[name] == expected)
    for name in ("edges", "edges_added", "edges_removed"):
        edges = table.column(name).combine_chunks()
        row_of_edge = np.asarray(pa.compute.list_parent_indices(edges))
        pairs = edges.flatten()
        for k in (0, 1):
            # An end of a pair that is null is null, too.
            ends = np.asarray(pa.compute.list_element(pairs, k).fill_null(-1))
            fit[row_of_edge[ends < 0]] = False
            if name == "edges":
                fit[row_of_edge[ends >= numbers["n_points"][row_of_edge]]] = False
    components = table.column("components").combine_chunks()
    row_of_count = np.asarray(pa.compute.list_parent_indices(components))
    fit[row_of_count[~np.asarray(components.flatten().is_valid())]] = False
    return fit


class CloudColumns:
    """The rows of one cloud and dimension, by step ascending. The last row of a step counts.

    A row with its points can hold millions of numbers; only the columns asked for are decoded.
    """

    def __init__(self, record: TopologyRecord, cloud: int = 0, dimension: int = 0) -> None:
        self.record, self.cloud, self.dimension = record, cloud, dimension
        rows = record.rows(cloud, dimension)
        self.steps = record.steps(cloud, dimension)
        self._rows = np.array([rows[step] for step in self.steps.tolist()], dtype=np.int64)

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
