# SPDX-License-Identifier: MIT
"""Checks that the users in the configuration and the folders for keys exist, that servers listen on
the sockets, and that the users may connect to them."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import AgentUnavailable, ConfigError, NotPermitted, TemporaryError

_TIMEOUT = 5
"""Time limit in seconds to connect to a socket."""

_DATABASE_TIMEOUT = 30
"""The same for a question that the agent asks its database."""


_IF_REFUSED = "correct it as the line says, then run `systemctl restart mailseal-agent`"
_IF_DOWN = "start the database; the messages of the agent: `journalctl -t mailseal-agent -n 20`"

_NAMED = {
    "agent.socket": "agent.login_users",
    "dovecot.anvil_socket": "agent.user",
    "dovecot.auth_socket": "agent.user",
}
"""The option that names who needs a socket, if it is not delivery.user."""


_FILES = {
    "dovecot.lmtp_socket": "lmtp-relay",
    "dovecot.userdb_socket": "mailseal",
    "dovecot.anvil_socket": "mailseal",
}
"""The file of dovecot-conf in which Dovecot's listener is."""


def users(config: Config) -> Iterator[Finding]:
    """Findings about users that do not exist."""
    needed: list[tuple[str, tuple[str, ...]]] = [("delivery.user", (config.delivery.user,))]
    if config.dovecot_is_here:
        needed += [
            ("agent.user", (config.agent.user,)),
            ("agent.login_users", config.agent.login_users),
            ("agent.panel_users", config.agent.panel_users),
            ("agent.admin_users", config.agent.admin_users),
        ]
    if config.web.listen:
        needed.append(("web.user", (config.web.user,)))
        if config.web.user not in config.agent.panel_users:
            yield error(f"web.user: {config.web.user} is not in agent.panel_users")
    for option, names in needed:
        for name in names:
            try:
                user_ids(name, option)
            except ConfigError as exc:
                yield error(str(exc))


def store(config: Config) -> Iterator[Finding]:
    """Whether there is a store for keys: the agent does not start without one."""
    from mailseal.keys import lease, opening
    from mailseal.login import startup

    if config.keys.store != opening.FILES:
        of_copy = lease.Lease(config.public_dir)
        try:
            if of_copy.expired(of_copy.until()):
                yield warning(f"the copy of the public keys is not current: {lease.HINT}")
        except TemporaryError as exc:
            yield error(f"{exc}; {exc.hint}")
    # Only root and agent.user may read it.
    if not config.dovecot_is_here or os.geteuid() != 0:
        return
    if config.keys.store != opening.FILES:
        yield from _database(config)
    try:
        startup.require_store(config)
    except TemporaryError as exc:
        yield error(f"{exc}; {exc.hint}")


def _database(config: Config) -> Iterator[Finding]:
    """What is wrong with the database.  The agent is asked, which is another user than root."""
    from mailseal.login.client import AgentClient

    try:
        with AgentClient(config.agent.socket, _DATABASE_TIMEOUT) as agent:
            answer = agent.request("hosts")
    except (AgentUnavailable, NotPermitted) as exc:
        if exc.hint is None:  # otherwise there is no agent, or no access to it: see sockets()
            yield error(f"mailseal-agent: {exc}: does the database answer?", _IF_DOWN)
        return
    if answer.status == "error":
        hint = answer.text("hint")
        text = "; ".join(filter(None, (answer.text("message"), hint)))
        yield error(f"mailseal-agent: {text}", _IF_REFUSED if hint else _IF_DOWN)


def public_files(config: Config) -> Iterator[Finding]:
    """Whatever is no file among the public keys: Dovecot's Lua script would wait for a FIFO."""
    if not config.dovecot_is_here or os.geteuid() != 0:
        return
    marks = os.path.join(config.public_dir, "enrolled")
    for folder in (config.public_dir, marks):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.path != marks and not entry.is_file(follow_symlinks=False):
                    yield error(
                        f"{entry.path} is not a file: lookups of this user could wait for ever; "
                        "remove it, then run `mailseal repair USER`"
                    )


def sockets(config: Config) -> Iterator[Finding]:
    """Dovecot's sockets that mailseal-lmtp needs, and the agent's socket that Dovecot needs."""
    owner = config.delivery.user
    needed = [("dovecot.lmtp_socket", config.dovecot.lmtp_socket, owner)]
    if config.delivery.userdb == "dovecot":
        needed.append(("dovecot.userdb_socket", config.dovecot.userdb_socket, owner))
    if config.dovecot_is_here:
        needed += [("agent.socket", config.agent.socket, name) for name in config.agent.login_users]
    if config.index.folder is not None and config.dovecot_is_here:
        needed.append(("dovecot.anvil_socket", config.dovecot.anvil_socket, config.agent.user))
    if config.dovecot.quota_socket:
        needed.append(("dovecot.quota_socket", config.dovecot.quota_socket, owner))
    if config.web.listen:
        needed.append(("dovecot.auth_socket", config.dovecot.auth_socket, config.agent.user))
    silent = set()
    for option, path, user in needed:
        if not path.startswith("/") or option in silent:
            continue
        if why := _nobody_listens(path):
            server = "mailseal-agent" if option == "agent.socket" else "dovecot"
            yield warning(
                f"{option}: {why}; see `systemctl status {server}`", _start(config, option)
            )
            silent.add(option)
        elif _exists(user) and (closed := barrier(path, user)):
            named = _NAMED.get(option, "delivery.user")
            yield error(
                f"{option}: the user {user} ({named}) has no access to {closed}",
                _opening(option, closed, user) if closed == os.path.realpath(path) else "",
            )


def _start(config: Config, option: str) -> str:
    """A remedy for a socket on which nobody listens."""
    from mailseal.login import startup

    if option == "agent.socket":
        return "run `systemctl restart mailseal-agent`"
    if option not in _FILES:
        return "see Quota in docs/install.md; then run `systemctl restart dovecot`"
    line = shipped.include(startup.dovecot_version(config), _FILES[option])
    return f"is Dovecot running? If so, {shipped.put(line)}"


def _opening(option: str, path: str, user: str) -> str:
    """A remedy for a socket whose owner or mode is wrong."""
    if option == "agent.socket":
        return f"put {user} into agent.login_users, then run `systemctl restart mailseal-agent`"
    name = os.path.basename(path)
    return (
        f"run `chown {user} {path}`; to keep it so, set `user = {user}` and `mode = 0600` in the "
        f"unix_listener {name} of Dovecot's configuration"
    )


def _nobody_listens(path: str) -> str | None:
    """Why no server can be reached; None if one can, or if this is unknown.

    A killed server leaves its socket.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.connect(path)
        except FileNotFoundError:
            return f"{path} does not exist"
        except ConnectionRefusedError:
            return f"no server listens on {path}"
        except OSError:
            return None
    return None


def _exists(user: str) -> bool:
    try:
        user_ids(user, "")
    except ConfigError:
        return False
    return True


def barrier(path: str, user: str) -> str | None:
    """The first folder that the user may not enter, or the socket, or None."""
    uid, gid = user_ids(user, "")
    if uid == 0:
        return None
    groups = _groups(uid, gid)
    real = os.path.realpath(path)
    steps = [real[:end] or "/" for end, letter in enumerate(real) if letter == "/"]
    for step in steps:
        if not _may(os.stat(step), uid, groups, stat.S_IXOTH):
            return step
    # connect(2) needs write permission
    return None if _may(os.stat(real), uid, groups, stat.S_IWOTH) else real


def may_write(folder: str, uid: int) -> bool:
    """Whether a user may make files in a folder, if the folders above are open."""
    groups = _groups(*user_ids(str(uid), ""))
    return uid == 0 or _may(os.stat(folder), uid, groups, stat.S_IWOTH)


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _may(found: os.stat_result, uid: int, groups: list[int], bit: int) -> bool:
    """Permissions by mode bits, as in the kernel: owner, else group, else others."""
    if found.st_uid == uid:
        bit <<= 6
    elif found.st_gid in groups:
        bit <<= 3
    return bool(found.st_mode & bit)
