# SPDX-License-Identifier: MIT
"""A small LMTP client: relays one mail for one recipient, usually to Dovecot's LMTP server.

CONTRACT
    deliver() returns the server's final reply for this recipient.  If there is none
    (no socket, timeout, closed connection, an invalid reply), it returns 451, and
    Postfix tries again.  If the connection is closed after the mail was sent and
    before the reply, the mail may be delivered twice; it is never lost.
    Protocol errors (500 to 504, 555) and 421 are temporary failures too: mail must not
    bounce because of them.

One recipient in each transaction: Dovecot 2.3 hard-links the first recipient's ciphertext to the
others (docs/design.md, decision 3).
"""

from __future__ import annotations

import re
import threading
import time

from mailseal.delivery.dovecot.lines import Broken, Lines, NotThere
from mailseal.delivery.lmtp.data_stream import stuffed
from mailseal.delivery.lmtp.syntax import Address, Reply, loggable_id
from mailseal.delivery.message import Envelope, Message
from mailseal.errors import TemporaryError

TYPE_CHECKING = False  # `typing` takes 3 ms to import; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

    from mailseal.config import Config

_LINE = re.compile(r"(\d{3})([ -])(?:([245]\.\d{1,3}\.\d{1,3}) )?(.*)", re.DOTALL)
_DONE = range(250, 260)
_MISUNDERSTOOD = frozenset((421, 500, 501, 502, 503, 504, 555))
_MAX_REPLY = 65536
_KEEP_IDLE = 20.0


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, address: str | tuple[str, int], timeout: float, hostname: str) -> None:
        self.idle_since = 0.0
        self._peer = Lines(address, timeout, _MAX_REPLY)
        self._expect(self._reply(), 220)
        features = self._command(f"LHLO {hostname}\r\n".encode())
        self._expect(features, 250)
        words = {line.split(" ")[0].upper() for line in features.text.split("\n")[1:]}
        self.pipelining = "PIPELINING" in words
        self.utf8 = "SMTPUTF8" in words
        self.body_8bit = "8BITMIME" in words
        self._takes_ident = "XFORWARD IDENT" in features.text.split("\n")

    def close(self) -> None:
        self._peer.close()

    def name_mail(self, queue_id: str) -> None:
        """Send the queue id of the next mail, for the log, if the server supports it."""
        if self._takes_ident:
            self._command(f"XFORWARD IDENT={loggable_id(queue_id)}\r\n".encode())

    def quiet(self) -> bool:
        """Whether the connection is open and no unexpected data has arrived."""
        return self._peer.quiet()

    def _expect(self, reply: Reply, code: int) -> None:
        if reply.code != code:
            self.close()
            raise Broken(f"unexpected reply: {reply.code} {reply.text}")

    def _command(self, line: bytes) -> Reply:
        self._peer.send(line)
        return self._reply()

    def _reply(self) -> Reply:
        """One reply, with its lines joined by LF."""
        self._peer.wait_anew()
        texts: list[str] = []
        size = 0
        while True:
            line = self._peer.line()
            match = _LINE.fullmatch(line.rstrip(b"\r").decode("utf-8", "replace"))
            size += len(line)
            if match is None or size > _MAX_REPLY:
                self.close()
                raise Broken("invalid LMTP reply" if match is None else "reply too long")
            texts.append(match[4])
            if match[2] == " ":
                return Reply(int(match[1]), match[3] or "", "\n".join(texts))

    def deliver(
        self,
        envelope: Envelope,
        recipient: Address,
        message: Message,
        still: Callable[[], None] | None,
    ) -> Reply:
        """Run one transaction.  After a failure, the connection is reset or unusable.

        `still` is called when only the end of the mail is missing; if it raises, nothing is
        stored.
        """
        if envelope.utf8 and not self.utf8 and not (recipient.ascii and envelope.sender.ascii):
            return Reply(550, "5.6.7", "the server does not support SMTPUTF8")
        options = " BODY=8BITMIME" if self.body_8bit else ""
        options += " SMTPUTF8" if envelope.utf8 and self.utf8 else ""
        commands = (
            f"MAIL FROM:<{envelope.sender}>{options}\r\n".encode(),
            f"RCPT TO:<{recipient}>\r\n".encode(),
            b"DATA\r\n",
        )
        if self.pipelining:
            self._peer.send(b"".join(commands))
        data_reply = None
        for command, codes in zip(commands, (_DONE, _DONE, (354,)), strict=True):
            if not self.pipelining:
                self._peer.send(command)
            reply = self._reply()
            if reply.code not in codes:
                if reply.code < 400:
                    # Otherwise a 250 for DATA would be taken for the final reply.
                    self._expect(reply, codes[0])
                data_reply = data_reply or reply
                if not self.pipelining:
                    break
            elif data_reply is not None and codes == (354,):
                # It accepts DATA without a recipient: the session cannot continue.
                self.close()
                return data_reply
        if data_reply is not None:
            self._expect(self._command(b"RSET\r\n"), 250)
            return data_reply
        at_line_start = True
        for piece in map(bytes, message.pieces):
            if piece:
                if piece.count(b"\n") != piece.count(b"\r\n"):
                    # For Dovecot 2.3, LF . LF ends a mail, and the following bytes are
                    # commands.  It stores LF for all line ends.
                    piece = re.sub(rb"(?<!\r)\n", b"\r\n", piece)
                self._peer.send(stuffed(piece, at_line_start))
                at_line_start = piece.endswith(b"\n")
        if still is not None:
            try:
                still()
            except BaseException:
                self.close()
                raise
        self._peer.send(b".\r\n")
        return self._reply()


class Relay:
    """The LMTP server at `address`; `name` is for messages.  Connections are kept."""

    def __init__(
        self, address: str | tuple[str, int], timeout: float, hostname: str, name: str
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._hostname = hostname
        self._name = name
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def deliver(
        self,
        envelope: Envelope,
        recipient: Address,
        message: Message,
        still: Callable[[], None] | None = None,
    ) -> Reply:
        """The server's reply for this recipient; see CONTRACT.  Never raises for its failures.

        What `still` raises at the last moment is raised here, and nothing is stored.
        """
        try:
            connection = self._kept() or self._new()
        except TemporaryError as broken:
            return Reply(451, "4.4.1", f"{self._name}: {broken}")
        return self._deliver(connection, envelope, recipient, message, still)

    def deliver_if_there(
        self, envelope: Envelope, recipient: Address, message: Message, queue_id: str | None
    ) -> Reply | None:
        """The same, but None if no server listens at the address; then nothing was sent."""
        try:
            connection = self._new()
            if queue_id:
                connection.name_mail(queue_id)
        except NotThere:
            return None
        except TemporaryError as broken:
            return Reply(451, "4.4.1", f"{self._name}: {broken}")
        return self._deliver(connection, envelope, recipient, message)

    def _deliver(
        self,
        connection: _Connection,
        envelope: Envelope,
        recipient: Address,
        message: Message,
        still: Callable[[], None] | None = None,
    ) -> Reply:
        try:
            reply = connection.deliver(envelope, recipient, message, still)
        except Broken as broken:
            return Reply(451, "4.4.2", f"{self._name}: {broken}")
        connection.idle_since = time.monotonic()
        if reply.code == 421:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return self._mapped(reply, recipient)

    def _new(self) -> _Connection:
        return _Connection(self._address, self._timeout, self._hostname)

    def _kept(self) -> _Connection | None:
        """A kept connection that the server has not closed."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < _KEEP_IDLE and connection.quiet():
                return connection
            connection.close()

    def _mapped(self, reply: Reply, recipient: Address) -> Reply:
        """The server's reply for our client: one line, without the `<address>` at its beginning."""
        text = reply.text.replace("\n", " ").removeprefix(f"<{recipient}> ")
        if not 200 <= reply.code < 600 or 300 <= reply.code < 400 or reply.code in _MISUNDERSTOOD:
            return Reply(451, "4.3.0", f"{self._name} replied {reply.code} {text}")
        return Reply(reply.code, reply.enhanced or f"{reply.code // 100}.0.0", text)


def dovecot(config: Config, hostname: str) -> Relay:
    """Dovecot's LMTP server in the configuration."""
    from mailseal.config import socket_address

    address = socket_address(config.dovecot.lmtp_socket)
    return Relay(address, float(config.dovecot.timeout), hostname, "Dovecot's LMTP")
