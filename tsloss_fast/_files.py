"""Files and folders that are there whole or not at all, whenever the process is killed.

A file is written under a temporary name in the same folder, forced to the disk and renamed, which
POSIX does in one step. A killed process leaves at most temporary names behind. Where a folder has
to have one writer, `exclusive` holds it against other processes. Logs are the exception, since
lines are appended to them: `read_json_lines` leaves out a last line that is half written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "HeldElsewhere",
    "check_writable",
    "check_writable_folder",
    "exclusive",
    "not_a_link",
    "read_json_lines",
    "remove_folder",
    "remove_temporaries",
    "sync",
    "whole_file",
    "whole_folder",
]

PREFIX = ".tmp-"
LOCK = ".lock"
# These error numbers say that a file system lacks an operation: fsync of folders (SMB, vboxsf, some
# FUSE) or locks (Lustre without the option "flock", NFS without its lock daemon). A full or broken
# disk is told by other numbers.
_MISSING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# Errors of a write, which Python raises without the name of the file.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class HeldElsewhere(RuntimeError):
    """Another process holds the folder; the message names that process."""


def check_writable(path: Path) -> None:
    """Raise now what writing the file `path` would raise after the work. Nothing is left behind.

    The folders above it need not exist; they are not made here.

    Raises:
        IsADirectoryError: `path` is a folder.
        FileExistsError: `path` is a device or a pipe.
        NotADirectoryError: a part of the path above it is a file.
        OSError: its folder cannot be written, such as PermissionError.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: expected the name of the file to write, such as "
            f"{path / f'result{path.suffix}'}"
        )
    _check_replaceable(path)
    _check_takes_files(path, path.absolute().parent)


def check_writable_folder(path: Path) -> None:
    """Raise now what making the folder `path`, or writing files into it, would raise later. Nothing
    is made and nothing is left behind.

    Raises:
        NotADirectoryError: `path`, or a part of the path above it, is a file.
        OSError: the folder, or the one to make it in, cannot be written, such as PermissionError.
    """
    _check_takes_files(path, path.absolute())


def _check_replaceable(path: Path) -> None:
    """Raise FileExistsError for what a finished file must not take the place of: a device such as
    /dev/null, a pipe, a socket."""
    if path.exists() and not path.is_file():
        raise FileExistsError(
            f"{path} is a device or a pipe, and the finished file would replace it: expected the "
            "name of a file"
        )


def _check_takes_files(path: Path, folder: Path) -> None:
    """Raise an error that names `path` unless the folder, or the nearest one above it that exists,
    takes files."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {folder} is no folder; use another folder")
    try:
        # The permission bits do not tell of file systems that are mounted read-only.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = (
            f"cannot be written: the folder {folder} takes no files ({error.strerror}); use another"
        )
        raise type(error)(error.errno, reason, str(path)) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` if the block ends without error.

    An error of the operating system names `path`, not the temporary file, which the user has never
    heard of.
    """
    _check_replaceable(path)
    temporary = _temporary(path)
    try:
        # A killed process left this file, or it is a link, whose target may be anything.
        temporary.unlink(missing_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        full = error.filename is None and error.errno in _OF_THE_DISK
        if full or error.filename == str(temporary):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
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


def sync(file: Path | int) -> None:
    """Force a file, or the names in a folder, to the disk; `file` may be an open descriptor.

    On a file system that cannot do so, the data gets there whenever that system writes it.
    """
    if isinstance(file, int):
        with _where_possible():
            os.fsync(file)
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _where_possible() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _MISSING:
            raise


@contextlib.contextmanager
def exclusive(folder: Path, passing: bool = False) -> Iterator[None]:
    """Hold a folder, which is made if it is missing, against other processes.

    The kernel drops the lock when the process ends, however it ends, so none can be left behind.
    On a file system without locks the block is run all the same, after a warning.

    Args:
        folder: what is held; the lock is a file in it.
        passing: whether lock and folder are removed at the end, the folder only if it is empty.

    Raises:
        HeldElsewhere: another process holds it.
        OSError: the lock is a symbolic link, or cannot be made.
    """
    descriptor = _lock(folder)
    _held.add(descriptor)
    try:
        yield
    finally:
        if passing:
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


# Descriptors of the locks that this process holds.
_held: set[int] = set()


def _let_go() -> None:
    """Close the inherited locks in a forked process: a DataLoader's worker that outlives its parent
    must not hold the folder."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _lock(folder: Path) -> int:
    """The open and locked file in the folder."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = not_a_link(folder / LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            # The process that held it has just removed the folder.
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
                raise HeldElsewhere(
                    f"another process (pid {holder})" if holder else "another process"
                ) from None
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                warnings.warn(
                    f"{folder} lies on a file system without locks ({os.strerror(error.errno)}), "
                    "so two processes that write to it at once are not found out: start one at a "
                    "time, or use a folder on another file system",
                    UserWarning,
                    stacklevel=4,
                )
            if _is_open(descriptor, folder / LOCK):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The process that held it has removed the file, which no other process would find now.
        os.close(descriptor)


def _is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the objects of a file in JSON Lines, in order.

    A half line at the end, which a killed process leaves, is left out.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line before the last one is not a JSON object.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    # The part after the last newline is empty, or half a line.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object")
        records.append(record)
    return records
