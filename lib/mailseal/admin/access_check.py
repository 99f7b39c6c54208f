# SPDX-License-Identifier: MIT
"""Checks that the users in the configuration exist and can connect to the sockets they need."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator

from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError


def users(config: Config) -> Iterator[Finding]:
    """Users that do not exist."""
    needed: list[tuple[str, tuple[str, ...]]] = [("delivery.user", (config.delivery.user,))]
    if config.dovecot_is_here:
        needed += [
            ("agent.user", (config.agent.user,)),
            ("agent.login_users", config.agent.login_users),
            ("agent.panel_users", config.agent.panel_users),
            ("agent.admin_users", config.agent.admin_users),
        ]
    for option, names in needed:
        for name in names:
            try:
                user_ids(name, option)
            except ConfigError as exc:
                yield error(str(exc))


def sockets(config: Config) -> Iterator[Finding]:
    """Sockets of Dovecot's that mailseal-lmtp needs, and the agent's that Dovecot needs."""
    owner = config.delivery.user
    needed = [("dovecot.lmtp_socket", config.dovecot.lmtp_socket, owner)]
    if config.delivery.userdb == "dovecot":
        needed.append(("dovecot.userdb_socket", config.dovecot.userdb_socket, owner))
    if config.dovecot_is_here:
        needed += [("agent.socket", config.agent.socket, name) for name in config.agent.login_users]
    if config.dovecot.quota_socket:
        needed.append(("dovecot.quota_socket", config.dovecot.quota_socket, owner))
    missing = set()
    for option, path, user in needed:
        if not path.startswith("/"):
            continue
        if not os.path.exists(path):
            if option not in missing:
                yield warning(f"{option}: {path} does not exist; is the server running?")
            missing.add(option)
        elif _exists(user) and (barrier := _barrier(path, user)):
            yield error(f"{option}: the user {user} has no access to {barrier}")


def _exists(user: str) -> bool:
    try:
        user_ids(user, "")
    except ConfigError:
        return False
    return True


def _barrier(path: str, user: str) -> str | None:
    """The first folder that the user may not enter, or the socket, or None."""
    uid, gid = user_ids(user, "")
    if uid == 0:
        return None
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    real = os.path.realpath(path)
    steps = [real[:end] or "/" for end, letter in enumerate(real) if letter == "/"]
    for step in steps:
        if not _may(os.stat(step), uid, groups, stat.S_IXOTH):
            return step
    # connect(2) wants write permission
    return None if _may(os.stat(real), uid, groups, stat.S_IWOTH) else real


def _may(found: os.stat_result, uid: int, groups: list[int], bit: int) -> bool:
    """As the kernel decides by mode bits: owner, else group, else others."""
    if found.st_uid == uid:
        bit <<= 6
    elif found.st_gid in groups:
        bit <<= 3
    return bool(found.st_mode & bit)
