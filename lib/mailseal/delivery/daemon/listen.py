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
    """Sockets that so many worker processes serve together."""

    workers: int
    sockets: list[socket.socket]


def hostname(config: Config) -> str:
    """The name for greetings and Received lines."""
    name = config.delivery.hostname
    return name or socket.gethostname()


def inherited(environ: Mapping[str, str]) -> dict[str, socket.socket]:
    """The sockets systemd hands over (sd_listen_fds(3)), by name; none if it did not start us."""
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
    """Everything to listen on."""
    extra = config.delivery.deliver_socket
    return (*config.delivery.listen, *([extra] if extra else []))


def open_all(config: Config) -> dict[str, socket.socket]:
    """Bind everything there is in names()."""
    return reopen(config, {})


def reopen(new: Config, have: Mapping[str, socket.socket]) -> dict[str, socket.socket]:
    """The sockets for `new`: those of `have` that stay, and new ones.  All or nothing."""
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
    """Who serves which sockets.

    What local users hand over has a process of its own, with its own memory, connections
    and threads: whatever they do, Postfix's mail does not wait for it.
    """
    local = config.delivery.deliver_socket
    postfix = [sock for name, sock in opened.items() if name != local]
    found = {"postfix": Door(config.delivery.workers, postfix)}
    if local is not None and local in opened:
        found["deliver"] = Door(1, [opened[local]])
    return found


def trusted_uids(config: Config) -> frozenset[int]:
    """Who may name the queue id for the log: Postfix, root and delivery.user."""
    found = {0, user_ids(config.delivery.user, "delivery.user")[0]}
    if any(name.startswith("/") for name in config.delivery.listen):
        found.add(user_ids(config.delivery.postfix_user, "delivery.postfix_user")[0])
    return frozenset(found)


def close_all(opened: Mapping[str, socket.socket]) -> None:
    """Close, and take the names of unix sockets away."""
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
        return None  # only root can give a group
    return group_id(
        config.delivery.socket_group,
        "delivery.socket_group",
        hint="set it to the group of Postfix's mail_owner: postconf -h mail_owner",
    )


def become(user: str) -> None:
    """Be that user from here on.  Raises ConfigError if that cannot be."""
    uid, gid = user_ids(user, "delivery.user")
    if os.geteuid() == uid:
        return
    if os.geteuid() != 0:
        raise ConfigError(f"started as uid {os.geteuid()}, but delivery.user is {user}")
    if uid == 0:
        raise ConfigError("delivery.user must not be root")
    drop_root(uid, gid)
