# SPDX-License-Identifier: MIT
"""Writes the log lines of all programs: to syslog (facility mail), to standard error, or to a file.

    2026-01-31T12:00:00+01:00 HOST PROGRAM[PID]: TEXT

syslog adds time and host by itself.  Control characters are written as \\xNN, so that a user
name cannot forge a line.

CONTRACT
    write() never raises, and waits at most 50 ms in each second: a full disk or a
    syslog that hangs does not stop mail or logins.  Lost lines are counted, and a later
    line reports their number.
    A file is opened before root privileges are dropped.  Root makes it for agent.user and
    the group of delivery.user, so that both daemons can write to it.  If other users can
    change the folder, the daemon's own user opens the file instead.
    After a rotation the new file is opened within a second, or by reopen().  If it
    cannot be opened, the old one is used.

FAILURES
    ConfigError if the file cannot be opened at the start.  Without /dev/log (in a
    container), lines go to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import socket
import stat
import sys
import time
from collections.abc import Iterator

from mailseal.errors import ConfigError
from mailseal.paths import Folder, open_folder

ERROR, WARNING, INFO = 3, 4, 6
"""Severities of syslog, for write()."""

_FACILITY_MAIL = 2 << 3
_SYSLOG = "/dev/log"
_LONGEST = 4000  # bytes; a write of up to 4,096 to a pipe is atomic
_PATIENCE = 0.05
_LOOK_EVERY = 1.0
_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Ids = tuple[int, int]
"""uid and gid."""


class Log:
    """The log of one program."""

    def __init__(
        self,
        target: str,
        program: str,
        *,
        user: Ids | None = None,
        owner: Ids | None = None,
        stderr: bool = True,
    ) -> None:
        """`target`: the option log.to; `user`: the user that the program will become; `owner`: of
        a file that root makes; `stderr`: whether standard error may be used for log lines."""
        self.target = target
        self._program = program
        self._lost = 0
        self._hung_until = 0.0
        self._sink: _Syslog | _Stderr | _File | _Nowhere
        if target == "syslog" and os.path.exists(_SYSLOG):
            self._sink = _Syslog()
        elif target == "syslog" and not stderr:
            self._sink = _Nowhere()
        elif target in ("syslog", "stderr"):
            self._sink = _Stderr()
        else:
            self._sink = _File(target, user, owner)

    def write(self, severity: int, text: str) -> None:
        """Write one line."""
        if not self._send(severity, text):
            self._lost += 1
        elif self._lost:
            note = f"warning: {self._lost} log lines were lost before the last one"
            if self._send(WARNING, note):
                self._lost = 0

    def reopen(self) -> None:
        """Open the new file after a rotation.  Does nothing for other targets."""
        if isinstance(self._sink, _File):
            self._sink.look(again=True)

    def _send(self, severity: int, text: str) -> bool:
        line = f"{self._program}[{os.getpid()}]: {_CONTROL.sub(_escaped, text)}"
        data = line.encode("utf-8", "backslashreplace")[:_LONGEST]
        try:
            self._sink.send(severity, data)
        except BlockingIOError:
            return self._wait_and_send(severity, data)
        except OSError:
            return False
        return True

    def _wait_and_send(self, severity: int, data: bytes) -> bool:
        """The reader of the lines is slow: wait a short time, but not for every line."""
        now = time.monotonic()
        if now < self._hung_until:
            return False
        poll = select.poll()
        poll.register(self._sink.fd, select.POLLOUT)
        try:
            poll.poll(_PATIENCE * 1000)
            self._sink.send(severity, data)
        except OSError:
            self._hung_until = time.monotonic() + 1
            return False
        return True


class _Syslog:
    """The local syslog.  Does not use syslog(3), which waits without limit if syslog hangs."""

    def __init__(self) -> None:
        self._socket = self._connected()

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def send(self, severity: int, data: bytes) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")
        packet = f"<{_FACILITY_MAIL | severity}>{stamp} ".encode() + data
        try:
            self._socket.send(packet, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise
        except OSError:  # syslog has been restarted
            self._socket.close()
            self._socket = self._connected()
            self._socket.send(packet, socket.MSG_DONTWAIT)

    @staticmethod
    def _connected() -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            made.connect(_SYSLOG)
        return made


class _Stderr:
    """Standard error, of any type, without waiting for its reader."""

    def __init__(self) -> None:
        self.fd = sys.stderr.fileno()
        self._socket: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(self.fd).st_mode):
            self._socket = socket.socket(fileno=os.dup(self.fd))
            return
        # A separate open file: O_NONBLOCK must not affect other programs on the same terminal.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            self.fd = os.open(f"/proc/self/fd/{self.fd}", flags)

    def send(self, _severity: int, data: bytes) -> None:
        if self._socket is not None:
            self._socket.send(_stamped(data), socket.MSG_DONTWAIT)
        else:
            os.write(self.fd, _stamped(data))


class _Nowhere:
    """Discards lines: without syslog, for a program that must not use standard error."""

    fd = -1

    def send(self, _severity: int, _data: bytes) -> None:
        return


class _File:
    """A file, which may be rotated at any time."""

    def __init__(self, path: str, user: Ids | None, owner: Ids | None) -> None:
        self.path = path
        self._looked = time.monotonic()
        self._torn = False
        try:
            self.fd = _open_file(path, user, owner)
        except ConfigError as exc:
            raise ConfigError(f"option log.to: {exc}", hint=exc.hint) from None
        except OSError as exc:
            raise ConfigError(f"option log.to: cannot open {path}: {exc.strerror}") from None

    def send(self, _severity: int, data: bytes) -> None:
        self.look()
        line = (b"\n" if self._torn else b"") + _stamped(data)
        written = os.write(self.fd, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError

    def look(self, *, again: bool = False) -> None:
        """Open the file again if the name is now another file."""
        now = time.monotonic()
        if not again and now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        with contextlib.suppress(OSError, ConfigError):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self.path), os.fstat(self.fd)):
                    return
            new = _open_file(self.path, None, None)
            # With the same descriptor number, which other code may have stored.
            os.dup2(new, self.fd, inheritable=False)
            os.close(new)
            self._torn = False


def _open_file(path: str, user: Ids | None, owner: Ids | None) -> int:
    """Open a regular file for appending, never through a link."""
    with open_folder(os.path.dirname(path)) as folder:
        name = os.path.basename(path)
        if os.geteuid() != 0 or folder.own or user is None:
            return _opened(folder, name, owner if os.geteuid() == 0 else None)
        with _acting_as(user):
            return _opened(folder, name, None)


def _opened(folder: Folder, name: str, owner: Ids | None) -> int:
    try:
        fd = os.open(name, _FILE | os.O_EXCL, 0o600, dir_fd=folder.fd)
        made = True
    except FileExistsError:
        fd = os.open(name, _FILE & ~os.O_CREAT, dir_fd=folder.fd)
        made = False
    try:
        state = os.fstat(fd)
        # In a folder that only we can change, nobody else can have made this name.  Then other hard
        # links are no danger; every user who may write to the file can make one.
        if not stat.S_ISREG(state.st_mode) or (state.st_nlink > 1 and not folder.own):
            raise ConfigError(
                f"{folder.path}/{name} is not a regular file, or has several hard links"
            )
        if made:
            os.fchmod(fd, 0o660)
            if owner is not None:
                os.fchown(fd, *owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def _acting_as(user: Ids) -> Iterator[None]:
    """Act as this user in the block, and then as root again."""
    groups = os.getgroups()
    gid = os.getegid()
    os.setgroups([])
    os.setegid(user[1])
    os.seteuid(user[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


_host = functools.cache(socket.gethostname)


def _stamped(data: bytes) -> bytes:
    zone = time.strftime("%z")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S") + zone[:3] + ":" + zone[3:5]
    return f"{stamp} {_host()} ".encode() + data + b"\n"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
