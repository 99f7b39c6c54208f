# SPDX-License-Identifier: MIT
"""A process of the agent that answers lookups of Dovecot 2.3's auth, without starting a program.

For sites without Lua: dovecot-conf/2.3/*-checkpassword.conf.  Dovecot's dict driver asks it before
the checkpassword program, as a userdb and as a passdb.  It reads the local store of public keys and
nothing else.  It is started before the agent has read a key, and works while the agent is busy.

CONTRACT
    It answers only what is usual and certain.  For everything else (refusals, master users, user
    names that are too long for the store, a store that cannot be read) the answer is "not
    found", and Dovecot starts the program, which decides and logs.  If this process does not run,
    Dovecot starts the program too.  If it is suspended, Dovecot waits for half a minute.
    userdb   the fields of userdb_answer.py
    passdb   behind another one that has accepted the password: no fields for a user who is
             certainly not enrolled, so the login is complete; `noauthenticate` for all others, and
             the search goes on.  It never accepts a login itself: without a password in the
             answer, Dovecot takes it for a failure unless another passdb has accepted the login.
    Only root and agent.login_users are answered.

PROTOCOL (Dovecot 2.3, lib-dict/dict-client.h)
    Lines; fields are separated by TAB, and TAB, LF, CR, NUL, 0x01 in them are written as 0x01 and a
    letter.  -> H… (ignored)   -> L<key>…   <- O<value>, a JSON object, or N, or F<reason>
    The key is made in dovecot-conf/2.3/lookup-*.conf.ext: `shared/` and the fields that answer()
    lists, separated by "|".  If a value contains "|", the number of fields is wrong: "not found".

COST
    0.1 ms of processor time for a lookup, 10 to 15 ms less than for the program.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterator

from mailseal import sockets
from mailseal.config import Config
from mailseal.daemon import drop_root, end_with, user_ids
from mailseal.errors import TemporaryError
from mailseal.login import hardening, local_keys, userdb_answer
from mailseal.login.callers import uid_of
from mailseal.login.from_config import login_group, uids
from mailseal.login.userdb_answer import Lookup
from mailseal.logs import Ids
from mailseal.paths import open_folder
from mailseal.sockets import made_with

_BACKLOG = 16
_MAX_LINE = 65536
_WAKE = 1.0
"""Seconds.  A signal that comes just before the process waits for clients is seen after this."""
_UNESCAPES = {"0": "\0", "1": "\x01", "t": "\t", "n": "\n", "r": "\r"}

NOT_FOUND = b"N\n"
_FIELDS = {"behind": 11, "only": 11, "passdb": 3}
"""The first field of a key, and the number of fields: see answer()."""


def socket_path(config: Config) -> str:
    """The socket, in a folder of its own beside the agent's: /run/mailseal/lookup/agent.sock.

    The folder belongs to the agent.  So the socket can be removed when nobody listens any more:
    Dovecot would try to connect to it for a second, at each lookup.
    """
    folder, name = os.path.split(config.agent.socket)
    return os.path.join(folder, "lookup", name)


@contextlib.contextmanager
def running(config: Config, version: str, log: logging.Logger) -> Iterator[int | None]:
    """Run the process during the block; yields its pid, or None if Dovecot is not 2.3.

    To be called as root, if the agent is started as root, and with the agent's lock: so another
    process that listens there can only be one that is about to end.  Raises ConfigError.
    """
    if version != "2.3":
        yield None
        return
    path, owner = socket_path(config), user_ids(config.agent.user, "agent.user")
    _make_folder(os.path.dirname(path), owner)
    with open_folder(os.path.dirname(path)) as folder, contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.basename(path), dir_fd=folder.fd)
    listener = sockets.listen(
        path, mode=config.agent.socket_mode, group=login_group(config), backlog=_BACKLOG
    )
    made = os.stat(path, follow_symlinks=False)
    allowed = uids(config.agent.login_users, "agent.login_users") | {0, os.geteuid()}
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(listener, owner, parent)
            Server(listener, config.public_dir, allowed).serve()
        finally:
            _remove(path, made)
            os._exit(0)
    listener.close()

    def ended(_number: int, _frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0]:
                _remove(path, made)
                log.error(
                    "the process for lookups has ended: Dovecot starts mailseal-checkpassword for "
                    "each lookup, which takes longer; restart the agent"
                )

    signal.signal(signal.SIGCHLD, ended)
    try:
        yield pid
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        _remove(path, made)


def _make_folder(path: str, owner: Ids) -> None:
    with open_folder(os.path.dirname(path)) as above, made_with(0o022, None):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.basename(path), 0o755, dir_fd=above.fd)
        if os.geteuid() == 0 and above.own:
            with open_folder(path) as folder:
                os.chown(folder.entry("."), *owner)


def _remove(path: str, made: os.stat_result) -> None:
    """Remove the socket, unless it is that of a later agent."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path, follow_symlinks=False), made):
            os.unlink(path)


def _become(listener: socket.socket, owner: Ids, parent: int) -> None:
    """Keep the socket, close the agent's files, drop root, end with the agent."""
    number = listener.fileno()
    os.closerange(3, number)
    os.closerange(number + 1, 4096)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.geteuid() == 0:
        drop_root(*owner)
    hardening.forbid_dumps()
    end_with(parent, signal.SIGTERM)


class Server:
    """Answers on one thread: an answer is a few small files, which are in the page cache."""

    def __init__(self, listener: socket.socket, public: str, allowed: frozenset[int]) -> None:
        self._listener, self._public, self._allowed = listener, public, allowed
        self._loop = selectors.DefaultSelector()
        self._received: dict[socket.socket, bytes] = {}

    def serve(self) -> None:
        """Answer for ever."""
        self._listener.setblocking(False)
        self._loop.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._loop.select(_WAKE):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            if uid_of(client) in self._allowed:
                self._received[client] = b""
                self._loop.register(client, selectors.EVENT_READ)
            else:
                client.close()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(_MAX_LINE)
            *lines, rest = (self._received[client] + data).split(b"\n")
            self._received[client] = rest
            answers = b"".join(map(self._line, lines))
            # An answer that does not fit into the socket's buffer: the client does not read.
            good = bool(data) and len(rest) < _MAX_LINE
            good = good and (not answers or client.send(answers) == len(answers))
        except OSError:
            good = False
        if not good:
            self._loop.unregister(client)
            del self._received[client]
            client.close()

    def _line(self, line: bytes) -> bytes:
        """The answer to one line, maybe empty."""
        if line[:1] == b"H":
            return b""
        if line[:1] != b"L":
            return b"Fonly lookups are answered\n"
        try:
            key = _unescaped(line[1:].split(b"\t")[0].decode())
            found = answer(key, self._public)
        except (TemporaryError, local_keys.LongName, ValueError):
            return NOT_FOUND
        return NOT_FOUND if found is None else b"O" + json.dumps(found).encode() + b"\n"


def answer(key: str, public: str) -> dict[str, str] | None:
    """The fields for a key; None: the checkpassword program decides.

    behind, only  public key of the passdb | values that undo sealing | three mail locations
                  | mechanism | service | master user | (empty, see the file) | user name
    passdb        session | user name

    Raises TemporaryError, LongName and ValueError: the program decides too.
    """
    kind, *values = key.removeprefix("shared/").split("|")
    user = values[-1].encode() if values else b""
    if len(values) + 1 != _FIELDS.get(kind) or not user:
        return None
    published = local_keys.look_up(public, user)
    if kind == "passdb":
        certain = published is None and not local_keys.enrolls_at_login(public)
        return {} if certain else {"noauthenticate": "y"}
    given, undoing, *mail, mechanism, service, master = values[:-2]
    lookup = Lookup(given, undoing, mail, mechanism, service, master)
    if lookup.by_master:
        return None
    return userdb_answer.answer(lookup, published, behind=kind == "behind")


def _unescaped(text: str) -> str:
    head, *parts = text.split("\x01")
    return head + "".join(_UNESCAPES.get(part[:1], part[:1]) + part[1:] for part in parts)
