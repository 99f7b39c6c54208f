# SPDX-License-Identifier: MIT
"""mailseal-checkpassword: what Dovecot 2.3's checkpassword passdb and userdb run.

SYNOPSIS
    mailseal-checkpassword [--socket PATH] [--behind-passdb] REPLY-PROGRAM

DESCRIPTION
    Dovecot writes `user NUL password NUL timestamp NUL` to descriptor 3 and reads the
    answer from descriptor 4: fields separated by TAB, with TAB, LF, CR, NUL
    and 0x01 in them written as 0x01 and a letter (Dovecot: strescape.c).  The
    REPLY-PROGRAM that Dovecot appends is not run: it would add a uid and gid
    of its own, which break a prefetch userdb.
    With AUTHORIZED in the environment there is no password: Dovecot wants
    the user's fields for a delivery, and gets the public key only.

    --behind-passdb says that another passdb has checked the password before
    (`result_success = continue-ok` there).  A user who is not enrolled then
    logs in without a key, and a password that the keyring does not know is
    no wrong password: the agent's option login.stale_password decides.

DIAGNOSTICS (exit status)
    0    the password is right        1    it is wrong, or there is no such user
    2    fields for AUTHORIZED        3    AUTHORIZED, and the user is not enrolled
    111  temporary failure: anything else, whatever it is

The password comes by descriptor and goes by socket; it is never in the
arguments, the environment or a message.
"""

from __future__ import annotations

import os
import sys

from mailseal.errors import MailsealError, UsageError
from mailseal.login.client import DEFAULT_SOCKET, AgentClient, Reply

OK, WRONG, LOOKED_UP, UNKNOWN, TEMPORARY = 0, 1, 2, 3, 111

# Dovecot sends 512 bytes at most (CHECKPASSWORD_MAX_REQUEST_LEN).
_MAX_INPUT = 65536
_TIMEOUT = 60.0
# For a user without keys.  An empty answer would be a failure; a userdb_ field lets the
# prefetch userdb answer, which saves the start of a second helper (20 ms) for the lookup.
_NO_KEY = b"userdb_mail_crypt_save_version=0\t"
_ESCAPES = str.maketrans(
    {"\1": "\1" + "1", "\t": "\1t", "\n": "\1n", "\r": "\1r", "\0": "\1" + "0"}
)


def main(argv: list[str], environ: dict[str, str], *, input_fd: int = 3, output_fd: int = 4) -> int:
    """Answer one request of Dovecot's; returns the exit status."""
    try:
        socket_path, behind = _arguments(argv[1:])
        user, password = _read_request(input_fd)
        with AgentClient(socket_path, _TIMEOUT) as agent:
            if "AUTHORIZED" in environ:
                return _lookup(agent, user, environ, output_fd)
            return _login(agent, user, password, environ, behind, output_fd)
    except MailsealError as exc:
        return _temporary(str(exc))


def _arguments(words: list[str]) -> tuple[str, bool]:
    path, behind = DEFAULT_SOCKET, False
    while words and words[0].startswith("--"):
        option = words.pop(0)
        if option == "--behind-passdb":
            behind = True
        elif option == "--socket" and words:
            path = words.pop(0)
        else:
            raise UsageError("usage: mailseal-checkpassword [--socket PATH] [--behind-passdb]")
    return path, behind


def _read_request(fd: int) -> tuple[bytes, bytes]:
    """User and password.  Raises UsageError for anything but Dovecot's three fields."""
    data = b""
    try:
        while chunk := os.read(fd, 4096):
            data += chunk
            if len(data) > _MAX_INPUT:
                raise UsageError("too much on descriptor 3")
    except OSError:
        raise UsageError("descriptor 3 cannot be read: not started by Dovecot?") from None
    parts = data.split(b"\0")
    if len(parts) != 4 or parts[3]:
        raise UsageError("descriptor 3 does not hold user, password and timestamp")
    return parts[0], parts[1]


def _login(
    agent: AgentClient,
    user: bytes,
    password: bytes,
    environ: dict[str, str],
    behind: bool,
    output_fd: int,
) -> int:
    fields = {"user": user, "password": password, **_circumstances(environ)}
    if behind:
        fields["behind"] = b"1"
    reply = agent.request("unlock", **fields)
    if reply.status == "ok":
        # Behind another passdb the name is its matter: a userdb may tell case apart.
        _answer(output_fd, reply, with_user=not behind)
        return OK
    if reply.status == "unknown" and behind:
        os.write(output_fd, _NO_KEY)
        return OK
    if reply.status == "wrong":
        return WRONG
    return _temporary(_reason(reply))


def _circumstances(environ: dict[str, str]) -> dict[str, bytes]:
    """For the agent's log, and to tell a master user, and a password from a token."""
    names = {
        "service": "SERVICE",
        "remote": "TCPREMOTEIP",
        "master": "MASTER_USER",
        "mechanism": "AUTH_MECH",
    }
    return {
        name: os.fsencode(environ[variable])
        for name, variable in names.items()
        if environ.get(variable)
    }


def _lookup(agent: AgentClient, user: bytes, environ: dict[str, str], output_fd: int) -> int:
    reply = agent.request("lookup", user=user, **_circumstances(environ))
    if reply.status == "ok":
        _answer(output_fd, reply, with_user=False)
        return LOOKED_UP
    if reply.status == "unknown":
        return UNKNOWN
    return _temporary(_reason(reply))


def _answer(fd: int, reply: Reply, *, with_user: bool) -> None:
    """Write Dovecot's fields in one go.  32 KB fit into the pipe; Dovecot reads all the while."""
    parts = []
    for name in reply.fields:
        value = reply.text(name).translate(_ESCAPES)
        if name != "user":
            parts.append(f"userdb_{name}={value}")
        elif with_user:
            parts.append(f"user={value}")
    data = "\t".join(parts or [""]).encode() + b"\t"
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        raise UsageError("descriptor 4 cannot be written: not started by Dovecot?") from None


def _reason(reply: Reply) -> str:
    if reply.status == "denied":
        return "the key agent does not answer this user id: see agent.login_users"
    return reply.text("reason") or reply.text("message") or f"the key agent says {reply.status}"


def _temporary(reason: str) -> int:
    # Dovecot's auth process puts standard error into its own log.
    sys.stderr.write(f"mailseal-checkpassword: {reason}\n")
    return TEMPORARY
