# SPDX-License-Identifier: MIT
"""A process that waits for a lock of Dovecot's, or is suspended, keeps Dovecot from nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from mailseal.mailbox import index_lock
from tests.lab.process import wait_until
from tests.unit.test_index_lock import LOG, held_by_another, is_locked

KINDS = ("lockf", "flock")

EXCHANGES = """
import sys
from mailseal import durable
from mailseal.mailbox.listing import Locks, kept_out
durable.file_system = lambda path: 0x9123683E    # Btrfs
with kept_out(sys.argv[1], Locks(f"{sys.argv[1]}/dovecot-uidlist", (sys.argv[2],))):
    print("has the lock", flush=True)
    sys.stdin.readline()
    print("goes on", flush=True)
print("has ended", flush=True)
"""


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    found = (tmp_path / "one" / LOG, tmp_path / "other" / LOG)
    for log in found:
        log.parent.mkdir()
        log.write_bytes(b"log")
    return found


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("which", [0, 1])
def test_while_it_waits_for_one_lock_it_holds_no_other(
    logs: tuple[Path, Path], which: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two indexes; and of the two kinds of lock of one file."""
    waits, go_on = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        waits.set()
        go_on.wait()

    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(index_lock, "time", clock)
    everything = [(log, kind) for log in logs for kind in KINDS]
    at_last: list[bool] = []

    def take() -> None:
        with index_lock.held(*map(str, logs)) as held:
            at_last.extend([held, *(is_locked(log, kind) for log, kind in everything)])

    thread = threading.Thread(target=take)
    try:
        with held_by_another(logs[which], how):
            thread.start()
            assert waits.wait(60)
            found = [one for one in everything if is_locked(*one)]
    finally:
        go_on.set()
        thread.join()
    assert found == [(logs[which], how)]
    assert at_last == [True] * 5


@pytest.mark.parametrize("with_index", [True, False])
def test_a_process_that_is_suspended_has_no_lock(
    logs: tuple[Path, Path], with_index: bool, tmp_path: Path
) -> None:
    """Ctrl-Z stops it only after the exchange."""
    log = logs[0] if with_index else tmp_path / "none" / LOG
    process = subprocess.Popen(
        [sys.executable, "-c", EXCHANGES, str(tmp_path), str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        process_group=0,  # in an orphaned group the signal would be ignored
    )
    output = process.stdout
    assert process.stdin is not None and output is not None

    def says() -> bool:
        return bool(select.select([output.fileno()], [], [], 0)[0])

    try:
        assert output.readline() == b"has the lock\n"
        os.kill(process.pid, signal.SIGTSTP)
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_until(lambda: says() or is_stopped(process.pid), "it is stopped or goes on")
        assert says(), "it is stopped, and has the lock"
        assert output.readline() == b"goes on\n"
        wait_until(lambda: is_stopped(process.pid), "it is stopped")
        assert not says()
        assert not is_locked(logs[0], "lockf")
        assert not (tmp_path / "dovecot-uidlist.lock").exists()
        os.kill(process.pid, signal.SIGCONT)
        assert output.readline() == b"has ended\n"
    finally:
        process.kill()
        process.communicate()


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"
