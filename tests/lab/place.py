# SPDX-License-Identifier: MIT
"""The folders of a lab, one on disk and one on tmpfs, and free ports.

CONTRACT
    `Place.make()` makes a folder that the unprivileged servers can use, and a
    second one on tmpfs for sockets and for files in clear: Dovecot's index
    cache, mail_temp_dir.  `remove()` removes both, except a folder given by the
    caller.

FAILURES
    LabError, with a hint: not root, no tmpfs, or the folder contains other files
    or cannot be used by other users.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MAIL_UID = 60601
AGENT_UID = 60602
REPLICA_UID = 60605
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TMPFS = ("/dev/shm", "/run")
_MARK = "lab.json"
_BLOCK = 400
"""Ports for one process: a port is used again after some 100 labs."""


class LabError(Exception):
    """The lab cannot run here; the message has the reason, the hint a solution."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclasses.dataclass(frozen=True)
class Place:
    """The lab's folders.

    dir    on disk: configurations, logs, keyrings, mail, Postfix's queue.
    quick  on tmpfs: sockets, index cache, mail_temp_dir.  The path is short, because
           names of unix sockets have at most 107 bytes.
    """

    dir: str
    quick: str
    keep: bool

    @classmethod
    def make(cls, directory: str | None = None) -> Place:
        """Make the folders.  `directory` comes from the caller and is kept."""
        if os.geteuid() != 0:
            raise LabError("the lab must run as root", hint="Postfix and Dovecot start as root")
        quick_root = next((p for p in _TMPFS if _is_tmpfs(p)), None)
        if quick_root is None:
            raise LabError(
                "there is no tmpfs at /dev/shm or /run",
                hint="mount one: mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
            )
        if directory is None:
            name = f"mailseal-lab-{os.getpid()}-"
            folder, keep = tempfile.mkdtemp(prefix=name, dir="/tmp"), False
        else:
            folder, keep = _own_folder(directory), True
        os.chmod(folder, 0o711)
        quick = tempfile.mkdtemp(prefix=f"mailseal-{os.getpid()}-", dir=quick_root)
        os.chmod(quick, 0o711)
        place = cls(folder, quick, keep)
        place._furnish()
        return place

    def within(self, name: str) -> Place:
        """A place inside this one, for another server; it is removed with this one."""
        place = Place(self.path(name), self.quick_path(name), self.keep)
        for folder in (place.dir, place.quick):
            os.mkdir(folder, 0o711)
        place._furnish()
        return place

    def _furnish(self) -> None:
        for name in ("log", "mail", "dovecot", "postfix"):
            os.makedirs(self.path(name), exist_ok=True)
        os.chown(self.path("mail"), MAIL_UID, MAIL_UID)
        for name, mode, owner in (
            ("cache", 0o700, MAIL_UID),
            ("tmp", 0o700, MAIL_UID),
            ("dovecot", 0o755, 0),
        ):
            os.mkdir(self.quick_path(name))
            os.chmod(self.quick_path(name), mode)
            os.chown(self.quick_path(name), owner, owner)

    def path(self, *parts: str) -> str:
        return os.path.join(self.dir, *parts)

    def quick_path(self, *parts: str) -> str:
        return os.path.join(self.quick, *parts)

    def remove(self) -> None:
        """Remove both folders, or only the one on tmpfs if the other is kept."""
        shutil.rmtree(self.quick, ignore_errors=True)
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def remember(self, users: dict[str, str]) -> None:
        """Store the users in a kept folder, so that the next lab there has them again."""
        if self.keep:
            with open(self.path(_MARK), "w", opener=_private, encoding="utf-8") as stream:
                json.dump({"users": users}, stream)

    @staticmethod
    def remembered(directory: str) -> dict[str, str]:
        """The users of an earlier lab in this folder, if there was one."""
        path = os.path.join(directory, _MARK)
        try:
            with open(path, encoding="utf-8") as stream:
                return dict(json.load(stream)["users"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            raise LabError(f"{path} is damaged", hint="use an empty folder") from None

    def copy_code(self) -> str:
        """Copy hooks/, lib/ and the other installed files to the lab; returns that folder."""
        code = self.path("code")
        shutil.rmtree(code, ignore_errors=True)
        _copy_code(code)
        return code


def copy_known_files(folder: str) -> None:
    """Copy the files of the repository that git knows, as for a package."""
    known = ["git", "ls-files", "-z"]
    files = subprocess.run(known, cwd=REPOSITORY, capture_output=True, check=True)
    copy = ["xargs", "-0", "cp", "--parents", "-p", "-t", folder]
    subprocess.run(copy, input=files.stdout, cwd=REPOSITORY, check=True)


@functools.cache
def readable_code() -> str:
    """A folder with hooks/ and lib/ that every user can read: the checkout, or a copy.

    For tests that start a hook without a lab.  The copy is removed at the end of the tests.
    """
    folder = REPOSITORY
    while os.stat(folder).st_mode & stat.S_IXOTH:
        if folder == "/":
            return REPOSITORY
        folder = os.path.dirname(folder)
    copy = tempfile.mkdtemp(prefix="mailseal-code-", dir="/tmp")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    _copy_code(copy)
    return copy


def _copy_code(code: str) -> None:
    """Copy the code to a folder that the servers' users can read.

    They cannot read a checkout below /root.  The modules are compiled here, because the
    servers cannot store the result: otherwise each start of the checkpassword program
    would compile them again.
    """
    for name in ("hooks", "lib", "dovecot-conf"):
        shutil.copytree(
            os.path.join(REPOSITORY, name),
            os.path.join(code, name),
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    _open_to_all(code)
    subprocess.run(
        ["/usr/bin/python3", "-I", "-m", "compileall", "-q", os.path.join(code, "lib")],
        check=True,
    )
    _open_to_all(code)


def free_ports(count: int) -> list[int]:
    """Free ports on 127.0.0.1.

    They are below the kernel's range for outgoing connections, so that no client in
    the lab can use one before the server does.  Other test runs on this machine get others,
    also while a server of ours is stopped.
    """
    found: list[int] = []
    for _ in range(_BLOCK):
        port = next(_own_ports())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise LabError(f"there are no {count} free ports near {port}")


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of a block that is this process's alone until it ends, again and again.

    An abstract socket is the lock of a block: it is in the same network namespace as the
    ports, and the kernel removes it with the process.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as stream:
        first_outgoing = int(stream.read().split()[0])
    blocks = list(range(10000, max(first_outgoing, 20000) - _BLOCK, _BLOCK))
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0mailseal-tests-ports-{first}")
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return itertools.cycle(range(first, first + _BLOCK))
    raise LabError("other test runs use all ports")


_locks: list[socket.socket] = []


def _own_folder(directory: str) -> str:
    folder = os.path.abspath(directory)
    if any(c.isspace() or c in "%$#\"'{}" for c in folder):
        raise LabError(
            f"the folder's name holds characters that configuration files give a meaning: {folder}",
            hint="choose a name of letters, digits, - and /",
        )
    os.makedirs(folder, mode=0o711, exist_ok=True)
    if os.listdir(folder) and not os.path.exists(os.path.join(folder, _MARK)):
        raise LabError(f"{folder} is not empty and no lab", hint="name an empty or a new folder")
    parent = folder
    while parent != "/":
        parent = os.path.dirname(parent)
        if not os.stat(parent).st_mode & stat.S_IXOTH:
            raise LabError(
                f"the mail servers' users cannot enter {parent}",
                hint=f"choose another folder, or: chmod o+x {parent}",
            )
    return folder


def let_others_in(folder: Path) -> None:
    """Let other users enter the folder and those above it.  It takes no right away."""
    for place in (folder, *folder.parents):
        place.chmod(stat.S_IMODE(place.stat().st_mode) | 0o055)


def _is_tmpfs(path: str) -> bool:
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as stream:
        mounts = [line.split()[1:3] for line in stream]
    return [path, "tmpfs"] in mounts and os.access(path, os.W_OK)


def _open_to_all(folder: str) -> None:
    for root, _, names in os.walk(folder):
        os.chmod(root, 0o755)
        for name in names:
            path = os.path.join(root, name)
            os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
