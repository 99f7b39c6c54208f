# SPDX-License-Identifier: MIT
"""The outcome of a delivery to one recipient: the reply for the client, the text for the log.

The client gets a code and a short text, because a bounce may carry it to a stranger.  The
log gets all details except secrets.
"""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.errors import MailsealError


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one recipient's delivery."""

    reply: Reply
    action: str
    key_id: bytes | None = None
    detail: str = ""
    """For the log: the whole story, where the reply only has a class."""


def of(error: BaseException, to: Address) -> Outcome:
    """The outcome of an error; the only place where one becomes a reply.

    The error's class has the reply.  Anything but a MailsealError is a bug: temporary, and
    the log names its kind, never its text, which may hold data of a mail.
    """
    if isinstance(error, MailsealError):
        code, enhanced, words = error.peer_reply
        words, detail = error.words or words, str(error)
    else:
        code, enhanced, words = MailsealError.peer_reply
        detail = f"internal fault: {type(error).__name__}"
    return Outcome(Reply(code, enhanced, f"<{to}> {words}"), "none", None, detail)
