# SPDX-License-Identifier: MIT
"""Listening sockets and privileges of the LMTP daemon.

Sockets are bound first, with the rights the daemon was started with, then it
becomes delivery.user for good.  FAILURES: ConfigError for what the
configuration asks in vain, with the address; OSError for the rest.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence

from mailseal import sockets
from mailseal.config import Config, socket_address
from mailseal.daemon import drop_root, user_ids
from mailseal.errors import ConfigError

_BACKLOG = 512
_FIRST_INHERITED = 3


def hostname(config: Config) -> str:
    """The name for greetings and Received lines."""
    name = config.delivery.hostname
    return name or socket.gethostname()


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets systemd hands over (sd_listen_fds(3)); none if it did not start us."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0") or "0")
    found = []
    for fd in range(_FIRST_INHERITED, _FIRST_INHERITED + count):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append(sock)
    return found


def open_all(config: Config) -> list[socket.socket]:
    """Bind everything in delivery.listen."""
    return reopen(config, (), ())


def reopen(
    new: Config, names: Sequence[str], opened: Sequence[socket.socket]
) -> list[socket.socket]:
    """The sockets for `new`: those of `names` that stay, and new ones.  All or nothing."""
    have = dict(zip(names, opened, strict=True))
    made: dict[str, socket.socket] = {}
    try:
        for name in new.delivery.listen:
            if name not in have:
                made[name] = _open(name, new)
    except BaseException:
        close_all(made)
        raise
    close_all({name: sock for name, sock in have.items() if name not in new.delivery.listen})
    return [have.get(name) or made[name] for name in new.delivery.listen]


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
            _, group = user_ids(config.delivery.user, "delivery.user")
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
