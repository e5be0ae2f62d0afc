"""The folder of a run: one writer at a time, one configuration for ever, a resumable log."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tsloss_fast import _atomic
from tsloss_fast._atomic import HeldElsewhere, not_a_link, sync, whole_file
from tsloss_fast._json_lines import read_json_lines

__all__ = [
    "MetricsLog",
    "RunFolderError",
    "check_configuration",
    "claim",
    "exclusive",
    "read_metrics",
]

CONFIG = "config.json"
METRICS = "metrics.jsonl"


class RunFolderError(RuntimeError):
    """A run folder cannot be used for this run; the message says why and what to do."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes, as `_atomic.exclusive`; made if it is missing.

    Raises:
        RunFolderError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_atomic.exclusive(folder))
        except HeldElsewhere as holder:
            raise RunFolderError(
                f"{folder} is being written by {holder}: wait for it to end, or use another folder"
            ) from None
        yield


def check_configuration(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder is already this run's; False if it is nobody's.

    Args:
        folder: held by `exclusive`.
        config: everything that the result depends on; values that JSON can hold.

    Raises:
        RunFolderError: the folder belongs to a run with another configuration (the message names
            the keys that differ, with both values), or holds a log without a configuration.
    """
    file = folder / CONFIG
    if not file.exists():
        if (folder / METRICS).exists():
            raise RunFolderError(
                f"{folder} holds {METRICS} but no {CONFIG}, so nobody can say what run it is: "
                "use another folder"
            )
        return False
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error}): restore it, or use another folder"
        ) from error
    wanted = json.loads(json.dumps(dict(config)))
    absent = object()
    differ = [
        f"{key} ({_show(found.get(key, absent), absent)} there, "
        f"{_show(wanted.get(key, absent), absent)} here)"
        for key in sorted({*found, *wanted})
        if found.get(key, absent) != wanted.get(key, absent)
    ]
    if differ:
        raise RunFolderError(
            f"{folder} holds a run with another configuration: {', '.join(differ)}. Use another "
            "folder for this run, or give the settings that are there to resume that one"
        )
    return True


def claim(folder: Path, config: Mapping[str, Any], made_with: Mapping[str, str]) -> None:
    """Write the configuration, unless it is there: from now on the folder is this run's.

    Args:
        folder, config: as in `check_configuration`, whose errors this raises.
        made_with: versions, recorded for the reader and not compared.
    """
    if check_configuration(folder, config):
        return
    with whole_file(folder / CONFIG) as temporary:
        text = json.dumps({"config": dict(config), "made_with": dict(made_with)}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def _show(value: Any, absent: object) -> str:
    return "absent" if value is absent else json.dumps(value)


class MetricsLog:
    """Appends JSON Lines to the run's log; what stands after `offset` bytes is cut off first.

    A checkpoint stores `offset`, so lines of steps that will be run again never stand twice.
    """

    def __init__(self, folder: Path, offset: int) -> None:
        path = folder / METRICS
        # Append mode creates the file, and lets it be cut.
        self._file = open(path, "ab", buffering=0, opener=not_a_link)  # noqa: SIM115
        size = path.stat().st_size
        if size < offset:
            self._file.close()
            raise RunFolderError(
                f"{path} has {size} bytes, but the checkpoint was made when it had {offset}: "
                "restore it, or start again in another folder"
            )
        self._file.truncate(offset)
        sync(folder)

    def write(self, record: Mapping[str, Any]) -> None:
        # One unbuffered write a line: a kill leaves at most one half line, cut off on resume.
        self._file.write(json.dumps(dict(record), allow_nan=False).encode() + b"\n")

    def sync(self) -> int:
        """Force the log to the disk; its size in bytes."""
        sync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a run's log, in order. A half line at the end, left by a kill, is left out.

    Raises:
        FileNotFoundError: the folder has no log.
        ValueError: a line before the last is no JSON object.
    """
    return read_json_lines(Path(folder) / METRICS)
