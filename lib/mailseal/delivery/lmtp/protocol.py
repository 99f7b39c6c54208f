# SPDX-License-Identifier: MIT
"""The server side of LMTP (RFC 2033), without I/O.

    session = LmtpSession(Limits(…), hostname)
    send(session.output())                     # the greeting
    session.receive(bytes_from_the_peer)
    while (event := session.next_event()) is not None: …
    send(session.output())

EVENTS, and the method that answers them.  Until an event is answered, the session
processes no further command, which makes PIPELINING safe:
    Mail        accept_mail() or refuse()      the sender and the announced size
    Recipient   accept_recipient() or refuse()
    Data        accept_data() or refuse()      all recipients are known
    Piece       nothing                        bytes of the mail, without leading dots
    End         finish(replies)                one reply for each accepted recipient, in order
    Reset       nothing                        drop the transaction
    Quit        nothing                        send the output, then close

CONTRACT
    Command lines end at CR LF only, and so does the mail (data_stream.py).
    After End every accepted recipient gets one reply, in RCPT order, even if it was too large.
    Memory: one command line at most (4096 bytes), and the last input of receive().

ERRORS get a 5xx reply and change nothing; 20 in a row, or a line over 1 MiB, end the session (421).
"""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.command_lines import CommandLines, EndlessLine
from mailseal.delivery.lmtp.commands import mail_from, rcpt_to, xforward
from mailseal.delivery.lmtp.data_stream import DataStream
from mailseal.delivery.lmtp.events import Data, End, Event, Mail, Piece, Quit, Recipient, Reset
from mailseal.delivery.lmtp.syntax import Refused, Reply, helo_name

MAX_ERRORS = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a session.  Sizes in bytes."""

    message: int
    recipients: int


_OK = Reply(250, "2.0.0", "OK")
_SEQUENCE = "command out of sequence"


class LmtpSession:
    """The protocol state of one connection."""

    __slots__ = (
        "_awaiting",
        "_discarding",
        "_end",
        "_errors",
        "_lines",
        "_out",
        "_quit_told",
        "_size",
        "_stream",
        "accepted",
        "client",
        "closed",
        "hostname",
        "ident",
        "limits",
        "mail",
        "trusted",
    )

    def __init__(self, limits: Limits, hostname: str, *, trusted: bool = False) -> None:
        self.limits = limits
        self.hostname = hostname
        self.trusted = trusted  # may send XFORWARD
        self.ident = ""
        self.client = ""
        self.mail: Mail | None = None
        self.accepted = 0
        self.closed = False
        self._awaiting: Event | None = None
        self._lines = CommandLines()
        self._out: list[bytes] = []
        self._errors = 0
        self._stream: DataStream | None = None
        self._size = 0
        self._discarding: Reply | None = None
        self._end: End | None = None
        self._quit_told = False
        self._out.append(Reply(220, "", f"{hostname} LMTP mailseal ready").wire())

    # --- bytes from the client --------------------------------------------

    @property
    def in_data(self) -> bool:
        """Whether the next bytes belong to a mail."""
        return self._stream is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and has not ended."""
        return self.mail is not None

    @property
    def discarding(self) -> bool:
        """Whether the rest of the mail is read and discarded."""
        return self._discarding is not None

    @property
    def buffered(self) -> int:
        """Number of bytes received but not processed yet."""
        return len(self._lines)

    @property
    def awaited(self) -> Event | None:
        """The event that must be answered."""
        return self._awaiting

    @property
    def awaiting(self) -> bool:
        """Whether an event must be answered."""
        return self._awaiting is not None

    def receive(self, data: bytes) -> None:
        """Process bytes from the client."""
        self._lines.add(data)

    def output(self) -> bytes:
        """The bytes to send.  Each is returned once."""
        if not self._out:
            return b""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def next_event(self) -> Event | None:
        """The next event; None if more bytes or an answer are needed first."""
        while self._awaiting is None:
            if self.closed:
                told, self._quit_told = self._quit_told, True
                return None if told else Quit()
            if self._end is not None:
                self._awaiting, self._end = self._end, None
                return self._awaiting
            if self._stream is not None:
                if not self._lines:
                    return None
                piece = self._next_piece(self._stream)
                if piece is not None:
                    return piece
                continue
            try:
                line = self._lines.next()
                if line is None:
                    return None
                event = self._command(line)
            except Refused as refused:
                self._refuse(refused)
                continue
            except EndlessLine:
                self.close(Reply(421, "4.7.0", f"{self.hostname} line too long"))
                continue
            if event is not None:
                return event
        return None

    def _next_piece(self, stream: DataStream) -> Piece | None:
        piece = stream.feed(self._lines.take())
        self._size += len(piece)
        if self._size > self.limits.message:
            self.discard(Reply(552, "5.3.4", "message too large"))
        if stream.rest is not None:
            self._lines.add(stream.rest)
            self._stream = None
            self._end = End(self._discarding)
        return Piece(piece) if piece and self._discarding is None else None

    # --- commands ---------------------------------------------------------

    def _command(self, line: bytes) -> Event | None:
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise Refused(500, "5.5.2", "bare CR, bare LF or NUL in command")
        verb, _, argument = line.partition(b" ")
        name = verb.upper()
        if name == b"RCPT":
            return self._rcpt(argument)
        if name == b"MAIL":
            return self._mail(argument)
        if name == b"DATA":
            return self._data(argument)
        if name == b"LHLO":
            return self._lhlo(argument.strip(b" "))
        if name == b"RSET":
            self._no_argument(argument)
            self._out.append(_OK.wire())
            return self._reset()
        if name == b"QUIT":
            self._no_argument(argument)
            self.close(Reply(221, "2.0.0", f"{self.hostname} closing"))
            return None
        if name == b"NOOP":
            self._out.append(_OK.wire())
            return None
        if name == b"VRFY":
            self._out.append(Reply(252, "2.5.0", "cannot verify; send mail to find out").wire())
            return None
        if name == b"XFORWARD":
            self._xforward(argument)
            return None
        if name in (b"HELO", b"EHLO"):
            raise Refused(500, "5.5.1", "this is LMTP: use LHLO")
        raise Refused(500, "5.5.1", "unknown command")

    @staticmethod
    def _no_argument(argument: bytes) -> None:
        if argument.strip(b" "):
            raise Refused(501, "5.5.4", "no argument allowed")

    def _lhlo(self, argument: bytes) -> Event | None:
        if not argument:
            raise Refused(501, "5.5.4", "LHLO needs a host name")
        self.client = helo_name(argument) or "unknown"
        lines = (
            self.hostname,
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
            "PIPELINING",
            f"SIZE {self.limits.message}",
            "SMTPUTF8",
            *(["XFORWARD IDENT"] if self.trusted else []),
        )
        self._out.append(b"".join(f"250-{line}\r\n".encode() for line in lines[:-1]))
        self._out.append(f"250 {lines[-1]}\r\n".encode())
        return self._reset()

    def _xforward(self, argument: bytes) -> None:
        if not self.trusted:
            raise Refused(550, "5.7.0", "insufficient authorization")
        if self.mail is not None:
            raise Refused(503, "5.5.1", "mail transaction in progress")
        self.ident = xforward(argument)
        self._out.append(_OK.wire())

    def _mail(self, argument: bytes) -> Event:
        if not self.client:
            raise Refused(503, "5.5.1", "send LHLO first")
        if self.mail is not None:
            raise Refused(503, "5.5.1", _SEQUENCE)
        self._awaiting = mail = mail_from(argument, self.limits.message)
        return mail

    def _rcpt(self, argument: bytes) -> Event | None:
        if self.mail is None:
            raise Refused(503, "5.5.1", _SEQUENCE)
        recipient = rcpt_to(argument)
        if self.accepted >= self.limits.recipients:
            # Not an error: the client sends to the other recipients later (RFC 5321, 4.5.3.1.10).
            self._out.append(b"452 4.5.3 too many recipients\r\n")
            return None
        self._awaiting = recipient
        return recipient

    def _data(self, argument: bytes) -> Event:
        self._no_argument(argument)
        if self.mail is None:
            raise Refused(503, "5.5.1", _SEQUENCE)
        if self.accepted == 0:
            raise Refused(503, "5.5.1", "no valid recipients")
        self._awaiting = event = Data()
        return event

    # --- answers ----------------------------------------------------------

    def accept_mail(self) -> None:
        """Answer Mail: begin the transaction."""
        mail = self._awaited(Mail)
        assert isinstance(mail, Mail)  # noqa: S101 - for the type checker
        self.mail = mail
        self._out.append(b"250 2.1.0 OK\r\n")

    def accept_recipient(self) -> None:
        """Answer Recipient: it will get exactly one reply after the mail."""
        self._awaited(Recipient)
        self.accepted += 1
        self._out.append(b"250 2.1.5 OK\r\n")

    def accept_data(self) -> None:
        """Answer Data: the client may send the mail."""
        self._awaited(Data)
        self._stream = DataStream()
        self._size = 0
        self._discarding = None
        self._out.append(b"354 end with CR LF . CR LF\r\n")

    def refuse(self, reply: Reply) -> None:
        """Answer Mail, Recipient or Data with a failure."""
        self._awaited(Mail | Recipient | Data)
        self._out.append(reply.wire())

    def discard(self, reply: Reply) -> None:
        """Discard the rest of the mail; End will have `reply` for all recipients."""
        if self._discarding is None:
            self._discarding = reply

    def finish(self, replies: list[Reply]) -> None:
        """Answer End: one reply for each accepted recipient, in order."""
        self._awaited(End)
        if len(replies) != self.accepted:
            raise RuntimeError("the number of replies is not the number of accepted recipients")
        self._discarding = None
        self._out.extend(reply.wire() for reply in replies)
        self._end_transaction()

    def close(self, reply: Reply) -> None:
        """Send a last reply; nothing more is read."""
        self._out.append(reply.wire())
        self._awaiting = None
        self._stream = None
        self._end = None
        self._lines = CommandLines()
        self.closed = True
        self._end_transaction()

    def _awaited(self, kind: object) -> Event:
        event = self._awaiting
        if event is None or not isinstance(event, kind):  # type: ignore[arg-type]
            raise RuntimeError("there is no such event to answer")
        self._awaiting = None
        self._errors = 0
        return event

    def _reset(self) -> Event | None:
        had = self.mail is not None
        self._end_transaction()
        return Reset() if had else None

    def _end_transaction(self) -> None:
        self.mail = None
        self.accepted = 0
        self.ident = ""

    def _refuse(self, refused: Refused) -> None:
        self._out.append(refused.reply.wire())
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self.close(Reply(421, "4.7.0", f"{self.hostname} too many errors"))
