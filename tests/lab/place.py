# SPDX-License-Identifier: MIT
"""Where a lab lies: one folder on disk, one folder on tmpfs, and free ports.

CONTRACT
    `Place.make()` gives a folder that the unprivileged servers can reach, and
    a second one on tmpfs for what may be in clear: sockets, Dovecot's index
    cache, mail_temp_dir.  `remove()` takes both away, but a folder that was
    named by the caller stays.

FAILURES
    LabError, with a hint, when not root, when there is no tmpfs, when the
    folder holds something else or cannot be reached by other users.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile

MAIL_UID = 60601
AGENT_UID = 60602
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TMPFS = ("/dev/shm", "/run")
_MARK = "lab.json"


class LabError(Exception):
    """The lab cannot run here; the message says why, the hint what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclasses.dataclass(frozen=True)
class Place:
    """The lab's folders.

    dir    on disk: configurations, logs, keyrings, mail, Postfix's queue.
    quick  on tmpfs: sockets, index cache, mail_temp_dir.  A short path, as a
           unix socket's name has 107 bytes at most.
    """

    dir: str
    quick: str
    keep: bool

    @classmethod
    def make(cls, directory: str | None = None) -> Place:
        """Make the folders; `directory` is the caller's wish, and is kept."""
        if os.geteuid() != 0:
            raise LabError("the lab must run as root", hint="Postfix and Dovecot start as root")
        quick_root = next((p for p in _TMPFS if _is_tmpfs(p)), None)
        if quick_root is None:
            raise LabError(
                "there is no tmpfs at /dev/shm or /run",
                hint="mount one: mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
            )
        if directory is None:
            folder, keep = tempfile.mkdtemp(prefix="mailseal-lab-", dir="/tmp"), False
        else:
            folder, keep = _own_folder(directory), True
        os.chmod(folder, 0o711)
        quick = tempfile.mkdtemp(prefix="mailseal-", dir=quick_root)
        os.chmod(quick, 0o711)
        place = cls(folder, quick, keep)
        place._furnish()
        return place

    def within(self, name: str) -> Place:
        """A new place inside this one, for one more server; it goes when this one goes."""
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
        """Remove both folders, or only the tmpfs one when the other is to be kept."""
        shutil.rmtree(self.quick, ignore_errors=True)
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def remember(self, users: dict[str, str]) -> None:
        """Note the users in a kept folder, so that the next lab there has them again."""
        if self.keep:
            with open(self.path(_MARK), "w", opener=_private, encoding="utf-8") as stream:
                json.dump({"users": users}, stream)

    @staticmethod
    def remembered(directory: str) -> dict[str, str]:
        """The users of the lab that was in this folder before; none if there was none."""
        path = os.path.join(directory, _MARK)
        try:
            with open(path, encoding="utf-8") as stream:
                return dict(json.load(stream)["users"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            raise LabError(f"{path} is damaged", hint="use an empty folder") from None

    def copy_code(self) -> str:
        """Copy hooks/, lib/ and what is shipped beside them into the lab; returns that folder."""
        code = self.path("code")
        shutil.rmtree(code, ignore_errors=True)
        _copy_code(code)
        return code


@functools.cache
def readable_code() -> str:
    """A folder with hooks/ and lib/ that every user can read: the checkout, or else a copy.

    For tests that start a hook without a lab.  The copy goes when the tests end.
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
    """Copy the code to where the servers' users can read it.

    A checkout below /root is nothing they can see.  Compiled here, because they
    could not store the result: without, each start of the checkpassword helper
    compiles its modules again.
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
    """Ports on 127.0.0.1 that nothing listens on.

    Below the kernel's range for outgoing connections, so that no client of the
    lab's own takes one before its server does.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as stream:
        first_outgoing = int(stream.read().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10000, max(first_outgoing, 12000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


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
