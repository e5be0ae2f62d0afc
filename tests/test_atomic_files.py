"""Files are there whole or not at all, and a folder has one writer, on file systems of any kind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tsloss_fast._files import (
    LOCK,
    HeldElsewhere,
    check_writable,
    exclusive,
    sync,
    whole_file,
    whole_folder,
)


def fail_fsync(patch: pytest.MonkeyPatch, number: int, folders_only: bool) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if not folders_only or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    patch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("folders_only", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders_only: bool
) -> None:
    fail_fsync(monkeypatch, number, folders_only)
    with whole_file(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("whole")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "whole"
    with open(tmp_path / "file", "rb") as file:
        sync(file.fileno())


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_failed_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "file").write_text("old")
    fail_fsync(monkeypatch, number, folders_only=False)
    with pytest.raises(OSError, match=os.strerror(number)), whole_file(tmp_path / "file") as new:
        new.write_text("new")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("passing", [True, False])
def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path, passing: bool) -> None:
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        with exclusive(folder, passing):
            other = exclusive(folder, passing)
            with pytest.raises(HeldElsewhere, match=rf"another process \(pid {os.getpid()}\)"):
                other.__enter__()
            assert (folder / LOCK).exists()
        assert folder.exists() != passing


def test_what_is_in_a_held_folder_stays_though_the_lock_goes(tmp_path: Path) -> None:
    with exclusive(tmp_path / "folder", passing=True):
        (tmp_path / "folder" / "state").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["state"]


def test_a_lock_that_was_removed_before_it_was_taken_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # the process that held it ends just now
            (tmp_path / "folder" / LOCK).unlink()
            (tmp_path / "folder").rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path / "folder", passing=True):
        assert len(calls) == 2
        with pytest.raises(HeldElsewhere), exclusive(tmp_path / "folder"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    warning = pytest.warns(UserWarning, match=f"{tmp_path} lies on a file system without locks")
    with warning, exclusive(tmp_path):
        (tmp_path / "file").touch()
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("check", [check_writable, lambda path: whole_file(path).__enter__()])
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(
    check: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(FileExistsError, match=f"{path} is a device or a pipe"):
            check(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, error in (("", IsADirectoryError), ("file/below/it", NotADirectoryError)):
        with pytest.raises(error, match=str(tmp_path / name)):
            check_writable(tmp_path / name)
    check_writable(tmp_path / "new" / "folder" / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_name_of_the_users_file(number: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match=f"{os.strerror(number)}: '{path}'"), whole_file(path):
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []
