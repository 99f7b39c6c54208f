# SPDX-License-Identifier: MIT
"""mailseal-checkpassword: the program for Dovecot 2.3's checkpassword passdb and userdb.

SYNOPSIS
    mailseal-checkpassword [--behind-passdb | --app-password] [--socket PATH] [--public FOLDER]
        [--key=KEY] [--undoing=VALUES] [--mail=LOCATION]... REPLY-PROGRAM

DESCRIPTION
    For sites without Lua.  With Lua, mailseal.lua does the same without starting a program.
    Dovecot writes `user NUL password NUL timestamp NUL` to descriptor 3 and reads the
    answer from descriptor 4: fields separated by TAB, with TAB, LF, CR, NUL
    and 0x01 in them written as 0x01 and a letter (Dovecot: strescape.c).  The
    REPLY-PROGRAM that Dovecot appends is not run: it would add a uid and gid
    of its own.

    As a passdb, without an option: the keyring is the only password check.
    --behind-passdb: another passdb has accepted the password (`result_success = continue-ok`
    there, `skip = unauthenticated` here).  The answer contains the user's keys, if there are
    any; a password that does not open the keyring is a temporary failure.
    --app-password: another passdb has refused the password (`skip = authenticated`).
    The login succeeds if it is an app password of the user.

    As a userdb (AUTHORIZED in the environment), which must be the last one: it returns how mail is
    saved, for Dovecot's final user name.  --key is the public key that the passdb has returned,
    `%{userdb:mail_crypt_global_public_key}`.  The login of an enrolled user is refused if this is
    not the user's key.  Any lookup of an enrolled user is refused if other userdbs return fields
    with which Dovecot would not seal: --undoing has the values of such fields, each --mail a mail
    location.

    The public keys of enrolled users are read from --public; the agent is asked only if a password
    must be checked.

DIAGNOSTICS (exit status)
    0    the password is right        1    it is wrong, or there is no such user
    2    fields for AUTHORIZED        3    AUTHORIZED, and the user is not enrolled
    111  temporary failure: everything else

The password is read from a descriptor and sent to a socket.  It is never in the
arguments, the environment or a message.
"""

from __future__ import annotations

import os
import sys

from mailseal.errors import AgentUnavailable, MailsealError, TemporaryError, UsageError
from mailseal.login import local_keys, userdb_answer
from mailseal.login.client import DEFAULT_SOCKET, AgentClient, Answer
from mailseal.login.userdb_answer import PUBLIC_FIELD, SEALED, Lookup

OK, WRONG, LOOKED_UP, UNKNOWN, TEMPORARY = 0, 1, 2, 3, 111

DEFAULT_PUBLIC = "/var/lib/mailseal/public"

# Dovecot sends 512 bytes at most (CHECKPASSWORD_MAX_REQUEST_LEN).
_MAX_INPUT = 65536
_TIMEOUT = 60.0
# The same for enrollment at login, where the login does not depend on the answer.
_SHORT_TIMEOUT = 5.0
# The form of an app password, see keys/codes.py.
_APP_LETTERS = b"0123456789abcdefghijklmnopqrstvwxyz"
_ESCAPES = str.maketrans(
    {"\1": "\1" + "1", "\t": "\1t", "\n": "\1n", "\r": "\1r", "\0": "\1" + "0"}
)


class _Arguments:
    """The arguments in the passdb or userdb block."""

    def __init__(self, words: list[str]) -> None:
        self.socket, self.public = DEFAULT_SOCKET, DEFAULT_PUBLIC
        self.behind = self.app = False
        self.key = self.undoing = ""
        self.mail: list[str] = []
        self.userdb = False
        while words and words[0].startswith("--"):
            option = words.pop(0)
            if option == "--behind-passdb":
                self.behind = True
            elif option == "--app-password":
                self.app = True
            elif option.startswith("--key="):
                self.key, self.userdb = option[len("--key=") :], True
            elif option.startswith("--undoing="):
                self.undoing = option[len("--undoing=") :]
            elif option.startswith("--mail="):
                self.mail.append(option[len("--mail=") :])
            elif option == "--socket" and words:
                self.socket = words.pop(0)
            elif option == "--public" and words:
                self.public = words.pop(0)
            else:
                raise UsageError("wrong arguments; see dovecot-conf/2.3/*-checkpassword.conf")


def main(argv: list[str], environ: dict[str, str], *, input_fd: int = 3, output_fd: int = 4) -> int:
    """Answer one request of Dovecot; returns the exit status."""
    try:
        arguments = _Arguments(argv[1:])
        user, password = _read_request(input_fd)
        # The userdb is also called, after a login with such a mechanism.
        if "CREDENTIALS_LOOKUP" in environ and not arguments.userdb:
            raise UsageError("the password is needed to open the keyring; allow PLAIN and LOGIN")
        if "AUTHORIZED" in environ:
            return _userdb(arguments, user, environ, output_fd)
        if arguments.behind:
            return _accepted(arguments, user, password, environ, output_fd)
        if arguments.app:
            return _refused(arguments, user, password, environ, output_fd)
        answer = _unlock(arguments, user, password, environ)
        return _login(answer, output_fd, with_user=True)
    except MailsealError as exc:
        return _temporary(str(exc))


def _read_request(fd: int) -> tuple[bytes, bytes]:
    """User and password.  Raises UsageError if there are not exactly Dovecot's three fields."""
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
        raise UsageError("descriptor 3 does not contain user, password and timestamp")
    return parts[0], parts[1]


def _published(arguments: _Arguments, user: bytes) -> str | None:
    """The user's public key; None if certainly not enrolled.  Raises TemporaryError."""
    try:
        return local_keys.look_up(arguments.public, user)
    except local_keys.LongName:
        with AgentClient(arguments.socket, _TIMEOUT) as agent:
            answer = agent.request("lookup", user=user)
    if answer.status == "unknown":
        return None
    if answer.status == "ok" and answer.text(PUBLIC_FIELD):
        return answer.text(PUBLIC_FIELD)
    raise TemporaryError(_reason(answer))


def _accepted(
    arguments: _Arguments, user: bytes, password: bytes, environ: dict[str, str], output_fd: int
) -> int:
    """The keys for a login that another passdb has accepted.

    Without keys the login is not permitted yet: the userdb decides, with the final user name.
    An empty answer would be a failure, so there is always a field.
    """
    enrolled = _published(arguments, user) is not None
    if not enrolled and not local_keys.enrolls_at_login(arguments.public):
        _write(output_fd, SEALED)
        return OK
    try:
        timeout = _TIMEOUT if enrolled else _SHORT_TIMEOUT
        answer = _unlock(arguments, user, password, environ, timeout, behind=b"1")
    except AgentUnavailable:
        if enrolled:
            raise
        answer = Answer("unknown", {})
    if answer.status == "unknown" or (not enrolled and answer.status != "ok"):
        _write(output_fd, SEALED)
        return OK
    return _login(answer, output_fd, with_user=False)


def _refused(
    arguments: _Arguments, user: bytes, password: bytes, environ: dict[str, str], output_fd: int
) -> int:
    """Whether a password that another passdb has refused is an app password."""
    letters = password.lower().translate(None, b"- ")
    if len(password) > 100 or len(letters) != 32 or letters.translate(None, _APP_LETTERS):
        return WRONG
    if _published(arguments, user) is None:
        return WRONG
    answer = _unlock(arguments, user, password, environ, app=b"1")
    return WRONG if answer.status == "unknown" else _login(answer, output_fd, with_user=False)


def _unlock(
    arguments: _Arguments,
    user: bytes,
    password: bytes,
    environ: dict[str, str],
    timeout: float = _TIMEOUT,
    **extra: bytes,
) -> Answer:
    fields = {"user": user, "password": password, **extra}
    # For the agent's log, and to recognise master users and tokens.
    names = {
        "service": "SERVICE",
        "remote": "TCPREMOTEIP",
        "master": "MASTER_USER",
        "mechanism": "AUTH_MECH",
    }
    for name, variable in names.items():
        if environ.get(variable):
            fields[name] = os.fsencode(environ[variable])
    with AgentClient(arguments.socket, timeout) as agent:
        return agent.request("unlock", **fields)


def _login(answer: Answer, output_fd: int, *, with_user: bool) -> int:
    if answer.status == "ok":
        fields = {name: answer.text(name) for name in answer.fields}
        user = fields.pop("user", "")
        # The other passdb returns the user name: a userdb may be case-sensitive.
        _write(output_fd, fields, user if with_user else "")
        return OK
    if answer.status == "wrong":
        return WRONG
    return _temporary(_reason(answer))


def _userdb(arguments: _Arguments, user: bytes, environ: dict[str, str], output_fd: int) -> int:
    variables = ("AUTH_MECH", "SERVICE", "MASTER_USER")
    mechanism, service, master = (environ.get(name, "") for name in variables)
    lookup = Lookup(arguments.key, arguments.undoing, arguments.mail, mechanism, service, master)
    key = _published(arguments, user)
    fields = userdb_answer.answer(lookup, key, behind=arguments.behind)
    if fields is None:
        return UNKNOWN
    if key is not None and lookup.by_master and lookup.key != key:
        _log(f"no key: master user <{master}>")
    _write(output_fd, fields)
    return LOOKED_UP


def _write(fd: int, userdb_fields: dict[str, str], user: str = "") -> None:
    """Write the fields to Dovecot, which reads at the same time.

    At least one: Dovecot takes an empty answer for a failure.
    """
    fields = {"user": user} if user else {}
    fields.update({f"userdb_{name}": value for name, value in userdb_fields.items()})
    parts = [f"{name}={value.translate(_ESCAPES)}\t" for name, value in fields.items()]
    data = "".join(parts or ["\t"]).encode()
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        raise UsageError("descriptor 4 cannot be written: not started by Dovecot?") from None


def _reason(answer: Answer) -> str:
    if answer.status == "denied":
        return "the key agent does not serve this uid: see agent.login_users"
    return (
        answer.text("reason") or answer.text("message") or f"the key agent answered {answer.status}"
    )


def _temporary(reason: str) -> int:
    _log(reason)
    return TEMPORARY


def _log(text: str) -> None:
    # Dovecot writes standard error to its own log.
    sys.stderr.write(f"mailseal-checkpassword: {text}\n")
