# SPDX-License-Identifier: MIT
"""Full-text search: gives Dovecot's indexer the keys of users who have a session, and no others.

Dovecot's indexer-worker looks up a user in the userdb, without a password.  The userdb cannot
check the client: the client itself sends the service name, and the delivery daemon must be able
to use the userdb too.  So the userdb does not return keys.  Only indexer-worker has
`auth_socket_path = agent.indexer_socket`.  It asks this agent, which gets the client's uid from
the kernel (SO_PEERCRED) and answers only root.  The agent asks Dovecot's userdb for the lookup.

CONTRACT
    not enrolled                      the userdb's answer, unchanged
    enrolled, with session and
      unlocked index folder           the userdb's answer, a login's key fields, and the folder
    enrolled, otherwise               FAIL: nothing is indexed, and searches read the mails
    The service must be indexer-worker.  Only lookups (USER) are answered.
    begin() asks Dovecot to index INBOX in the background.  It never fails, and the login does not
    wait for it.

PROTOCOL
    Dovecot's auth-master protocol (lib-auth/auth-master.c): lines of fields that are separated by
    TAB and escaped with 0x01.  The server first sends VERSION and SPID.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Sequence

from mailseal.config import Config
from mailseal.errors import BadUserName, ConfigError, MailsealError, TemporaryError
from mailseal.keys.names import normalise
from mailseal.login.callers import uid_of
from mailseal.login.host_copy import in_use
from mailseal.login.indexes import Indexes
from mailseal.login.login_verbs import LoginVerbs
from mailseal.login.mailcrypt_fields import LINE_LIMIT, Named, login_fields
from mailseal.sockets import listen

_HELLO = b"VERSION\t1\t0\n"
_SERVICE = {"service=indexer-worker", "protocol=indexer-worker"}  # of 2.3, of 2.4
_TIMEOUT = 20.0
_SILENCE = 300.0
_AGAIN = 60.0
"""Seconds after which a login asks again for INBOX to be indexed."""

_ESCAPES = {"\0": "\x010", "\x01": "\x011", "\t": "\x01t", "\r": "\x01r", "\n": "\x01n"}
_UNESCAPES = {code[1]: char for char, code in _ESCAPES.items()}


class Indexer:
    """Answers indexer-worker, and starts indexing at a login.  Used by the event loop only."""

    def __init__(
        self, config: Config, listener: socket.socket, service: LoginVerbs, indexes: Indexes
    ) -> None:
        self._listener = listener
        self._sessions, self._stored, self._indexes = service.sessions, service.stored, indexes
        self._version, self._log = service.version, service.log
        self._userdb = config.dovecot.userdb_socket
        self._dovecot = config.dovecot.indexer_socket
        self._began: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()

    def start(self) -> None:
        """Answer until the event loop ends."""
        self._keep(asyncio.create_task(self._serve()))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of indexer-worker."""
        if (task := asyncio.current_task()) is not None:
            self._keep(task)
        try:
            if (uid := uid_of(writer.get_extra_info("socket"))) != 0:
                self._tell(f"refused uid={uid} at the indexer's socket: only root is answered")
                return
            writer.write(_HELLO + b"SPID\t%d\n" % os.getpid())
            while True:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), _SILENCE)
                fields = [_unescape(field) for field in line.decode().rstrip("\n").split("\t")]
                if fields[0] == "VERSION":
                    continue
                if len(fields) < 3:
                    return
                writer.write((await self._answer(fields)).encode())
                await writer.drain()
        except (ConnectionError, TimeoutError, asyncio.CancelledError, EOFError, ValueError):
            pass  # closed, silent for too long, not this protocol, or the agent stops
        finally:
            writer.close()

    def begin(self, user: str, service: str) -> None:
        """After an IMAP login, ask Dovecot to index INBOX in the background."""
        now = time.monotonic()
        if service != "imap" or now - self._began.get(user, -_AGAIN) < _AGAIN:
            return
        if len(self._began) > 10_000:
            self._began.clear()
        self._began[user] = now
        self._keep(asyncio.create_task(self._request(user)))

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=1 << 16)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Keep a reference to the task; the event loop has none."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, user: str) -> None:
        """Send the request.  With tag 0, the only answer is an acknowledgement."""
        name = {"2.3": "indexer", "2.4": "indexer-client"}[self._version]
        request = f"VERSION\t{name}\t1\t0\nAPPEND\t0\t{_escape(user)}\tINBOX\t0\n"
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._dovecot)
                try:
                    writer.write(request.encode())
                    await reader.readuntil(b"\tOK\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as exc:
            reason = getattr(exc, "strerror", None) or "no answer"
            self._tell(f"cannot start Dovecot's indexer at {self._dovecot}: {reason}")

    async def _answer(self, fields: Sequence[str]) -> str:
        """The answer to one request: `USER id name service=… …`."""
        number = fields[1]
        if fields[0] != "USER" or not re.fullmatch(r"\d{1,10}", number):
            return f"FAIL\t{number}\n"
        try:
            found = await self._look_up(fields[2:])
            if found[0] == "USER":
                found = [*found[:3], *await self._completed(found[2], found[3:], fields[3:])]
        except MailsealError as exc:
            self._tell(f"user=<{fields[2]}> is not indexed: {exc}")
            return f"FAIL\t{number}\treason={_escape(str(exc))}\n"
        line = "\t".join([found[0], number, *map(_escape, found[2:])]) + "\n"
        if len(line.encode()) > LINE_LIMIT:
            return f"FAIL\t{number}\treason=too many key pairs\n"
        return line

    async def _look_up(self, question: Sequence[str]) -> list[str]:
        """The answer of Dovecot's userdb.  Raises TemporaryError."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._userdb)
                try:
                    line = "\t".join(["USER", "1", *map(_escape, question)])
                    writer.write(_HELLO + line.encode() + b"\n")
                    while True:
                        answer = (await reader.readuntil(b"\n")).decode().rstrip("\n").split("\t")
                        if answer[0] in ("USER", "NOTFOUND", "FAIL"):
                            return [_unescape(field) for field in answer]
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
            reason = getattr(exc, "strerror", None) or type(exc).__name__
            raise TemporaryError(f"Dovecot's userdb at {self._userdb}: {reason}") from None

    async def _completed(
        self, name: str, answer: Sequence[str], question: Sequence[str]
    ) -> list[str]:
        """The fields of a user, with keys if the contract allows it.  Raises TemporaryError."""
        try:
            user = normalise(name.encode())
        except BadUserName:
            return list(answer)  # cannot be enrolled
        found = await self._stored.look(user)
        if found.is_new:
            return list(answer)
        if _SERVICE.isdisjoint(question):
            raise TemporaryError("only Dovecot's service indexer-worker gets keys here")
        # No await from here on, so the state does not change before the answer is written.
        session = self._sessions.peek(user, found.revision)
        index = self._indexes.fields_if_open(user)
        if session is None or index is None:
            raise TemporaryError("no session, so no key; the next login indexes the mail")
        keys = session.private_keys()
        seals = in_use(found.copied, [key.public for key in keys])
        named: Named = [*login_fields(self._version, keys, seals), *index]
        ours = {name for name, _ in named}
        others = [field for field in answer if field.partition("=")[0] not in ours]
        return [*others, *(f"{name}={value}" for name, value in named)]

    def _tell(self, what: str) -> None:
        """Log this, once for each reason."""
        if what not in self._told:
            if len(self._told) > 1000:
                self._told.clear()
            self._told.add(what)
            self._log.warning("indexer: %s", what)


def open_socket(config: Config) -> socket.socket | None:
    """The socket for indexer-worker, mode 0600; None without full-text search.

    Called as root.  Raises ConfigError.
    """
    path = config.agent.indexer_socket
    if path is None:
        return None
    if config.index.folder is None:
        raise ConfigError(
            "option agent.indexer_socket: the words of all mails would be in clear on the disk",
            hint="set index.folder too, see docs/index-privacy.md",
        )
    if not config.dovecot.userdb_socket.startswith("/"):
        raise ConfigError("option agent.indexer_socket: dovecot.userdb_socket must be a path")
    return listen(path, mode=0o600, group=None, backlog=64)


def configured(
    config: Config, listener: socket.socket | None, service: LoginVerbs, indexes: Indexes
) -> Indexer | None:
    """The Indexer; None without full-text search."""
    return None if listener is None else Indexer(config, listener, service, indexes)


def _escape(text: str) -> str:
    return re.sub("[\0\x01\t\r\n]", lambda found: _ESCAPES[found[0]], text)


def _unescape(text: str) -> str:
    return re.sub("\x01(.)", lambda found: _UNESCAPES.get(found[1], found[1]), text)
