# SPDX-License-Identifier: MIT
"""Starts servers, waits until they are ready, and ends them with all their children.

Each server is the leader of its own session.  So its children can be found by the
session number in /proc/PID/stat, even if they have changed their process group.
Signals are sent only to processes in such a session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from tests.lab.place import LabError

Address = str | tuple[str, int]

PATIENCE = 90
"""Seconds until a wait fails: other test runs may need both processors for long."""


class Server:
    """A server in the foreground, whose output goes to a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log_path
        self._env = dict(env or {})
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the leader; only while it runs."""
        if self._process is None:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, until: Sequence[Address], timeout: float = PATIENCE) -> None:
        """Start it; returns when all addresses in `until` accept connections."""
        if self.running:
            return
        # Otherwise a process could be left that nobody knows.
        with interrupted_later(), open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **self._env},
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        for address in until:
            while not accepts(address):
                if self._process.poll() is not None:
                    status = self._process.returncode
                    self.stop()
                    raise LabError(f"{self.name} ended with status {status}{self._log_end()}")
                if time.monotonic() > deadline:
                    self.stop()
                    raise LabError(f"{self.name} does not answer at {address}{self._log_end()}")
                time.sleep(0.01)

    def stop(self, sig: signal.Signals = signal.SIGTERM, *, timeout: float = 15) -> int | None:
        """End the server and all its children; returns the leader's exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(sig)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
        status = process.wait()
        deadline = time.monotonic() + 3
        while left := members(process.pid):
            for pid in left:
                late = time.monotonic() > deadline
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.02)
        return status

    def pids(self) -> list[int]:
        """All its processes."""
        return [] if self._process is None else members(self._process.pid)

    def signal(self, sig: signal.Signals) -> None:
        os.kill(self.pid, sig)

    def _log_end(self) -> str:
        with open(self.log_path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().strip().splitlines()
        return "".join(f"\n    {line}" for line in lines[-8:])


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end the program like Ctrl-C; further signals are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: types.FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        if _Later.blocks:
            _Later.is_due = True
            return
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


class _Later:
    blocks = 0
    is_due = False


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """A signal during the block ends the program after it, as interrupt_on_signals() says."""
    _Later.blocks += 1
    try:
        yield
    finally:
        _Later.blocks -= 1
        if _Later.is_due and not _Later.blocks:
            _Later.is_due = False
            raise KeyboardInterrupt


def accepts(address: Address) -> bool:
    """Whether a server accepts connections at a unix socket or (host, port)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def members(session: int) -> list[int]:
    """The running processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:
                    fields = stream.read().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(name))
    return found


def children(parent: int) -> list[int]:
    """The processes that `parent` has started."""
    found = []
    for task in os.listdir(f"/proc/{parent}/task"):
        path = f"/proc/{parent}/task/{task}/children"
        with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as stream:
            found += [int(pid) for pid in stream.read().split()]
    return found


def suspend(pid: int) -> None:
    """Stop a process with SIGSTOP; returns when none of its threads runs any more.

    kill(2) returns earlier: on a busy machine, a thread would still answer the next request.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: states(pid) <= set("TtZX"), f"process {pid} has stopped")


def states(pid: int) -> set[str]:
    """The states of all threads, as in proc(5)."""
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/task/{task}/stat", encoding="ascii", errors="replace") as stream,
        ):
            found.add(stream.read().rpartition(")")[2].split()[0])
    return found


class Logs(Protocol):
    """Anything with a log."""

    def log_text(self) -> str:
        """The text of the log, or of all logs."""
        ...


def logged(source: Logs, text: str, *, timeout: float = PATIENCE) -> None:
    """Wait until a log has this text: Dovecot writes its log a moment after it has answered."""
    deadline = time.monotonic() + timeout
    while text not in (found := source.log_text()):
        if time.monotonic() > deadline:
            raise LabError(f"the log has no {text!r}:\n{found[-4000:]}")
        time.sleep(0.02)


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> None:
    """Poll a condition until it is true; LabError with `what` after the time limit."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:.0f} s in vain until {what}")
        time.sleep(0.02)
