# SPDX-License-Identifier: MIT
"""The delivery log: one method per event, so that its format lives here.

One line per recipient and transaction, in the form of Postfix's own:

    QUEUEID: to=<a@b>, action=sealed, keyid=…, size=…, delay=…, dsn=2.0.0, status=sent (text)

`action` is sealed, relayed, clear (relayed for a user who is not enrolled) or
none (refused or deferred before it was decided).  `size` is the mail's as received, in bytes,
`delay` the seconds since MAIL.  No subject, no line of a mail, no key is
ever logged, and control characters become "?".
"""

from __future__ import annotations

import os
import socket
import sys
import syslog
import time

from mailseal.delivery.lmtp.syntax import Reply, printable
from mailseal.errors import MailsealError

_STATUS = {2: "sent", 4: "deferred", 5: "bounced"}


class DeliveryLog:
    """Writes to syslog (mail facility), stderr or a file, as `log.to` says."""

    def __init__(self, to: str, program: str = "mailseal-lmtp") -> None:
        self.to = to
        self._program = program
        self._host = socket.gethostname()
        self._fd = -1
        if to == "syslog":
            syslog.openlog(program, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_MAIL)
        elif to == "stderr":
            self._fd = sys.stderr.fileno()
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(to, flags, 0o640)

    def _write(self, priority: int, text: str) -> None:
        text = printable(text)
        if self._fd < 0:
            syslog.syslog(priority, text)
            return
        stamp = time.strftime("%b %d %H:%M:%S")
        line = f"{stamp} {self._host} {self._program}[{os.getpid()}]: {text}\n"
        try:
            os.write(self._fd, line.encode("utf-8", "replace"))
        except OSError:
            return  # a full log disk must not stop mail

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
    ) -> None:
        """What became of one recipient's mail.  `detail` is said instead of the reply's text."""
        key = f", keyid={key_id[:8].hex()}" if key_id is not None else ""
        self._write(
            syslog.LOG_INFO if reply.ok else syslog.LOG_WARNING,
            f"{queue_id}: to=<{to}>, action={action}{key}, size={size}, delay={delay:.2f}, "
            f"dsn={reply.enhanced}, status={_STATUS.get(reply.code // 100, 'deferred')} "
            f"({detail or reply.text})",
        )

    def refused(self, queue_id: str, sender: str, to: str, reply: Reply, why: str) -> None:
        """A RCPT that was answered with a failure; often before the queue id is known."""
        self._write(
            syslog.LOG_WARNING,
            f"{queue_id}: to=<{to}>, from=<{sender}>, action=none, dsn={reply.enhanced}, "
            f"status={_STATUS.get(reply.code // 100, 'deferred')} ({why})",
        )

    def lost(self, client: str, why: str) -> None:
        """A client that went away, or was cut off, within a transaction."""
        self._write(syslog.LOG_INFO, f"lost client {client}: {why}")

    def started(self, listening: str, workers: int) -> None:
        """The daemon is ready."""
        self._write(syslog.LOG_INFO, f"listening on {listening}, {workers} workers")

    def stopping(self) -> None:
        """The daemon was told to stop."""
        self._write(syslog.LOG_INFO, "stopping, transactions in progress are finished first")

    def reloaded(self) -> None:
        """A new configuration is in force."""
        self._write(syslog.LOG_INFO, "configuration reloaded")

    def not_reloaded(self, error: MailsealError) -> None:
        """The new configuration is wrong; the old one stays."""
        self._write(syslog.LOG_ERR, f"configuration not reloaded, the old one stays: {error}")

    def worker_died(self, pid: int, how: str) -> None:
        """A worker ended that nobody had told to; another one takes its place."""
        self._write(syslog.LOG_ERR, f"worker {pid} {how}, starting another")

    def fault(self, what: str) -> None:
        """Something that should not happen.  Never with data of a mail."""
        self._write(syslog.LOG_ERR, what)
