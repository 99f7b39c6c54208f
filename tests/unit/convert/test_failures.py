# SPDX-License-Identifier: MIT
"""kill -9, signals, a full disk and a read-only file system at every system call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.mailbox.exchange import LEFT_OVER
from tests.unit.convert.box import FORMS, MAILS, Box
from tests.unit.steps import every_step, kill


def test_kill_9_at_every_system_call(box: Box) -> None:
    left = []
    for _ in every_step(box.fill, box.convert_all, kill):
        assert box.mails() == MAILS
        left.append(len(box.left_over()))
        assert all(name.startswith(LEFT_OVER) for name in box.left_over())
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert len(left) > 40 and max(left) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_disk_is_full_at_every_system_call(small_disk: Path, form: str) -> None:
    box = Box(small_disk / "Maildir", form)
    full = small_disk / "full"

    def fill_up(pid: int) -> None:
        with full.open("wb", buffering=0) as stream:
            for size in (4096, 1):
                try:
                    while True:
                        stream.write(b"x" * size)
                except OSError:
                    pass

    def prepare() -> None:
        full.unlink(missing_ok=True)
        box.fill()

    stopped = 0
    reports = small_disk / "report"

    def work() -> None:
        reports.unlink(missing_ok=True)
        if "No space" in box.convert().stopped:
            reports.touch()

    for _ in every_step(prepare, work, fill_up):
        full.unlink()
        stopped += reports.exists()
        assert box.mails() == MAILS
        assert box.left_over() == []
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert stopped > 3


def test_read_only_at_every_system_call(small_disk: Path) -> None:
    """As the kernel does after an error.  It refuses while a file is open for writing."""
    box = Box(small_disk / "Maildir", "seal")
    done = []

    def remount(how: str) -> bool:
        command = ["mount", "-o", f"remount,{how}", str(small_disk)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    for _ in every_step(box.fill, box.convert_some, lambda _: done.append(remount("ro"))):
        assert remount("rw")
        assert box.mails() == MAILS
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert done.count(True) > 10


def test_a_signal_at_every_system_call(sealing: Box, request: pytest.FixtureRequest) -> None:
    """SIGTERM to the service: Python's exception may be raised between any two steps."""

    working = False

    def stop(*_: object) -> None:
        if working:
            raise KeyboardInterrupt

    def work() -> None:
        nonlocal working
        with contextlib.suppress(KeyboardInterrupt):
            working = True
            sealing.convert()
            working = False

    before = signal.signal(signal.SIGTERM, stop)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    for _ in every_step(sealing.fill, work, lambda pid: os.kill(pid, signal.SIGTERM)):
        assert sealing.mails() == MAILS
        sealing.convert_all()
        assert sealing.mails() == MAILS
        sealing.require_converted()
