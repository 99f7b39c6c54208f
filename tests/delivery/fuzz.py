# SPDX-License-Identifier: MIT
"""Fuzz test of the LMTP protocol: commands and data in random order, and rules to check.

    python -m tests.delivery.fuzz [SECONDS]     for this time, or until a rule is broken

Rules: no unexpected exceptions; after the end of a mail one reply for each accepted
recipient; no bytes of a mail before 354 or after its end; no more than a command line
in memory.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable

from mailseal.delivery.lmtp.command_lines import MAX_LINE
from mailseal.delivery.lmtp.events import Data, End, Mail, Piece, Quit, Recipient
from mailseal.delivery.lmtp.protocol import Limits, LmtpSession
from mailseal.delivery.lmtp.syntax import Reply

_LINES = [b"LHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"RCPT TO:<x@unknown>", b"DATA", b"."]
_LINES += [b"RSET", b"NOOP", b"QUIT", b"MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME SMTPUTF8", b"EHLO x"]
_LINES += [b"XFORWARD IDENT=A+2B1", b"XFORWARD IDENT=[unavailable]", b"XFORWARD IDENT"]
_BITS = [b"MAIL FROM:<>", b"\r", b"\n", b".", b"\r\n", b"\r\n.\r\n", b"text", b"\0", b"\xff"]
_BITS += [b"x" * 700, b" SIZE=9", b" SIZE=999", b"<", b">", b'"', b"BDAT 5 LAST\r\n"]
_WORDS = [line + b"\r\n" for line in _LINES] + _BITS
_BIAS = [b"LHLO x\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n", b"text\r\n.\r\n"]


def words(numbers: Iterable[int]) -> list[bytes]:
    """Commands by number; every second one continues a correct transaction."""
    return [
        _BIAS[index // 2 % len(_BIAS)] if number % 2 else _WORDS[number // 2 % len(_WORDS)]
        for index, number in enumerate(numbers)
    ]


class Peer:
    """A server with an LmtpSession, which checks the rules."""

    def __init__(self, limits: Limits) -> None:
        self.session = LmtpSession(limits, "h", trusted=True)
        self.out = self.session.output()
        self.mails: list[tuple[list[str], bytes]] = []
        self._recipients: list[str] = []
        self._body = b""
        self._in_data = False
        self._over = False

    def give(self, data: bytes) -> None:
        """Process bytes from the client, and answer all events at once."""
        if self.session.closed:
            return
        self.session.receive(data)
        while (event := self.session.next_event()) is not None:
            assert not self._over, "an event after Quit"
            match event:
                case Mail():
                    self._recipients = []
                    self.session.accept_mail()
                case Recipient():
                    if event.address.domain == "unknown":
                        self.session.refuse(Reply(550, "5.1.1", "unknown"))
                    else:
                        self._recipients.append(str(event.address))
                        self.session.accept_recipient()
                case Data():
                    assert self._recipients
                    self._in_data, self._body = True, b""
                    self.session.accept_data()
                case Piece():
                    assert self._in_data
                    self._body += event.data
                case End():
                    self._end(event)
                case Quit():
                    self._over = True
        self.out += self.session.output()
        assert self.session.buffered <= MAX_LINE + len(data)

    def _end(self, event: End) -> None:
        assert self._in_data
        self._in_data = False
        self.out += self.session.output()
        self.session.finish([event.reply or Reply(250, "2.0.0", "ok")] * len(self._recipients))
        replies = self.session.output()
        assert replies.count(b"\r\n") == len(self._recipients)
        self.out += replies
        if event.reply is None:
            assert len(self._body) <= self.session.limits.message
            self.mails.append((self._recipients, self._body))

    def check(self) -> None:
        """The rules at the end of each dialogue."""
        assert self.out.endswith(b"\r\n")
        for line in self.out.split(b"\r\n")[:-1]:
            assert line[:3].isdigit(), line
            assert line[3:4] in (b" ", b"-"), line
            assert all(32 <= byte < 127 for byte in line), line
        assert self.session.closed == self._over


def main(seconds: float) -> int:
    """Run the test for this time; prints the number of dialogues."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    stop = time.monotonic() + seconds
    count = 0
    while time.monotonic() < stop:
        peer = Peer(Limits(300, 4))
        numbers = [chance.randrange(10**9) for _ in range(chance.randrange(1, 80))]
        try:
            for word in words(numbers):
                peer.give(word)
            peer.check()
        except Exception:
            print(f"seed {seed}, conversation {count}: {words(numbers)}")
            raise
        count += 1
    print(f"{count} conversations, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
