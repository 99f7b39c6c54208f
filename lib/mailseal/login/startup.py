# SPDX-License-Identifier: MIT
"""What stands before the agent serves: its folders, its lock, its socket.

CONTRACT
    init() makes the folders of keyrings and public keys.  The agent itself never
    does: a state_dir whose file system is not mounted looks like a new one, and
    with a new one nobody is enrolled and mail would go in clear.
    listen() gives one socket to one agent.  Root names no file here that
    another user could have put in its place: modes and groups are given when a
    file is made, the lock is opened without following links.

FAILURES
    ConfigError: not initialised, or a folder above is missing.  TemporaryError:
    another agent is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator

from mailseal import durable
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError, TemporaryError
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore


def init(config: Config) -> str:
    """Make what is missing of the store.  Returns its folder.  Needs root, or to be agent.user."""
    uid, gid = user_ids(config.agent.user, "agent.user")
    owner = (uid, gid) if os.geteuid() == 0 else None
    state = config.state_dir
    if not os.path.isdir(os.path.dirname(state)):
        raise ConfigError(f"option state_dir: {os.path.dirname(state)} is not there")
    durable.make_folder(state, mode=0o711)
    Keystore(config.keys_dir).prepare(owner)
    PublicStore(config.public_dir).prepare(owner)
    return state


def require_store(config: Config) -> None:
    """Raise ConfigError unless init() was here."""
    if not PublicStore(config.public_dir).is_ready() or not os.path.isdir(config.keys_dir):
        raise ConfigError(
            f"option state_dir: {config.state_dir} is not a store of keys",
            hint="is its file system mounted? for a new installation, run `mailseal init`",
        )


def listen(config: Config, login_group: int | None) -> tuple[socket.socket, int]:
    """The listening socket, and the lock that keeps a second agent away.

    `login_group` is the group of those who may log users in: with mode 0660 they
    can connect and the rest of the machine cannot.
    """
    path = config.agent.socket
    folder = os.path.dirname(path)
    if not os.path.isdir(os.path.dirname(folder)):
        raise ConfigError(f"option agent.socket: {os.path.dirname(folder)} is not there")
    durable.make_folder(folder, mode=0o755)
    with durable.reporting(f"cannot listen on {path}"):
        lock = _lock(f"{path}.lock", path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _made_with(0o777 & ~config.agent.socket_mode, login_group):
            listener.bind(path)
        listener.listen(1024)
    return listener, lock


def _lock(name: str, path: str) -> int:
    lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise TemporaryError(f"another mailseal-agent listens on {path}") from None
        raise
    return lock


@contextlib.contextmanager
def _made_with(umask: int, group: int | None) -> Iterator[None]:
    """Give what is made in the block this umask and group, without naming it again."""
    old_umask, old_group = os.umask(umask), os.getegid()
    try:
        if group is not None and os.geteuid() == 0:
            os.setegid(group)
        yield
    finally:
        os.setegid(old_group)
        os.umask(old_umask)
