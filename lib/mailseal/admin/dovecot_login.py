# SPDX-License-Identifier: MIT
"""Asking Dovecot whether a password is right, as Dovecot's own login processes ask.

CONTRACT
    check() returns if Dovecot lets this user log in to IMAP with this password.  The
    password goes over Dovecot's auth-client socket, never into arguments: `doveadm auth
    test` would show it to every user of the machine.

WIRE (auth client protocol, version 1; text lines, fields parted by TAB)
    -> VERSION 1 2, CPID pid
    <- VERSION 1 n, MECH ..., DONE
    -> AUTH 1 PLAIN service=imap secured no-penalty resp=BASE64
    <- OK 1 user=name ...  |  FAIL 1 [user=...] [temp] [code=...] [reason=...]

FAILURES
    WrongPassword, or NoSuchUser where Dovecot's userdb knows no such user.  TemporaryError:
    Dovecot does not run, does not answer, or cannot tell.  NotPermitted: this uid may
    not ask.  UsageError: Dovecot calls this user by another name.
"""

from __future__ import annotations

import base64
import os

from mailseal.config import Config
from mailseal.delivery.dovecot.lines import Broken, Lines, NotThere
from mailseal.delivery.dovecot.userdb import DovecotUserdb, unescape
from mailseal.errors import (
    BadUserName,
    MailsealError,
    NoSuchUser,
    NotPermitted,
    TemporaryError,
    UsageError,
    WrongPassword,
)
from mailseal.keys.names import normalise

_MAX_ANSWER = 1 << 18
_UNCHECKED = "--unchecked enrolls without asking Dovecot"


def check(config: Config, user: str, password: bytes) -> None:
    """See the module's contract.  `user` is as normalise() returns it."""
    path = config.dovecot.auth_socket
    if not os.access(path, os.W_OK) and os.path.exists(path):
        raise NotPermitted(f"uid {os.getuid()} may not ask Dovecot at {path}", hint=_UNCHECKED)
    try:
        answer, fields = _ask(path, float(config.dovecot.timeout), user, password)
    except NotThere as exc:
        raise TemporaryError(
            f"cannot ask Dovecot whether the password is right: {path}: {exc}",
            hint=f"is Dovecot running? else see dovecot.auth_socket; {_UNCHECKED}",
        ) from None
    except Broken as exc:
        raise TemporaryError(f"asking Dovecot at {path} failed: {exc}", hint=_UNCHECKED) from None
    if answer == "OK":
        _same_user(user, fields.get("user", user))
        return
    if "temp" in fields or fields.get("code") == "temp_fail":
        raise TemporaryError(
            f"Dovecot cannot tell whether the password of {user} is right; its log says why",
            hint=_UNCHECKED,
        )
    raise _refusal(config, user, fields.get("reason", ""))


def _ask(path: str, timeout: float, user: str, password: bytes) -> tuple[str, dict[str, str]]:
    response = base64.b64encode(b"\0" + user.encode() + b"\0" + password).decode()
    peer = Lines(path, timeout, _MAX_ANSWER)
    try:
        peer.send(f"VERSION\t1\t2\nCPID\t{os.getpid()}\n".encode())
        while (line := _words(peer)) != ["DONE"]:
            if line[:1] == ["VERSION"] and line[1:2] != ["1"]:
                raise TemporaryError("Dovecot's auth speaks another protocol version")
        peer.send(f"AUTH\t1\tPLAIN\tservice=imap\tsecured\tno-penalty\tresp={response}\n".encode())
        while (line := _words(peer))[:2] not in (["OK", "1"], ["FAIL", "1"]):
            if line[:1] == ["CONT"]:
                raise TemporaryError("Dovecot's auth asks for more than PLAIN has")
        pairs = (field.partition("=") for field in line[2:])
        return line[0], {name: unescape(value) for name, _, value in pairs}
    finally:
        peer.close()


def _words(peer: Lines) -> list[str]:
    return peer.line().decode("utf-8", "replace").split("\t")


def _same_user(asked: str, named: str) -> None:
    """A keyring under another name than Dovecot's would seal nothing and open nothing."""
    try:
        found = normalise(named)
    except BadUserName:
        found = named
    if found != asked:
        raise UsageError(
            f"the password is right, but Dovecot calls {asked} by the name {found}",
            hint=f"run `mailseal enroll {found}`",
        )


def _refusal(config: Config, user: str, reason: str) -> MailsealError:
    """The password is wrong, or there is no such user: the userdb tells."""
    try:
        known = DovecotUserdb(config).lookup(user) is not None
    except TemporaryError:
        return WrongPassword(f"Dovecot refuses {user} with this password", hint=reason or None)
    if not known:
        return NoSuchUser(f"Dovecot knows no user {user}")
    return WrongPassword(f"Dovecot refuses this password of {user}", hint=reason or None)
