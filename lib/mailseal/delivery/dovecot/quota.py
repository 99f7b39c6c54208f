# SPDX-License-Identifier: MIT
"""Whether a mailbox has room, asked of Dovecot's quota-status service.

It speaks Postfix's policy protocol: `name=value` lines, an empty line, and
back `action=…` and an empty line.  The answer needs no key as long as stored mails carry
S= and W= in their names (delivery.sizes).

FAILURES
    MailboxFull (452) or MailboxFullRefused (552) as delivery.over_quota says; TemporaryError
    when the service is away, slow, or answers what is not understood.
"""

from __future__ import annotations

import time

from mailseal.config import Config, socket_address
from mailseal.delivery.dovecot.dial import dial
from mailseal.errors import MailboxFull, MailboxFullRefused, TemporaryError

_MAX_ANSWER = 65536


class QuotaStatus:
    """The service at dovecot.quota_socket; a connection for each question."""

    def __init__(self, service: str, config: Config) -> None:
        self._address = socket_address(service)
        self._timeout = float(config.dovecot.timeout)
        self._full = MailboxFull if config.delivery.over_quota == "defer" else MailboxFullRefused

    def require_room(self, user: str, size: int) -> None:
        """Return if `size` bytes fit; `size` 0 asks whether the mailbox is full already."""
        question = (
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
            f"recipient={user}\nsize={size}\n\n"
        )
        action = self._ask(question.encode())
        word, _, rest = action.partition(" ")
        if word.upper() in ("OK", "DUNNO", "PERMIT"):
            return
        if word.startswith("5") and rest.startswith("5.2.2"):
            raise self._full(f"the mailbox of {user} is full: {action}")
        raise TemporaryError(f"quota-status says of {user}: {action}")

    def _ask(self, question: bytes) -> str:
        deadline = time.monotonic() + self._timeout
        answer = b""
        try:
            with dial(self._address, self._timeout) as sock:
                sock.sendall(question)
                while b"\n\n" not in answer and len(answer) < _MAX_ANSWER:
                    sock.settimeout(max(deadline - time.monotonic(), 0.001))
                    data = sock.recv(4096)
                    if not data:
                        break
                    answer += data
        except OSError as exc:
            raise TemporaryError(f"quota-status: {exc.strerror or 'timed out'}") from None
        for line in answer.decode("utf-8", "replace").split("\n"):
            if line.startswith("action="):
                return line.removeprefix("action=").strip()
        raise TemporaryError("quota-status gave no answer")
