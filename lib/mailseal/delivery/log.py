# SPDX-License-Identifier: MIT
"""The delivery log: one method for each event.

One line for each recipient and transaction, in the format of Postfix's log:

    QUEUEID: to=<a@b>, action=sealed, keyid=…, size=…, delay=…, dsn=2.0.0, status=sent (text)

`action` is sealed, relayed, clear (relayed for a user who is not enrolled) or
none (refused or deferred).  `size` is the size of the received mail in bytes, `delay` the
seconds since MAIL.  `uid=…` before `action` is the local user who delivered the mail, if it
was not Postfix.  Subjects, text of mails and keys are never logged.
"""

from __future__ import annotations

from typing import Protocol

from mailseal.delivery.lmtp.syntax import Reply
from mailseal.errors import MailsealError
from mailseal.logs import ERROR, INFO, WARNING, Log

_STATUS = {2: "sent", 4: "deferred", 5: "bounced"}


def _by(uid: int | None) -> str:
    """The uid of the local user who delivered the mail, if it was not Postfix."""
    return f" uid={uid}," if uid is not None else ""


class Counts(Protocol):
    """Where mailseal-lmtp counts the outcomes, if metrics are on."""

    def outcome(self, action: str, reply: Reply, delay: float | None = None) -> None:
        """Count one.  `delay` in seconds; None if the recipient was refused at RCPT."""


class DeliveryLog:
    """The lines of mailseal-lmtp and mailseal-deliver; logs.py writes them."""

    def __init__(self, lines: Log, counts: Counts | None = None) -> None:
        self.lines = lines
        self._counts = counts

    def recipient(
        self,
        queue_id: str,
        to: str,
        *,
        action: str,
        key_id: bytes | None,
        size: int,
        delay: float,
        reply: Reply,
        detail: str = "",
        uid: int | None = None,
    ) -> None:
        """The outcome of one recipient's mail.  `detail` replaces the reply's text in the log."""
        if self._counts is not None:
            self._counts.outcome(action, reply, delay)
        key = f", keyid={key_id[:8].hex()}" if key_id is not None else ""
        status = _STATUS.get(reply.code // 100, "deferred")
        self.lines.write(
            INFO if reply.ok else WARNING,
            f"{queue_id}: to=<{to}>,{_by(uid)} action={action}{key}, size={size}, "
            f"delay={delay:.2f}, dsn={reply.enhanced}, status={status} ({detail or reply.text})",
        )

    def refused(
        self, queue_id: str, sender: str, to: str, reply: Reply, why: str, uid: int | None = None
    ) -> None:
        """A RCPT with a negative reply; often the queue id is not known yet.

        The sender is a part of the mail, so it is logged only if there is no queue id, under which
        Postfix has logged it.
        """
        of = "" if queue_id != "NOQUEUE" else f" from=<{sender}>,"
        if self._counts is not None:
            self._counts.outcome("none", reply)
        self.lines.write(
            WARNING,
            f"{queue_id}: to=<{to}>,{of}{_by(uid)} action=none, dsn={reply.enhanced}, "
            f"status={_STATUS.get(reply.code // 100, 'deferred')} ({why})",
        )

    def lost(self, client: str, why: str) -> None:
        """A client that disconnected, or was disconnected, during a transaction."""
        self.lines.write(INFO, f"lost client {client}: {why}")

    def started(self, listening: str, workers: int) -> None:
        """The daemon is ready."""
        self.lines.write(INFO, f"listening on {listening}, {workers} workers")

    def stopping(self) -> None:
        """The daemon was told to stop."""
        self.lines.write(INFO, "stopping after the transactions in progress")

    def reloaded(self) -> None:
        """A new configuration is in effect."""
        self.lines.write(INFO, "configuration reloaded")

    def not_reloaded(self, error: MailsealError) -> None:
        """The new configuration is wrong; the old one stays in effect."""
        self.lines.write(
            ERROR, f"error: configuration not reloaded, the old one stays in effect: {error}"
        )

    def location_unknown(self) -> None:
        """Dovecot's settings are not known at start."""
        self.lines.write(
            WARNING,
            "Dovecot's settings are not known yet: mail of enrolled users waits until Dovecot has "
            "been started",
        )

    def location_known(self) -> None:
        """They are known now."""
        self.lines.write(INFO, "Dovecot's settings are known now")

    def worker_died(self, pid: int, how: str) -> None:
        """A worker has ended unexpectedly and is replaced."""
        self.lines.write(ERROR, f"error: worker {pid} {how}, starting another one")

    def fault(self, what: str) -> None:
        """An internal fault.  `what` contains no data of a mail."""
        self.lines.write(ERROR, f"error: {what}")
