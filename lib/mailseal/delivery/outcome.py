# SPDX-License-Identifier: MIT
"""The outcome of a delivery to one recipient: the reply for the client, the text for the log.

The client gets a code and a short text, because a bounce may send it to anybody.  The
log gets all details except secrets.
"""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.errors import MailsealError


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one recipient."""

    reply: Reply
    action: str
    key_id: bytes | None = None
    detail: str = ""
    """All details for the log, if the reply has only a general text."""


def of(error: BaseException, to: Address) -> Outcome:
    """The outcome of an error.  This is the only place that converts errors to replies.

    The error's class defines the reply.  All but MailsealError are bugs: the failure is temporary,
    and the log contains the class, but not the text, which may contain data of a mail.
    """
    if isinstance(error, MailsealError):
        code, enhanced, words = error.peer_reply
        words, detail = error.words or words, str(error)
    else:
        code, enhanced, words = MailsealError.peer_reply
        detail = f"internal fault: {type(error).__name__}"
    return Outcome(Reply(code, enhanced, f"<{to}> {words}"), "none", None, detail)
