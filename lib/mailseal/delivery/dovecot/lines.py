# SPDX-License-Identifier: MIT
"""A client for line-based protocols of Postfix and Dovecot, on a unix socket or TCP.

    peer = Lines(address, timeout)      # a path, or (host, port) in IPv4 or IPv6
    peer.send(b"VERSION\\t1\\t0\\n")
    peer.line()                         # without its LF

CONTRACT
    A reply takes `timeout` seconds at most, even if its bytes arrive slowly.  After a
    failure the connection is closed.

FAILURES
    NotThere  no server listens at the address; nothing was sent
    Broken    all other failures: refused, closed, too slow, line too long
"""

from __future__ import annotations

import socket
import time

from mailseal.errors import TemporaryError


class Broken(TemporaryError):
    """The connection cannot be used any more; the text has the reason."""

    timed_out = False


class NotThere(Broken):
    """No server listens at the address."""


class Lines:
    """One connection, used by one thread at a time.  `limit`: longest line in bytes."""

    def __init__(self, address: str | tuple[str, int], timeout: float, limit: int) -> None:
        self._timeout = timeout
        self._limit = limit
        self._buffer = b""
        self._deadline = time.monotonic() + timeout
        try:
            self._socket = dial(address, timeout)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise NotThere(f"cannot connect: {exc.strerror}") from None
        except OSError as exc:
            raise _broken("cannot connect", exc) from None

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send data.  The time limit for the reply begins again."""
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as exc:
            self.close()
            raise _broken("sending failed", exc) from None
        self.wait_anew()

    def wait_anew(self) -> None:
        """Wait for another reply to the sent data: its time limit begins now."""
        self._deadline = time.monotonic() + self._timeout

    def line(self) -> bytes:
        """The next line, without its LF."""
        while b"\n" not in self._buffer:
            try:
                # 0 would mean not to wait, and a negative value is an error.
                self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
                data = self._socket.recv(65536)
            except OSError as exc:
                self.close()
                raise _broken("no reply", exc) from None
            if not data or len(self._buffer) > self._limit:
                self.close()
                raise Broken("connection closed" if not data else "reply too long")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def quiet(self) -> bool:
        """Whether the connection is open and no unexpected data has arrived."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._buffer
        except OSError:
            return False
        return False


def _broken(what: str, exc: OSError) -> Broken:
    error = Broken(f"{what}: {exc.strerror or 'timed out'}")
    error.timed_out = isinstance(exc, TimeoutError)
    return error


def dial(address: str | tuple[str, int], timeout: float) -> socket.socket:
    """Connect to a unix socket or to (host, port).  The timeout, in seconds, stays set."""
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock
