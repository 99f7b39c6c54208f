# SPDX-License-Identifier: MIT
"""All errors that mailseal raises deliberately.

An error has three parts: a message for administrators, the exit status of the program
(sysexits.h), and the reply for an SMTP or LMTP client.  pipe(8) bounces mail on every
status except 0, 71 and 75, so the default is EX_TEMPFAIL.  The default of the reply is
451.  So an error class without its own values defers mail.

An error never contains a secret: no password, key or text of a mail.
"""

from __future__ import annotations

import sys

EX_OK = 0
EX_USAGE = 64
EX_DATAERR = 65
EX_NOUSER = 67
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_PROTOCOL = 76
EX_NOPERM = 77
EX_CONFIG = 78


class MailsealError(Exception):
    """Base of all errors; by itself a temporary failure."""

    exit_status = EX_TEMPFAIL
    peer_reply = 451, "4.3.0", "temporary failure"
    """All that a client is told: reply code, enhanced status code (RFC 3463), text.  The
    message is for the log."""
    hint: str | None = None
    words: str | None = None
    """The text for the client instead of the default text of this class, in one line."""

    def __init_subclass__(cls) -> None:
        code, enhanced, _ = cls.peer_reply
        if str(code)[0] != enhanced[0] or enhanced[0] not in "45":
            raise TypeError(f"{cls.__name__}: {code} and {enhanced} do not go together")

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


def print_error(program: str, error: Exception) -> None:
    """Write the message of an error, and its hint, to standard error."""
    sys.stderr.write(f"{program}: error: {error}\n")
    if hint := getattr(error, "hint", None):
        sys.stderr.write(f"{program}: hint: {hint}\n")


class TemporaryError(MailsealError):
    """A temporary failure; the mail stays in the queue."""


class DiskFull(TemporaryError):
    """No room, or over a file-system quota (ENOSPC, EDQUOT)."""

    peer_reply = 452, "4.3.1", "insufficient storage"


class UsageError(MailsealError):
    """The command line or the input is wrong."""

    exit_status = EX_USAGE


class ConfigError(MailsealError):
    """The configuration is wrong.  For an MTA this is a temporary failure."""

    exit_status = EX_CONFIG


class NoSuchUser(MailsealError):
    """The user database does not know this recipient."""

    exit_status = EX_NOUSER
    peer_reply = 550, "5.1.1", "user unknown"


class RecipientDeferred(TemporaryError):
    """Mail for this recipient is deferred because of a policy."""

    peer_reply = 451, "4.7.1", "not taken yet"


class RecipientRefused(MailsealError):
    """Mail for this recipient is refused because of a policy."""

    exit_status = EX_NOPERM
    peer_reply = 550, "5.7.1", "not taken here"


class MailboxFull(TemporaryError):
    """The mailbox is over its quota; mail is deferred."""

    peer_reply = 452, "4.2.2", "mailbox full"


class MailboxFullRefused(MailsealError):
    """The mailbox is over its quota; mail is refused."""

    exit_status = EX_NOPERM
    peer_reply = 552, "5.2.2", "mailbox full"


class NotEnrolled(MailsealError):
    """The user has no key pair."""

    exit_status = EX_NOUSER


class AlreadyEnrolled(MailsealError):
    """The user already has a key pair."""

    exit_status = EX_DATAERR


class WrongPassword(MailsealError):
    """No slot of the keyring opens with this password."""

    exit_status = EX_NOPERM


class BadPassword(UsageError):
    """A password that is not allowed: empty, too long, or with a NUL or line end."""


class BadUserName(UsageError):
    """A user name that is not allowed: empty, too long, or with control characters."""


class Damaged(TemporaryError):
    """Stored data have changed: a keyring, a public key or a sealed mail."""

    exit_status = EX_DATAERR
    peer_reply = 451, "4.3.5", "temporary failure"


class NotConvertible(MailsealError):
    """The mail cannot be converted where it is: to try again does not help."""

    exit_status = EX_DATAERR


class NotSealed(MailsealError):
    """The file is not in Dovecot's sealed format."""

    exit_status = EX_DATAERR


class NoKey(MailsealError):
    """The mail is sealed with a key that is not available."""

    exit_status = EX_NOPERM


class NewerFormat(TemporaryError):
    """Written by a newer version of mailseal."""

    peer_reply = 451, "4.3.5", "temporary failure"


class AgentUnavailable(TemporaryError):
    """The key agent does not answer, or is too busy."""


class StoreUnreachable(TemporaryError):
    """The database with the keys does not answer."""


class TooManyGuesses(TemporaryError):
    """There were too many wrong passwords; this one was not checked."""


class NotPublished(TemporaryError):
    """The keyring was stored, but its public key could not be published."""


class NotPermitted(MailsealError):
    """The caller may not do this."""

    exit_status = EX_NOPERM


class Conflict(TemporaryError):
    """Another process has changed the same keyring."""


class ChangePending(TemporaryError):
    """Another password change of this user is in progress."""


class ChangeGone(MailsealError):
    """The password change was completed or undone already, or replaced by another one."""

    exit_status = EX_DATAERR


class NothingChanged(MailsealError):
    """The user database has certainly not changed, so the keyring has not changed either."""

    exit_status = EX_UNAVAILABLE


class NotSettled(MailsealError):
    """The new password is valid, but the change of the keyring could not be completed."""

    exit_status = EX_PROTOCOL
