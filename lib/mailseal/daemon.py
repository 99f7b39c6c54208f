# SPDX-License-Identifier: MIT
"""The start of both daemons: look up users, open the log, drop root privileges, notify systemd.

FAILURES
    user_ids() and group_id() raise ConfigError with the name of the option; open_log(): see
    logs.py.  drop_root() raises OSError if the kernel refuses.  notify() never fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import socket

from mailseal.config import Config
from mailseal.errors import EX_TEMPFAIL, ConfigError
from mailseal.logs import Ids, Log

_PR_SET_PDEATHSIG = 1


def user_ids(name: str, option: str) -> Ids:
    """uid and gid of a user, given by name or uid.  A uid without an entry is also its gid."""
    try:
        if name.isdecimal():
            with contextlib.suppress(KeyError):
                return int(name), pwd.getpwuid(int(name)).pw_gid
            return int(name), int(name)
        entry = pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise ConfigError(f"option {option}: there is no user {name}") from None
    return entry.pw_uid, entry.pw_gid


def group_id(name: str, option: str, *, hint: str | None = None) -> int:
    """gid of a group, given by name or gid."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"option {option}: there is no group {name}", hint=hint) from None


def open_log(config: Config, program: str, user: Ids | None) -> Log:
    """Open the log for a program that will become `user`; None: it does not change its user."""
    uid, gid = user or (os.geteuid(), os.getegid())
    with contextlib.suppress(ConfigError):
        uid = user_ids(config.agent.user, "agent.user")[0]
    with contextlib.suppress(ConfigError):
        gid = user_ids(config.delivery.user, "delivery.user")[1]
    return Log(config.log.to, program, user=user, owner=(uid, gid))


def drop_root(uid: int, gid: int) -> None:
    """Become this user, with the user's groups and none of root's."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        os.setgroups([])
    else:
        os.initgroups(name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def end_with(parent: int, number: int) -> None:
    """Have this signal sent to this process when its parent ends, however that ends.

    To be called after drop_root(), which resets it.  Exits if the parent has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EX_TEMPFAIL)


def notify(address: str | None, text: str) -> None:
    """Notify systemd (sd_notify(3)), if `address` (NOTIFY_SOCKET) is set."""
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect("\0" + address[1:] if address.startswith("@") else address)
        systemd.send(text.encode())
