"""The raw results of studies: JSON Lines, to which lines are only ever added.

A folder holds one file for each design. Kinds of lines: "experiment", the design (again whenever it
was changed); "session", machine and versions of the runs that follow; and "run". Old files also
have "choice", the learning rate that a method got by a search.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tsloss_fast._files import not_a_link, read_json_lines, sync

__all__ = ["ResultsFile", "read_results"]


class ResultsFile:
    """Appends to a results file; the caller holds its folder against other processes.

    The half line that a killed process or a full disk has left is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = read_json_lines(path) if path.exists() else []
        self._file = open(path, "ab", opener=not_a_link)  # noqa: SIM115
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)
        sync(path.parent)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        lines = [json.dumps(r, allow_nan=False, separators=(",", ":")) for r in records]
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        sync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_results(place: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file, or of all results files (`*.jsonl`) of a folder."""
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not files:
        raise FileNotFoundError(f"{place} holds no results (*.jsonl); tsloss compare writes them")
    records = [record for file in files for record in read_json_lines(file)]
    if not all("kind" in record for record in records):
        raise ValueError(f"{place}: not the results of a study, since a line has no kind")
    return records
