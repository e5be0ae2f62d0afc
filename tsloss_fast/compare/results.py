"""The results of an experiment: one file a design, JSON Lines, to which lines are only ever added.

Kinds of lines: "experiment", the design (again, if it was changed); "session", machine and versions
of the runs that follow; "run"; and "choice", the learning rate and the weight that a method got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tsloss_fast._files import not_a_link, read_json_lines, sync

__all__ = ["ResultsFile", "read_results"]

Record = dict[str, Any]


class ResultsFile:
    """Appends to a results file. The folder must be held by this process alone.

    What a kill left of a line is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0, opener=not_a_link)  # noqa: SIM115
        try:
            self.records = read_json_lines(path)
            whole = path.read_bytes().rfind(b"\n") + 1
            self._file.truncate(whole)
        except BaseException:
            self._file.close()
            raise
        sync(path.parent)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, together: a kill leaves all of them but a half one, which is cut off later."""
        added = [dict(record) for record in records]
        lines = [json.dumps(record, allow_nan=False, separators=(",", ":")) for record in added]
        if not lines:
            return
        data = "".join(f"{line}\n" for line in lines).encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{self.path}: only {written} of {len(data)} bytes fit on the disk")
            sync(self._file.fileno())
        except OSError:
            # A full disk: the file stays as it was, and the same command goes on from there.
            self._file.truncate(before)
            raise
        self.records += added

    def close(self) -> None:
        self._file.close()


def read_results(path: str | os.PathLike[str]) -> list[Record]:
    """The lines of a results file, or of all results files (`*.jsonl`) of a folder.

    Args:
        path: the file or the folder.

    Raises:
        FileNotFoundError: there is no such file, or the folder has none.
        ValueError: a line is no JSON object, or has no kind.
    """
    place = Path(path)
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not files:
        raise FileNotFoundError(f"{place} holds no results (*.jsonl)")
    records = []
    for file in files:
        for number, record in enumerate(read_json_lines(file), start=1):
            if not isinstance(record.get("kind"), str):
                raise ValueError(
                    f"{file}, line {number}: not a line of results (it has no kind); "
                    "tsloss compare writes them"
                )
            records.append(record)
    return records
