# SPDX-License-Identifier: MIT
"""Asks Dovecot whether a password is right, as Dovecot's login processes do.

CONTRACT
    check() returns if this user can log in to IMAP with this password, and if Dovecot asks
    mailseal's userdb, so that it will seal this user's mail.  The password is
    sent to Dovecot's auth-client socket and is never an argument: all users of the
    machine could see the arguments of `doveadm auth test`.

PROTOCOL (auth client protocol, version 1; text lines, fields separated by TAB)
    -> VERSION 1 2, CPID pid
    <- VERSION 1 n, MECH ..., DONE
    -> AUTH 1 PLAIN service=imap secured no-penalty resp=BASE64
    <- OK 1 user=name ...  |  FAIL 1 [user=...] [temp] [code=...] [reason=...]

FAILURES
    WrongPassword, or NoSuchUser if Dovecot's userdb does not know the user.  TemporaryError:
    Dovecot is not running, does not reply, or has an internal failure.  NotPermitted: this uid
    may not use the socket.  UsageError: Dovecot has another name for this user.
"""

from __future__ import annotations

import base64
import os

from mailseal.config import Config
from mailseal.delivery.dovecot import sealing
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
        raise NotPermitted(
            f"uid {os.getuid()} has no access to Dovecot's socket {path}", hint=_UNCHECKED
        )
    try:
        answer, fields = _ask(path, float(config.dovecot.timeout), user, password)
    except NotThere as exc:
        raise TemporaryError(
            f"cannot ask Dovecot whether the password is right: {path}: {exc}",
            hint=f"is Dovecot running? Is dovecot.auth_socket right? {_UNCHECKED}",
        ) from None
    except Broken as exc:
        raise TemporaryError(f"cannot ask Dovecot at {path}: {exc}", hint=_UNCHECKED) from None
    if answer == "OK":
        _same_user(user, fields.get("user", user))
        _require_our_userdb(config, user)
        return
    if "temp" in fields or fields.get("code") == "temp_fail":
        raise TemporaryError(
            f"Dovecot could not check the password of {user}; see Dovecot's log",
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
                raise TemporaryError("Dovecot's auth process uses another protocol version")
        peer.send(f"AUTH\t1\tPLAIN\tservice=imap\tsecured\tno-penalty\tresp={response}\n".encode())
        while (line := _words(peer))[:2] not in (["OK", "1"], ["FAIL", "1"]):
            if line[:1] == ["CONT"]:
                raise TemporaryError("unexpected reply of Dovecot's auth process to PLAIN")
        pairs = (field.partition("=") for field in line[2:])
        return line[0], {name: unescape(value) for name, _, value in pairs}
    finally:
        peer.close()


def _words(peer: Lines) -> list[str]:
    return peer.line().decode("utf-8", "replace").split("\t")


def _same_user(asked: str, named: str) -> None:
    """Refuse if Dovecot has another name for the user: such a keyring would never be used."""
    try:
        found = normalise(named)
    except BadUserName:
        found = named
    if found != asked:
        raise UsageError(
            f"the password is right, but Dovecot's name for {asked} is {found}",
            hint=f"run `mailseal enroll {found}`",
        )


def _require_our_userdb(config: Config, user: str) -> None:
    """Refuse if Dovecot does not use mailseal's settings: it would save mail in clear."""
    path = config.dovecot.userdb_socket
    if config.delivery.userdb != "dovecot":
        return
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return
    try:
        account = DovecotUserdb(config).lookup(user)
    except TemporaryError as exc:
        why = str(exc)
    else:
        if account is not None and sealing.is_told_how_to_save(account.extra):
            return
        why = "Dovecot does not ask mailseal's userdb"
    raise TemporaryError(
        f"Dovecot might save mail for {user} in clear: {why}",
        hint="has Dovecot been restarted with mailseal's settings? Run `mailseal check-config`. "
        + _UNCHECKED,
    )


def _refusal(config: Config, user: str, reason: str) -> MailsealError:
    """The password is wrong, or the user does not exist; a lookup in the userdb decides."""
    try:
        known = DovecotUserdb(config).lookup(user) is not None
    except TemporaryError:
        return WrongPassword(f"Dovecot refuses {user} with this password", hint=reason or None)
    if not known:
        return NoSuchUser(f"Dovecot does not know the user {user}")
    return WrongPassword(f"Dovecot refuses this password for {user}", hint=reason or None)
