# SPDX-License-Identifier: MIT
"""Every error mailseal raises on purpose.

An error carries three things: a sentence for people (its message), the exit
status a hook ends with (sysexits.h), and the reply that an SMTP or LMTP peer gets.
pipe(8) bounces mail on every status but 0, 71 and 75, so the default is EX_TEMPFAIL;
the default of the reply is 451, so that no mail bounces for an error that says nothing
about it: whoever forgets to choose defers.

An error never carries a secret: no password, key or line of a mail.
"""

from __future__ import annotations

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
    """Base of all; on its own a temporary failure."""

    exit_status = EX_TEMPFAIL
    peer_reply = 451, "4.3.0", "temporary failure"
    """All that a peer is told: reply code, enhanced status code (RFC 3463), words.  The
    message is for the log."""
    hint: str | None = None
    words: str | None = None
    """What a peer is told in the place of the usual words of this class, in one line."""

    def __init_subclass__(cls) -> None:
        code, enhanced, _ = cls.peer_reply
        if str(code)[0] != enhanced[0] or enhanced[0] not in "45":
            raise TypeError(f"{cls.__name__}: {code} and {enhanced} do not go together")

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class TemporaryError(MailsealError):
    """Something that repair or waiting will mend; the mail stays in the queue."""


class DiskFull(TemporaryError):
    """No room, or over a file-system quota (ENOSPC, EDQUOT)."""

    peer_reply = 452, "4.3.1", "insufficient storage"


class UsageError(MailsealError):
    """The command line, or what was typed, is wrong."""

    exit_status = EX_USAGE


class ConfigError(MailsealError):
    """The configuration is wrong.  Towards an MTA still a temporary failure."""

    exit_status = EX_CONFIG


class NoSuchUser(MailsealError):
    """The user database does not know this recipient."""

    exit_status = EX_NOUSER
    peer_reply = 550, "5.1.1", "user unknown"


class RecipientDeferred(TemporaryError):
    """The policy keeps mail for this recipient in the queue."""

    peer_reply = 451, "4.7.1", "not taken yet"


class RecipientRefused(MailsealError):
    """The policy refuses mail for this recipient."""

    exit_status = EX_NOPERM
    peer_reply = 550, "5.7.1", "not taken here"


class MailboxFull(TemporaryError):
    """The mailbox is over its quota, and mail may wait for room."""

    peer_reply = 452, "4.2.2", "mailbox full"


class MailboxFullRefused(MailsealError):
    """The mailbox is over its quota, and mail is refused."""

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
    """A password that can never be one: empty, too long, or holding a NUL."""


class BadUserName(UsageError):
    """A user name that can never be one: empty, too long, or holding control characters."""


class Damaged(TemporaryError):
    """Stored data is not what was written: a keyring, a public key or a sealed mail."""

    exit_status = EX_DATAERR
    peer_reply = 451, "4.3.5", "temporary failure"


class NotSealed(MailsealError):
    """The file is not in Dovecot's sealed format."""

    exit_status = EX_DATAERR


class NoKey(MailsealError):
    """The mail is sealed to a key that is not at hand."""

    exit_status = EX_NOPERM


class NewerFormat(TemporaryError):
    """Written by a newer mailseal than this one."""

    peer_reply = 451, "4.3.5", "temporary failure"


class AgentUnavailable(TemporaryError):
    """The key agent does not answer, or is too busy."""


class TooManyGuesses(TemporaryError):
    """So many wrong passwords that this one was not looked at."""

    enhanced = "4.7.0"


class NotPermitted(MailsealError):
    """The caller may not do this."""

    exit_status = EX_NOPERM


class Conflict(TemporaryError):
    """Somebody else changed the same keyring in between."""


class ChangePending(TemporaryError):
    """A change of this user's password has begun and is not settled yet."""


class ChangeGone(MailsealError):
    """The change of a password that is to be settled is settled already, or superseded."""

    exit_status = EX_DATAERR


class NothingChanged(MailsealError):
    """The other password database was to change too, and certainly has not."""

    exit_status = EX_UNAVAILABLE


class NotSettled(MailsealError):
    """The new password is in force, what was to follow in the keyring was not done."""

    exit_status = EX_PROTOCOL
