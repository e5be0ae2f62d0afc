"""Files and folders that are there whole or not at all, whenever the process is killed.

Everything is written under a temporary name in the same folder, forced to the disk and renamed,
which POSIX does in one step. A killed process leaves at most temporary names behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "not_a_link",
    "remove_folder",
    "remove_temporaries",
    "sync",
    "whole_file",
    "whole_folder",
]

PREFIX = ".tmp-"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` if the block ends without error."""
    temporary = _temporary(path)
    # What lies there was left by a killed process, or is a link: its target may be anything.
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it to `path` if the block ends without error.

    A folder that is already at `path` is replaced. Between its removal and the rename there is
    a moment without either, so a folder that must never be missing needs a fresh name each time.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            sync(entry)
        sync(temporary)
        remove_folder(path)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that, at any moment, it is there whole or its name is gone."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        # Not the name that `whole_folder` is filling to take this folder's place.
        doomed = path.with_name(f"{PREFIX}old-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left in a folder. The caller must be its only writer."""
    for entry in folder.glob(f"{PREFIX}*"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def not_a_link(path: str | os.PathLike[str], flags: int) -> int:
    """An `opener` for files that are changed in place. A folder that came from elsewhere can hold
    a link to any file of its user, which must not be cut or written to in its stead.

    Raises:
        OSError: it is a symbolic link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if not os.path.islink(path):
            raise
        raise OSError(
            error.errno, "is a symbolic link, which is not written through: remove it", str(path)
        ) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f"{PREFIX}{path.name}")


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
