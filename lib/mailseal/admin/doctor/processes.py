# SPDX-License-Identifier: MIT
"""Finds running processes and their users, in /proc.

FAILURES
    OSError if a process has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import socket
import struct
import time
from collections.abc import Iterator

from mailseal.config import DEFAULT_PATH

_TICKS = os.sysconf("SC_CLK_TCK")
_TIMEOUT = 5


def listener(path: str) -> int:
    """The pid of the process that listens on a unix socket.  Raises OSError if none does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT)
        client.connect(path)
        return int(
            struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        )


def uid_of(pid: int) -> int:
    """The effective uid of a process."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("Uid:"):
                return int(line.split()[2])
    raise ProcessLookupError(f"process {pid} has no uid")


def started(pid: int) -> float:
    """When a process was started, in seconds since 1970."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS


def children(parent: int, *programs: str) -> Iterator[int]:
    """The pids of the processes with these names that a process has started."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
                before, _, after = stream.read().rpartition(b")")
                program = before.partition(b"(")[2].decode("utf-8", "replace")
                if program in programs and int(after.split()[1]) == parent:
                    yield int(name)


def running(program: str, config: str) -> Iterator[int]:
    """The pids of a program, or of a script with this name, that runs with this configuration.

    One with another configuration belongs to another installation: /proc also has the processes
    of all containers on this machine.
    """
    wanted = os.path.abspath(config)
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as stream:
                words = [os.fsdecode(word) for word in stream.read(4096).split(b"\0")]
                programs = [os.path.basename(word) for word in words[:4]]
                if program in programs:
                    options = words[programs.index(program) + 1 :]
                    # A relative path counts from the folder of our own configuration.
                    path = os.path.join(os.path.dirname(wanted), _config_of(options))
                    if os.path.normpath(path) == wanted:
                        yield int(name)


def _config_of(options: list[str]) -> str:
    """The configuration that the options of a daemon of mailseal name."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-c", "--config", default=DEFAULT_PATH)
    try:
        return str(parser.parse_known_args(options)[0].config)
    except argparse.ArgumentError:
        return ""


def name_of(uid: int) -> str:
    """The name of a user, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
