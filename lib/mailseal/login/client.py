# SPDX-License-Identifier: MIT
"""A client of the key agent, on its unix socket.

FAILURES
    NotPermitted: this user has no access to the socket.
    AgentUnavailable: the agent is not running, does not answer in time, or closes the connection.
    Answers of any status are returned to the caller.
"""

from __future__ import annotations

import os
import time

# The module that `socket` is built on: `socket` itself would add 9 ms of imports (selectors, enum)
# to the 10 ms of Python's start, and the checkpassword program starts at each login.
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET
from _socket import socket as UnixSocket  # noqa: N812
from sys import byteorder

from mailseal.errors import AgentUnavailable, NotPermitted, UsageError
from mailseal.login import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:  # collections.abc takes 2 of the 10 ms of mailseal-checkpassword
    from collections.abc import Callable

DEFAULT_SOCKET = "/run/mailseal/agent.sock"
DEFAULT_TIMEOUT = 30.0
_TRIES, _PAUSE = 20, 0.05  # seconds; see startup.BACKLOG


class Answer:
    """Status and fields of an answer."""

    __slots__ = ("fields", "status")

    def __init__(self, status: str, fields: protocol.Fields) -> None:
        self.status = status
        self.fields = fields

    def text(self, name: str) -> str:
        """A field as text; empty if it is missing."""
        return self.fields.get(name, b"").decode("utf-8", "replace")


class AgentClient:
    """One connection, opened at the first request.  `timeout`: seconds for each request."""

    def __init__(self, path: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout
        self._connection: UnixSocket | None = None
        self._rest = b""

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection.  The next request opens it again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._rest = b""

    def request(self, verb: str, **fields: bytes) -> Answer:
        """Send one request and wait for the answer."""
        line = protocol.encode(verb, fields)
        if len(line) > protocol.MAX_REQUEST:
            raise UsageError("the request is too long for the key agent")
        return self._ask(lambda connection: connection.sendall(line))

    def check_file(self, name: bytes, fd: int) -> Answer:
        """Let a descriptor be checked, after the request `check`: login/tag_checks.py."""
        if self._connection is None:
            raise AgentUnavailable("the key agent has closed the connection")
        rights = [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, byteorder))]
        return self._ask(lambda connection: connection.sendmsg([name], rights))

    def _ask(self, send: Callable[[UnixSocket], object]) -> Answer:
        try:
            if self._connection is None:
                self._connection = self._connect()
            send(self._connection)
            status, values = protocol.decode(self._read_line(self._connection))
        except UsageError:
            self.close()
            raise AgentUnavailable("the key agent sent an invalid answer") from None
        except TimeoutError:
            self.close()
            raise AgentUnavailable("the key agent did not answer in time") from None
        except PermissionError:
            self.close()
            raise NotPermitted(
                f"uid {os.getuid()} has no access to the key agent at {self.path}",
                hint="see agent.login_users, agent.panel_users and agent.admin_users",
            ) from None
        except OSError as exc:
            self.close()
            raise AgentUnavailable(
                f"cannot reach the key agent at {self.path}: {exc.strerror or 'connection closed'}",
                hint="is mailseal-agent running? see `systemctl status mailseal-agent`",
            ) from None
        return Answer(status, values)

    def _connect(self) -> UnixSocket:
        """Connect; if too many others wait for the agent, try again for a second."""
        for pause in (*[_PAUSE] * _TRIES, 0.0):
            connection = UnixSocket(AF_UNIX, SOCK_STREAM)
            try:
                connection.settimeout(self.timeout)
                connection.connect(self.path)
            except OSError as exc:
                connection.close()
                if not pause or not isinstance(exc, BlockingIOError):
                    raise
                time.sleep(pause)
            else:
                break
        return connection

    def _read_line(self, connection: UnixSocket) -> bytes:
        chunks = [self._rest]
        size = len(self._rest)
        while b"\n" not in chunks[-1]:
            chunk = connection.recv(65536)
            size += len(chunk)
            if not chunk or size > protocol.MAX_ANSWER:
                raise ConnectionError
            chunks.append(chunk)
        line, _, self._rest = b"".join(chunks).partition(b"\n")
        return line
