# SPDX-License-Identifier: MIT
"""What became of a mail for one recipient: the reply for the peer, the words for the log.

The peer is told a class and few words (a bounce may carry them far); the log
is told everything but secrets.
"""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.errors import (
    DiskFull,
    MailboxFull,
    MailboxFullRefused,
    MailsealError,
    NoSuchUser,
    RecipientDeferred,
    RecipientRefused,
    TemporaryError,
)

_WORDS: tuple[tuple[type[MailsealError], str], ...] = (
    (NoSuchUser, "user unknown"),
    (DiskFull, "insufficient storage"),
    (RecipientDeferred, "not taken yet"),
    (RecipientRefused, "not taken here"),
    (MailboxFull, "mailbox full"),
    (MailboxFullRefused, "mailbox full"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one recipient's delivery."""

    reply: Reply
    action: str
    key_id: bytes | None = None
    detail: str = ""
    """For the log: the whole story, where the reply only has a class."""


def failed(error: MailsealError, to: Address, action: str = "none") -> Outcome:
    """The outcome of an error.  An error that delivery does not expect counts as temporary."""
    code, enhanced = error.reply_code, error.enhanced
    known = isinstance(error, (TemporaryError, NoSuchUser, RecipientRefused, MailboxFullRefused))
    if not known or code == 421:
        code, enhanced = 451, "4.3.0"
    if code == 550 and enhanced.startswith("4"):
        code = 451
    usual = next((w for kind, w in _WORDS if isinstance(error, kind)), "temporary failure")
    words = error.words or usual
    return Outcome(Reply(code, enhanced, f"<{to}> {words}"), action, None, str(error))


def fault(to: Address, exc: BaseException) -> Outcome:
    """The outcome of a bug: temporary, and the log names its kind, never its text."""
    detail = f"internal fault: {type(exc).__name__}"
    return Outcome(Reply(451, "4.3.0", f"<{to}> temporary failure"), "none", None, detail)
