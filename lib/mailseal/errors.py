# SPDX-License-Identifier: MIT
"""Every error mailseal raises on purpose.

An error carries three things: a sentence for people (its message), the exit
status a hook ends with (sysexits.h), and the enhanced status code that goes to
an SMTP or LMTP peer (RFC 3463).  pipe(8) bounces mail on every status but 0,
71 and 75, so the default is EX_TEMPFAIL: whoever forgets to choose defers.

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
    enhanced = "4.3.0"
    hint: str | None = None
    words: str | None = None
    """What a peer is told in the place of the usual words of this class, in one line."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    @property
    def reply_code(self) -> int:
        """The SMTP reply code that goes with the enhanced status code."""
        return _REPLY_CODES.get(self.enhanced, 451 if self.enhanced.startswith("4") else 550)


_REPLY_CODES = {"4.3.1": 452, "4.2.2": 452, "5.2.2": 552, "5.3.4": 552, "4.3.2": 421}


class TemporaryError(MailsealError):
    """Something that repair or waiting will mend; the mail stays in the queue."""


class DiskFull(TemporaryError):
    """No room, or over a file-system quota (ENOSPC, EDQUOT)."""

    enhanced = "4.3.1"


class UsageError(MailsealError):
    """The command line, or what was typed, is wrong."""

    exit_status = EX_USAGE
    enhanced = "4.3.5"


class ConfigError(MailsealError):
    """The configuration is wrong.  Towards an MTA still a temporary failure."""

    exit_status = EX_CONFIG
    enhanced = "4.3.5"


class NoSuchUser(MailsealError):
    """The user database does not know this recipient."""

    exit_status = EX_NOUSER
    enhanced = "5.1.1"


class RecipientDeferred(TemporaryError):
    """The policy keeps mail for this recipient in the queue."""

    enhanced = "4.7.1"


class RecipientRefused(MailsealError):
    """The policy refuses mail for this recipient."""

    exit_status = EX_NOPERM
    enhanced = "5.7.1"


class MailboxFull(TemporaryError):
    """The mailbox is over its quota, and mail may wait for room."""

    enhanced = "4.2.2"


class MailboxFullRefused(MailsealError):
    """The mailbox is over its quota, and mail is refused."""

    exit_status = EX_NOPERM
    enhanced = "5.2.2"


class NotEnrolled(MailsealError):
    """The user has no key pair."""

    exit_status = EX_NOUSER
    enhanced = "4.7.5"


class AlreadyEnrolled(MailsealError):
    """The user already has a key pair."""

    exit_status = EX_DATAERR
    enhanced = "4.7.5"


class WrongPassword(MailsealError):
    """No slot of the keyring opens with this password."""

    exit_status = EX_NOPERM
    enhanced = "5.7.8"


class BadPassword(UsageError):
    """A password that can never be one: empty, too long, or holding a NUL."""


class BadUserName(UsageError):
    """A user name that can never be one: empty, too long, or holding control characters."""

    enhanced = "5.1.3"


class Damaged(TemporaryError):
    """Stored data is not what was written: a keyring, a public key or a sealed mail."""

    exit_status = EX_DATAERR
    enhanced = "4.3.5"


class NotSealed(MailsealError):
    """The file is not in Dovecot's sealed format."""

    exit_status = EX_DATAERR
    enhanced = "4.3.5"


class NoKey(MailsealError):
    """The mail is sealed to a key that is not at hand."""

    exit_status = EX_NOPERM
    enhanced = "4.7.5"


class NewerFormat(TemporaryError):
    """Written by a newer mailseal than this one."""

    enhanced = "4.3.5"


class AgentUnavailable(TemporaryError):
    """The key agent does not answer, or is too busy."""


class TooManyGuesses(TemporaryError):
    """So many wrong passwords that this one was not looked at."""

    enhanced = "4.7.0"


class NotPermitted(MailsealError):
    """The caller may not do this."""

    exit_status = EX_NOPERM
    enhanced = "4.7.0"


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
    """The other password database has changed, the keyring could not be told."""

    exit_status = EX_PROTOCOL
