# SPDX-License-Identifier: MIT
"""The agent's start: its folders, its lock, its socket.

CONTRACT
    init() makes the folders of keyrings and public keys.  The agent never makes them:
    if the file system of state_dir is not mounted, new folders would mean that nobody is
    enrolled, and mail would be stored in clear.
    listen() ensures that only one agent uses a socket.  Root does not follow
    names that another user could change: see paths.py and sockets.py.

FAILURES
    ConfigError: a parent folder is missing or not safe.  TemporaryError: not
    initialised, not mounted, or another agent is running.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailseal import durable, sockets
from mailseal.config import Config
from mailseal.crypto.eckeys import PublicKey
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError, Damaged, MailsealError, StoreUnreachable, TemporaryError
from mailseal.keys import opening
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.login.local_keys import ENROLL_MARK
from mailseal.login.notes import Notes
from mailseal.paths import open_folder
from mailseal.sockets import made_with

if TYPE_CHECKING:
    from mailseal.keys.sql.database import Database

BACKLOG = 16
"""Connections that wait until the agent accepts them; clients over this number try again for a
second (client.py, key_agent.lua).  If the agent hangs, each connection that waits holds one of
Dovecot's 100 auth workers, beside agent.parallel + agent.queue logins that it had accepted."""


def init(config: Config) -> str:
    """Make the missing folders.  Returns the folder of the store.  Run it as root or agent.user."""
    uid, gid = user_ids(config.agent.user, "agent.user")
    owner = (uid, gid) if os.geteuid() == 0 else None
    state = config.state_dir
    if not os.path.isdir(os.path.dirname(state)):
        raise ConfigError(f"option state_dir: {os.path.dirname(state)} does not exist")
    durable.make_folder(state, mode=0o711)
    if config.keys.store == opening.FILES:
        Keystore(config.keys_dir).prepare(owner)
        PublicStore(config.public_dir).prepare(owner)
    else:
        uid, gid = user_ids(config.replica.user, "replica.user")
        owner = (uid, gid) if os.geteuid() == 0 else None
        PublicStore(config.public_dir).prepare(owner, replica=True)
        uid, gid = user_ids(config.agent.user, "agent.user")
    if config.index.folder is not None:
        _prepare_index(config.index.folder, config, uid, root=owner is not None)
    return state


def _prepare_index(path: str, config: Config, uid: int, *, root: bool) -> None:
    """The folder of the index folders; it may be the mount point of a separate file system.

    What is made in it gets the group of the mail (setgid): Dovecot gives files the group that their
    folder has, and can do that with a group of its own only.
    """
    durable.make_folder(path, mode=0o711)
    if not root:
        return
    with open_folder(path) as folder, durable.reporting(f"cannot prepare {path}"):
        if os.fstat(folder.fd).st_uid in (0, uid):
            os.chown(folder.entry("."), uid, user_ids(config.delivery.user, "delivery.user")[1])
            os.chmod(folder.entry("."), 0o2711)  # noqa: S103 - the folders inside have mode 0700


def require_store(config: Config) -> None:
    """Raise TemporaryError if there is no store: its file system may be mounted later."""
    if config.keys.store != opening.FILES:
        return  # the tables are looked at when the database is reached
    if not PublicStore(config.public_dir).is_ready() or not os.path.isdir(config.keys_dir):
        raise TemporaryError(
            f"option state_dir: {config.state_dir} is not a store of keys",
            hint="is its file system mounted? for a new installation, run `mailseal init`",
        )


def reach(database: Database, log: logging.Logger) -> None:
    """Connect to the database.  If it is down, the agent starts nevertheless: until the database
    answers, its own answers are temporary failures.

    Raises TemporaryError if the database has no tables, or others than this version needs.
    """
    try:
        database.connection()
    except StoreUnreachable as exc:
        tell_unreachable(log, exc, "%s; until it answers, logins and changes fail temporarily")


def tell_unreachable(log: logging.Logger, exc: MailsealError, sentence: str) -> None:
    """Log that the database cannot be used: `sentence` with %s for the reason.

    If there is a hint, it does not end by itself.
    """
    level = logging.ERROR if exc.hint else logging.WARNING
    log.log(level, sentence, f"{exc} ({exc.hint})" if exc.hint else exc)


def notes(config: Config, owner: tuple[int, int]) -> Notes:
    """The agent's notes.  Their folder is made if it is missing: nothing depends on what is in it.

    The store is there, as require_store() has seen, so state_dir is the right one.
    """
    made = Notes(config.notes_dir)
    with contextlib.suppress(MailsealError, OSError):
        made.prepare(owner if os.geteuid() == 0 else None)
    return made


def tell_enrollment(config: Config) -> None:
    """Tell mailseal.lua and the checkpassword program whether logins can enroll users.

    They read the folder of public keys but no configuration.  Without this mark they do not ask
    the agent about users who are not enrolled.
    """
    path = os.path.join(config.public_dir, ENROLL_MARK)
    # mailseal-replica calls this if the keys are in a database: then the folder is its own.
    if config.login.enroll == "at-login":
        durable.replace(path, b"", mode=0o644)
    else:
        durable.remove(path)


def lock(config: Config) -> int:
    """The lock against a second agent with this socket.  Makes the folder of the socket."""
    path = config.agent.socket
    folder = os.path.dirname(path)
    with (
        open_folder(os.path.dirname(folder)) as above,
        made_with(0o022, None),
        contextlib.suppress(FileExistsError),
    ):
        os.mkdir(os.path.basename(folder), 0o755, dir_fd=above.fd)
    with durable.reporting(f"cannot listen on {path}"):
        return _lock(path)


def listen(
    config: Config, login_group: int | None, panel_uids: Iterable[int] = ()
) -> socket.socket:
    """The listening socket.  To be called with the lock.

    With mode 0660, `login_group` (Dovecot) can connect.  `panel_uids` can connect because of
    an ACL for each.  All other users cannot.
    """
    path, mode = config.agent.socket, config.agent.socket_mode
    with durable.reporting(f"cannot listen on {path}"):
        return sockets.listen(path, mode=mode, group=login_group, backlog=BACKLOG, users=panel_uids)


def _lock(path: str) -> int:
    name = os.path.basename(path) + ".lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open_folder(os.path.dirname(path)) as folder:
        fd = os.open(name, flags, 0o600, dir_fd=folder.fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise TemporaryError(f"another mailseal-agent listens on {path}") from None
        raise
    return fd


def dovecot_version(config: Config) -> str:
    """ "2.3" or "2.4": from the configuration, or from `dovecot --version`."""
    configured = config.dovecot.version
    return installed_version() if configured == "auto" else configured


def installed_version() -> str:
    """The version of the Dovecot on this host.  Raises ConfigError."""
    hint = "set dovecot.version to 2.3 or 2.4"
    import subprocess

    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    try:
        said = subprocess.run(
            ["dovecot", "--version"],
            capture_output=True,
            timeout=10,
            check=True,
            env={"PATH": path},
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        raise ConfigError("cannot run `dovecot --version`", hint=hint) from None
    for version in ("2.3", "2.4"):
        if said.startswith(f"{version}."):
            return version
    raise ConfigError(f"dovecot {said.strip()[:40]} is neither 2.3 nor 2.4", hint=hint)


def escrow_key(config: Config) -> PublicKey | None:
    """The organisation's public key, if it is configured.  Raises ConfigError."""
    path = config.keys.escrow
    if path is None:
        return None
    try:
        with open(path, encoding="ascii") as stream:
            return PublicKey.parse(stream.read(65536))
    except OSError as exc:
        raise ConfigError(f"option keys.escrow: cannot read {path}: {exc.strerror}") from None
    except (Damaged, ValueError):
        raise ConfigError(
            f"option keys.escrow: {path} contains no public key of a supported kind"
        ) from None
