# SPDX-License-Identifier: MIT
"""Asks Dovecot's quota-status service whether a mail fits into a mailbox.

It uses Postfix's policy protocol: `name=value` lines and an empty line; the reply is
`action=…` and an empty line.  Dovecot needs no key for the reply if the names of stored mails
contain S= and W= (delivery.sizes).

ANSWERS
    OK, DUNNO, PERMIT                the mail fits
    a 4xx or 5xx code, or REJECT     full; the value of quota_status_overquota.
                                     delivery.over_quota says whether the mail is deferred.
                                     The client gets the text, but not the code.
    nothing                          2.4: the mail is larger than the whole quota, and
                                     quota_status_toolarge is not set: full, if a small mail fits
    anything else                    unknown: DEFER_IF_PERMIT is quota-status's reply for an
                                     internal error, x.3.0 means an internal error, and
                                     quota_status_nouser (by default "REJECT Unknown user",
                                     or a code with x.1.y) says nothing about the quota

FAILURES
    MailboxFull (452) or MailboxFullRefused (552) as delivery.over_quota says; TemporaryError
    if the service does not run, is slow, or sends an unknown reply.
"""

from __future__ import annotations

import re

from mailseal.config import Config, socket_address
from mailseal.delivery.dovecot.lines import Broken, Lines
from mailseal.delivery.lmtp.syntax import printable
from mailseal.errors import MailboxFull, MailboxFullRefused, TemporaryError

_MAX_ANSWER = 65536
_MAX_WORDS = 200
_ROOM = ("OK", "DUNNO", "PERMIT")
_TOO_LARGE = "552 5.2.2 Mailbox is full"
_ENHANCED = re.compile(r"[245]\.(\d{1,3}\.\d{1,3})(?!\S)")


class QuotaStatus:
    """The service at dovecot.quota_socket.  Each request uses its own connection."""

    def __init__(self, service: str, config: Config) -> None:
        self._address = socket_address(service)
        self._timeout = float(config.dovecot.timeout)
        self._full = MailboxFull if config.delivery.over_quota == "defer" else MailboxFullRefused

    def require_room(self, user: str, size: int) -> None:
        """Return if `size` bytes fit; with `size` 0, if the mailbox is not full already."""
        action = self._ask(user, size)
        if not action and size and _has_room(self._ask(user, 0)):
            action = _TOO_LARGE
        if _has_room(action):
            return
        words = _words_of_full(action)
        if words is None:
            raise TemporaryError(f"quota-status replied for {user}: {action}")
        error = self._full(f"the mailbox of {user} is full: {action}")
        error.words = words or None
        raise error

    def _ask(self, user: str, size: int) -> str:
        question = (
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
            f"recipient={user}\nsize={size}\n\n"
        )
        try:
            peer = Lines(self._address, self._timeout, _MAX_ANSWER)
            try:
                peer.send(question.encode())
                while line := peer.line():
                    if line.startswith(b"action="):
                        return line.removeprefix(b"action=").decode("utf-8", "replace").strip()
            finally:
                peer.close()
        except Broken as exc:
            raise TemporaryError(f"quota-status: {exc}") from None
        raise TemporaryError("quota-status sent no reply")


def _has_room(action: str) -> bool:
    return action.partition(" ")[0].upper() in _ROOM


def _words_of_full(action: str) -> str | None:
    """The text for the client, perhaps empty; None if the answer does not mean "full"."""
    code, _, rest = action.partition(" ")
    rest = rest.strip()
    enhanced = _ENHANCED.match(rest)
    if re.fullmatch(r"[45]\d\d", code):
        if enhanced and (enhanced[1].startswith("1.") or enhanced[1] == "3.0"):
            return None
    elif code.upper() != "REJECT" or rest.lower().startswith("unknown user"):
        return None
    words = rest[enhanced.end() :] if enhanced else rest
    return printable(words.strip())[:_MAX_WORDS]
