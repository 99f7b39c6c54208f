# SPDX-License-Identifier: MIT
"""IMAP and POP3 clients that do not change any bytes.

imaplib changes line ends at APPEND, and poplib refuses lines over 2 KB, so tests
that compare bytes can use neither.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator


class Refused(Exception):
    """The server has replied NO, BAD, BYE or -ERR; the text is the server's."""


class _Connection:
    """A connection with CRLF lines and literals."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout: float = 60,
        source: str = "",
        tls: bool = False,
    ) -> None:
        self._socket = socket.create_connection(address, timeout, (source, 0) if source else None)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # the certificates of the tests are self-signed
            self._socket = context.wrap_socket(self._socket)
        self._stream = self._socket.makefile("rb", buffering=1 << 16)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def line(self) -> bytes:
        """One line without its CRLF."""
        line: bytes = self._stream.readline()
        if not line.endswith(b"\n"):
            raise Refused("the server closed the connection")
        return line.removesuffix(b"\n").removesuffix(b"\r")

    def exactly(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        if len(data) != size:
            raise Refused("the server closed the connection")
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
            self._socket.close()


class Imap:
    """One IMAP connection.  `source`: the local address; `tls`: the port expects TLS at once."""

    def __init__(
        self,
        address: tuple[str, int],
        user: str = "",
        password: str = "",
        *,
        source: str = "",
        tls: bool = False,
    ) -> None:
        self._wire = _Connection(address, source=source, tls=tls)
        self._count = 0
        self.greeting = self._wire.line()
        if user:
            self.login(user, password)

    def __enter__(self) -> Imap:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Refused, OSError):
            self.command(b"LOGOUT")
        self._wire.close()

    def command(self, *parts: bytes) -> list[bytes]:
        """Send a command.  If a part ends with `{n}`, the next part is its literal.

        Returns the untagged responses with their literals.  Raises Refused for NO, BAD and BYE.
        """
        self._count += 1
        tag = b"a%d" % self._count
        responses: list[bytes] = []
        pending = list(parts)
        first = tag + b" " + pending.pop(0)
        self._wire.send(first + b"\r\n")
        while True:
            response = self._response()
            if response.startswith(b"+") and pending:
                self._wire.send(pending.pop(0) + b"\r\n")
            elif response.startswith(tag + b" OK"):
                responses.append(response)
                return responses
            elif response.startswith(tag + b" "):
                raise Refused(response[len(tag) + 1 :].decode(errors="replace"))
            elif response.startswith(b"* BYE") and not parts[0].startswith(b"LOGOUT"):
                raise Refused(response[2:].decode(errors="replace"))
            else:
                responses.append(response)

    def _response(self) -> bytes:
        whole = b""
        while True:
            line = self._wire.line()
            match = re.search(rb"\{(\d+)\}$", line)
            whole += line
            if match is None:
                return whole
            whole += b"\r\n" + self._wire.exactly(int(match[1]))

    def login(self, user: str, password: str) -> None:
        """LOGIN with literals, which may contain all bytes except NUL."""
        name, secret = user.encode(), password.encode()
        self.command(b"LOGIN {%d}" % len(name), name + b" {%d}" % len(secret), secret)

    def select(self, mailbox: str = "INBOX") -> int:
        """Open a mailbox; returns the number of mails."""
        for response in self.command(b'SELECT "%s"' % mailbox.encode()):
            if match := re.match(rb"\* (\d+) EXISTS", response):
                return int(match[1])
        raise Refused("SELECT returned no number of mails")

    def body(self, number: int, section: bytes = b"") -> bytes:
        """FETCH BODY.PEEK[section] of one mail of the open mailbox."""
        for response in self.command(b"FETCH %d BODY.PEEK[%s]" % (number, section)):
            if response.startswith(b"* %d FETCH" % number):
                return _literal(response)
        raise Refused(f"FETCH returned nothing for mail {number}")

    def bodies(self, mailbox: str = "INBOX") -> list[bytes]:
        """All mails of a mailbox, in order."""
        return [self.body(n + 1) for n in range(self.select(mailbox))]

    def idle(self) -> None:
        """Begin IDLE; done() must be next."""
        self._count += 1
        self._wire.send(b"a%d IDLE\r\n" % self._count)
        while not self._response().startswith(b"+"):
            pass

    def done(self) -> None:
        """End IDLE."""
        self._wire.send(b"DONE\r\n")
        while not self._response().startswith(b"a%d OK" % self._count):
            pass

    def append(self, mailbox: str, mail: bytes) -> None:
        self.command(b'APPEND "%s" {%d}' % (mailbox.encode(), len(mail)), mail)


class Pop3:
    """One POP3 connection, logged in."""

    def __init__(self, address: tuple[str, int], user: str, password: str) -> None:
        self._wire = _Connection(address)
        self._ok()
        self.command(b"USER " + user.encode())
        self.command(b"PASS " + password.encode())

    def __enter__(self) -> Pop3:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Refused, OSError):
            self.command(b"QUIT")
        self._wire.close()

    def command(self, line: bytes) -> bytes:
        self._wire.send(line + b"\r\n")
        return self._ok()

    def count(self) -> int:
        return int(self.command(b"STAT").split()[1])

    def mail(self, number: int) -> bytes:
        """RETR, without dot-stuffing; lines end with CRLF."""
        self.command(b"RETR %d" % number)
        return b"".join(line + b"\r\n" for line in self._lines())

    def _lines(self) -> Iterator[bytes]:
        while (line := self._wire.line()) != b".":
            yield line.removeprefix(b".")

    def _ok(self) -> bytes:
        line = self._wire.line()
        if not line.startswith(b"+OK"):
            raise Refused(line.decode(errors="replace"))
        return line


def _literal(response: bytes) -> bytes:
    """The string of a FETCH response: a literal, a quoted string or NIL."""
    if match := re.search(rb"\{(\d+)\}\r\n", response):
        return response[match.end() : match.end() + int(match[1])]
    if match := re.search(rb'\] "((?:[^"\\]|\\.)*)"', response):
        return re.sub(rb"\\(.)", rb"\1", match[1])
    return b""
