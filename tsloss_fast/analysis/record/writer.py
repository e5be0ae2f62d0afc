"""Writes the record of a tracked run, so that a kill at any moment leaves it readable."""

from __future__ import annotations

import json
import os
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tsloss_fast._files import sync, whole_file
from tsloss_fast.analysis.record import RecordError
from tsloss_fast.analysis.record.reader import TopologyRecord, read_record
from tsloss_fast.analysis.record.schema import METADATA_KEY, SCHEMA

__all__ = ["RecordWriter", "put_aside"]


def put_aside(path: Path) -> Path:
    """Rename a record to the first free of `topology-001.arrows`, `topology-002.arrows`, …."""
    number = 1
    while (aside := path.with_name(f"{path.stem}-{number:03d}{path.suffix}")).exists():
        number += 1
    os.rename(path, aside)
    return aside


class RecordWriter:
    """Appends rows to a record; one batch and one write for each call.

    Args:
        path: the file. Its folder is made.
        metadata: what JSON can hold; `clouds` are their names.
        keep: None for a new file (an existing one is an error); otherwise rows of an existing
            record up to this step are kept and all later rows are dropped, at once and
            atomically. There need not be a file. If damage hides rows before that step, the damaged
            file is put aside, with a warning.
        same: keys of the metadata that an existing record must have with the same values.

    Raises:
        FileExistsError: there is a record, and `keep` is None.
        RecordError: the existing file is no record, or differs in `same`; the file is unchanged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        keep: int | None = None,
        same: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if keep is None and self.path.exists():
            raise FileExistsError(
                f"{self.path} exists: resume it from a step (what lies after that step is "
                "dropped), or write to another path"
            )
        self.kept: TopologyRecord | None = None
        rows: list[pa.RecordBatch] = []
        if self.path.exists():
            assert keep is not None
            self.kept = read_record(self.path)
            for key in same:
                if self.kept.metadata.get(key) != metadata.get(key):
                    raise RecordError(
                        f"{self.path} was recorded with {key} = {self.kept.metadata.get(key)!r}, "
                        f"not {metadata.get(key)!r}: use the same, or another path"
                    )
            table = self.kept.table.select(SCHEMA.names)
            table = table.filter(pa.compute.less_equal(table.column("step"), keep))
            rows = table.to_batches()
            steps = table.column("step")
            last = pa.compute.max(steps).as_py() if len(steps) else None
            if self.kept.damaged_bytes and keep >= 0 and (last is None or last < keep):
                # More is gone than the half row that a kill leaves after the step to go on from.
                aside = put_aside(self.path)
                where = "before its first row" if last is None else f"after step {last}"
                warnings.warn(
                    f"{self.path} is damaged {where}, and the {self.kept.damaged_bytes} "
                    f"bytes that follow cannot be read: the damaged file is now {aside.name}",
                    UserWarning,
                    stacklevel=3,
                )
            self.kept = TopologyRecord(table, self.kept.metadata)
            metadata = self.kept.metadata | dict(metadata)
        self.metadata = dict(metadata)
        schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(self.metadata)})
        # A stream is its schema's message and then one message a batch.
        messages = [schema.serialize()]
        messages += [batch.replace_schema_metadata(schema.metadata).serialize() for batch in rows]
        with whole_file(self.path) as temporary, temporary.open("wb") as file:
            file.writelines(messages)
        self._schema = schema
        self._file: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND)
        # This closes the file of a writer that is collected without `close`.
        self._closing = weakref.finalize(self, os.close, self._file)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; columns that a row does not have are null.

        Raises:
            OSError: they could not be written (a full disk); the file is as it was.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        columns = list(rows)
        arrays = [_column([row.get(f.name) for row in columns], f.type) for f in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        data = memoryview(batch.serialize())
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except BaseException:
            # Half a batch would hide all that come after it.
            os.ftruncate(self._file, size)
            raise

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self._file is not None:
            sync(self._file)

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._closing()
            self._file = None
            sync(self.path.parent)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column; lists may be arrays, (n,) or (n, 2), which are not taken apart number by number."""
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    counts = [0 if value is None else len(value) for value in values]
    offsets = np.cumsum([0, *counts], dtype=np.int32)
    filled = [np.asarray(value).ravel() for value in values if value is not None]
    numbers = np.concatenate(filled) if filled else np.empty(0)
    inner = kind.value_type
    if pa.types.is_fixed_size_list(inner):
        content = pa.array(numbers.astype(inner.value_type.to_pandas_dtype()))
        content = pa.FixedSizeListArray.from_arrays(content, type=inner)
    else:
        content = pa.array(numbers.astype(inner.to_pandas_dtype()))
    mask = None
    if len(filled) < len(values):
        mask = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets), content, type=kind, mask=mask)
