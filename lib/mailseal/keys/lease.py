# SPDX-License-Identifier: MIT
"""The mark of a folder of public keys, and the lease of a folder that is a replica.

The mark is the file FOLDER_MARK in the folder.  It has one of two forms:

    mailseal public keys, version 1                the store itself

    mailseal public keys, replica, version 1       a copy of a database (docs/several-hosts.md)
    BOOT-ID SECONDS                                the lease; missing before the first copy

CONTRACT
    A copy says "not enrolled" only while its lease is valid: on the same boot of the same
    machine, until its CLOCK_BOOTTIME reaches SECONDS.  This clock also runs while the machine
    sleeps, nobody can set it, and Lua can read it from /proc/uptime.  If /proc/uptime shows
    another time, as lxcfs does in LXC containers, no lease is written.
    Readers read the lease first, then look up the user, and read the clock last.  So they find
    every user whose key was confirmed to be on disk, or see that the lease has expired.
    SECONDS is the time of the machine, not that of a time namespace.
    The lease is not synced: after a crash of the machine it is not valid anyway.
"""

from __future__ import annotations

import os
import re
import time

from mailseal import durable
from mailseal.errors import TemporaryError

FOLDER_MARK = "mailseal-public-keys"
STORE_TEXT = b"mailseal public keys, version 1\n"
REPLICA_TEXT = b"mailseal public keys, replica, version 1\n"

_LEASE = re.compile(rb"([0-9a-f-]{36}) ([0-9]{1,12}\.[0-9]{2})\n")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_UPTIME = "/proc/uptime"
_OFFSETS = "/proc/self/timens_offsets"

FOREVER = float("inf")
"""The lease of the store itself."""

NONE = float("-inf")

HINT = "see `systemctl status mailseal-replica` on this host"


def boot_id() -> str:
    """The id of this boot of the machine."""
    with durable.reporting(f"cannot read {_BOOT_ID}"), open(_BOOT_ID, encoding="ascii") as stream:
        return stream.read().strip()


class Clock:
    """CLOCK_BOOTTIME of the machine, in seconds."""

    def __init__(self) -> None:
        self._offset = 0.0
        try:
            with open(_OFFSETS, encoding="ascii") as stream:
                lines = [line.split() for line in stream]
        except FileNotFoundError:  # a kernel without time namespaces
            return
        for name, seconds, nanoseconds in lines:
            if name == "boottime":
                self._offset = int(seconds) + int(nanoseconds) / 1e9

    def now(self) -> float:
        """Seconds since the machine was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self._offset


def lua_reads_this_clock() -> bool:
    """Whether /proc/uptime shows CLOCK_BOOTTIME, both in the time namespace of this process."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        with open(_UPTIME, encoding="ascii") as stream:
            shown = float(stream.read().split()[0])
    except (OSError, ValueError, IndexError):
        return False
    return before - 1 <= shown <= time.clock_gettime(time.CLOCK_BOOTTIME) + 1


def parse(data: bytes, boot: str) -> float:
    """Time until which a folder with this mark may say "not enrolled".  Raises TemporaryError."""
    if data == STORE_TEXT:
        return FOREVER
    if not data.startswith(REPLICA_TEXT):
        raise TemporaryError("the mark of the folder of public keys is damaged or too new")
    match = _LEASE.fullmatch(data[len(REPLICA_TEXT) :])
    if match is None or match[1].decode() != boot:
        return NONE
    return float(match[2])


def write(folder: str, until: float | None) -> None:
    """Mark the folder as a replica with this lease; None: without a lease."""
    text = REPLICA_TEXT
    if until is not None:
        text += f"{boot_id()} {until:.2f}\n".encode()
    durable.replace(os.path.join(folder, FOLDER_MARK), text, mode=0o644, alone=True, sync=False)


class Lease:
    """The lease of a folder, as a reader uses it.  Several threads may share it."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, FOLDER_MARK)
        self._boot = ""
        self._clock: Clock | None = None
        self._known: tuple[tuple[int, int, int], float] | None = None

    def until(self) -> float:
        """The end of the lease, in the time of expired(); call it before looking up a user.

        Raises TemporaryError if there is no mark: an empty mount point is no store.
        """
        try:
            found = os.stat(self._path)
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._known
            if known is None or known[0] != stamp:
                self._boot = self._boot or boot_id()
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    found = os.fstat(fd)
                    data = os.read(fd, 4096)
                finally:
                    os.close(fd)
                stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
                self._known = known = stamp, parse(data, self._boot)
        except OSError as exc:
            folder = os.path.dirname(self._path)
            raise TemporaryError(
                f"{folder} is not a folder of public keys: {exc.strerror}",
                hint="is state_dir right, and mounted? `mailseal init` makes a new one",
            ) from None
        return known[1]

    def expired(self, until: float) -> bool:
        """Whether this end of a lease has passed."""
        if until == FOREVER:
            return False
        if self._clock is None:
            self._clock = Clock()
        return self._clock.now() >= until
