# SPDX-License-Identifier: MIT
"""Listening sockets and privileges of the LMTP daemon.

Sockets are bound first, with the privileges with which the daemon was started.  Then the
daemon becomes delivery.user permanently.  FAILURES: ConfigError, with the address, if the
configuration cannot be used; otherwise OSError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping

from mailseal import sockets
from mailseal.config import Config, socket_address
from mailseal.daemon import drop_root, group_id, user_ids
from mailseal.errors import ConfigError

_BACKLOG = 512
_FIRST_INHERITED = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """Sockets, and the number of workers that serve them together."""

    workers: int
    sockets: list[socket.socket]


def hostname(config: Config) -> str:
    """The host name for greetings and Received headers."""
    name = config.delivery.hostname
    return name or socket.gethostname()


def inherited(environ: Mapping[str, str]) -> dict[str, socket.socket]:
    """The sockets from systemd (sd_listen_fds(3)), by name; none if systemd passes none."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environ.get("LISTEN_FDS", "0") or "0")
    found = {}
    for fd in range(_FIRST_INHERITED, _FIRST_INHERITED + count):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        name = sock.getsockname()
        found[name if isinstance(name, str) else f"descriptor {fd}"] = sock
    return found


def names(config: Config) -> tuple[str, ...]:
    """All addresses to listen on."""
    extra = config.delivery.deliver_socket
    return (*config.delivery.listen, *([extra] if extra else []))


def open_all(config: Config) -> dict[str, socket.socket]:
    """Bind all sockets in names()."""
    return reopen(config, {})


def reopen(new: Config, have: Mapping[str, socket.socket]) -> dict[str, socket.socket]:
    """The sockets for `new`: those of `have` that are still needed, and new ones; or an error."""
    made: dict[str, socket.socket] = {}
    try:
        for name in names(new):
            if name not in have:
                made[name] = _open(name, new)
    except BaseException:
        close_all(made)
        raise
    close_all({name: sock for name, sock in have.items() if name not in names(new)})
    return {name: have.get(name) or made[name] for name in names(new)}


def doors(config: Config, opened: Mapping[str, socket.socket]) -> dict[str, Door]:
    """Which workers serve which sockets.

    The socket for local users has its own process, with its own memory, connections and
    threads, so that local users cannot delay Postfix's mail.
    """
    local = config.delivery.deliver_socket
    postfix = [sock for name, sock in opened.items() if name != local]
    found = {"postfix": Door(config.delivery.workers, postfix)}
    if local is not None and local in opened:
        found["deliver"] = Door(1, [opened[local]])
    return found


def trusted_uids(config: Config) -> frozenset[int]:
    """The uids that may send the queue id for the log: Postfix, root and delivery.user."""
    found = {0, user_ids(config.delivery.user, "delivery.user")[0]}
    if any(name.startswith("/") for name in config.delivery.listen):
        found.add(user_ids(config.delivery.postfix_user, "delivery.postfix_user")[0])
    return frozenset(found)


def close_all(opened: Mapping[str, socket.socket]) -> None:
    """Close sockets, and remove the names of unix sockets."""
    for name, sock in opened.items():
        sock.close()
        if name.startswith("/"):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _open(name: str, config: Config) -> socket.socket:
    address = socket_address(name)
    try:
        if isinstance(address, str):
            group: int | None
            if name == config.delivery.deliver_socket:
                group = user_ids(config.delivery.user, "delivery.user")[1]
                mode = config.delivery.deliver_socket_mode
            else:
                group = _postfix_group(config)
                mode = config.delivery.socket_mode
            sock = sockets.listen(address, mode=mode, group=group, backlog=_BACKLOG)
            sock.setblocking(False)
            return sock
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        sock = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {name}: {exc.strerror}") from None
    sock.setblocking(False)
    return sock


def _postfix_group(config: Config) -> int | None:
    if os.geteuid() != 0:
        return None  # only root can set a group
    return group_id(
        config.delivery.socket_group,
        "delivery.socket_group",
        hint="set it to the group of Postfix's mail_owner: postconf -h mail_owner",
    )


def become(user: str) -> None:
    """Become this user permanently.  Raises ConfigError if this is impossible."""
    uid, gid = user_ids(user, "delivery.user")
    if os.geteuid() == uid:
        return
    if os.geteuid() != 0:
        raise ConfigError(f"started as uid {os.geteuid()}, but delivery.user is {user}")
    if uid == 0:
        raise ConfigError("delivery.user must not be root")
    drop_root(uid, gid)
