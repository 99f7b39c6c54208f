"""Durable writes: each system call fails once."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailseal import durable
from mailseal.errors import DiskFull, TemporaryError

CALLS = ("open", "fchmod", "write", "fsync", "rename", "link")


def record(
    monkeypatch: pytest.MonkeyPatch, *, fail_at: int = 0, error: int = errno.EIO
) -> list[str]:
    """Record the calls of durable, and make the call with number fail_at fail."""
    seen: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            if len(seen) == fail_at:
                raise OSError(error, os.strerror(error))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    return seen


def test_replace_syncs_the_file_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record(monkeypatch)
    durable.replace(str(tmp_path / "f"), b"new")
    assert seen == ["open", "fchmod", "write", "fsync", "rename", "open", "fsync"]


def test_create_links_only_a_complete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record(monkeypatch)
    durable.create(str(tmp_path / "f"), b"new")
    assert seen == ["open", "fchmod", "write", "fsync", "link", "open", "fsync"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("k", range(1, 8))
def test_a_failed_replace_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, error: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        record(patch, fail_at=k, error=error)
        with pytest.raises(DiskFull if error == errno.ENOSPC else TemporaryError):
            durable.replace(str(path), b"new")
    assert path.read_bytes() == (b"old" if k <= 5 else b"new")
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("k", range(1, 6))
def test_a_failed_create_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    with monkeypatch.context() as patch:
        record(patch, fail_at=k)
        with pytest.raises(TemporaryError):
            durable.create(str(tmp_path / "f"), b"new")
    assert os.listdir(tmp_path) == []


def test_create_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        durable.create(str(tmp_path / "f"), b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    durable.replace(str(tmp_path / "f"), b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        durable.replace(str(tmp_path / "f"), b"")
        durable.make_folder(str(tmp_path / "d"))
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


def test_only_einval_of_a_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Callable[[int], None]:
        def fsync(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    durable.sync_folder(str(tmp_path))
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable.sync_folder(str(tmp_path))


def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    """As stat(1) has it."""
    done = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], capture_output=True, check=True)
    assert durable.file_system(str(tmp_path)) == int(done.stdout, 16) != 0
    assert durable.file_system("/proc") == 0x9FA0
    assert durable.file_system(str(tmp_path / "missing")) == 0
