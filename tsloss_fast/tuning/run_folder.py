"""The folder of a run: one writer at a time, one configuration for ever, a resumable log."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tsloss_fast import _files
from tsloss_fast._files import HeldElsewhere, not_a_link, read_json_lines, sync, whole_file

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
# What is kept of the model beside its name, in the words of a message.
DIGESTS = {"model": "the model's weights or configuration", "tokens": "the tokens of the items"}


class RunFolderError(RuntimeError):
    """A run folder cannot be used for this run; the message says why and what to do."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes, as `_files.exclusive`; made if it is missing, and
    removed at the end if nothing was written to it.

    Raises:
        RunFolderError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_files.exclusive(folder, passing=True))
        except HeldElsewhere as holder:
            raise RunFolderError(
                f"{folder} is being written by {holder}: wait for it to end, or use another folder"
            ) from None
        yield


def check_configuration(
    folder: Path,
    config: Mapping[str, Any],
    made_with: Mapping[str, str],
    digests: Mapping[str, str] | None = None,
) -> bool:
    """Whether the folder is already this run's; False if it is nobody's.

    Args:
        folder: held by `exclusive`.
        config: everything that the result depends on; values that JSON can hold. What the model is
            called counts only if its digest is another one: files can be moved.
        made_with: full versions, of which major and minor are compared.
        digests: those of `DIGESTS`; None as long as the model is not loaded.

    Raises:
        RunFolderError: the folder belongs to a run with another configuration (the message names
            what differs, with both values) or to one of a version that kept no digests, or holds a
            log without a configuration.
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
        kept = json.loads(file.read_text(encoding="utf-8"))
        found, versions = dict(kept["config"]), dict(kept["made_with"])
        found_digests = dict(kept.get("digests", {}))
        if found_digests and found_digests.keys() != DIGESTS.keys():
            raise ValueError(f"its digests are those of {', '.join(found_digests)}")
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error}): restore it, or use another folder"
        ) from error
    if not found_digests:
        raise RunFolderError(
            f"{folder} holds a run of an older version, which kept no digest of its model, so that "
            "it cannot be told whether this is the same model: use another folder"
        )
    wanted = json.loads(json.dumps(dict(config)))
    if digests is None or digests["model"] == found_digests["model"]:
        wanted["model"] = found.get("model")
    differ = [
        _difference(key, found.get(key, _ABSENT), wanted.get(key, _ABSENT))
        for key in sorted({*found, *wanted})
        if found.get(key, _ABSENT) != wanted.get(key, _ABSENT)
    ]
    differ += [
        _difference(f"{DIGESTS[name]}, SHA-256", str(found_digests[name])[:12], digest[:12])
        for name, digest in (digests or {}).items()
        if found_digests[name] != digest
    ]
    differ += [
        _difference(f"the version of {name}", versions.get(name, _ABSENT), version)
        for name, version in made_with.items()
        if str(versions.get(name)).split(".")[:2] != version.split(".")[:2]
    ]
    if differ:
        raise RunFolderError(
            f"{folder} holds a run with another configuration: {', '.join(differ)}. Use another "
            "folder for this run, or restore what is there to resume that one"
        )
    return True


def claim(
    folder: Path,
    config: Mapping[str, Any],
    made_with: Mapping[str, str],
    digests: Mapping[str, str],
) -> None:
    """Write the configuration, unless it is there: from now on the folder is this run's.

    Args:
        folder, config, made_with, digests: as in `check_configuration`, whose errors this raises.
    """
    if check_configuration(folder, config, made_with, digests):
        return
    record = {"config": config, "digests": digests, "made_with": made_with}
    with whole_file(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


_ABSENT = object()


def _difference(name: str, there: Any, here: Any) -> str:
    values = ["absent" if x is _ABSENT else json.dumps(x) for x in (there, here)]
    return f"{name} ({values[0]} there, {values[1]} here)"


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
