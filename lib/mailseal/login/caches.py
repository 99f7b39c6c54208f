# SPDX-License-Identifier: MIT
"""Index caches in memory: removed after a user's last connection has ended, and limited in size.

CONTRACT
    sweep() removes the cache of each enrolled user who has had no connection for `wipe_after`
    seconds.  If a limit is exceeded, it also removes the least recently used caches of any users.
    If anvil cannot be asked, only the limits apply.  wipe() removes a cache at once.

    The agent cannot change files of the owner of the mail.  So start() starts a process that runs
    as this owner, before the agent has read any key.  It reads names from a pipe, and can only
    measure and remove caches.  It ends with the agent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import functools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from mailseal.config import Config
from mailseal.daemon import drop_root, user_ids
from mailseal.errors import BadUserName, ConfigError, MailsealError
from mailseal.index import memory
from mailseal.index.memory import Cached
from mailseal.keys import record
from mailseal.keys.names import normalise

_PLAIN_FOR = 600.0


class Keeper:
    """The process that can remove caches.  Calls block, and raise OSError if it has ended."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._stream = connection.makefile("rwb")
        connection.close()
        self.pid = pid

    @classmethod
    def start(cls, root: str, uid: int, gid: int) -> Keeper:
        """Start the process; needs root, or the same user."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                _serve(theirs, root, uid, gid)
            finally:
                os._exit(0)
        theirs.close()
        return cls(ours, pid)

    def measure(self) -> list[Cached]:
        """The caches of all users."""
        answer = self._ask({"do": "measure"})
        return [Cached(str(name), int(size), float(used)) for name, size, used in answer]

    def wipe(self, names: list[str]) -> int:
        """Remove the files of these users; returns their number."""
        return int(self._ask({"do": "wipe", "names": names})) if names else 0

    def empty(self, root: str, name: str) -> None:
        """Remove what is in a folder that was put aside (folders.py)."""
        self._ask({"do": "empty", "root": root, "name": name})

    def _ask(self, request: dict[str, object]) -> Any:
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:
            raise BrokenPipeError(errno.EPIPE, "the process for the index caches has ended")
        return record.parse(line)


def _serve(connection: socket.socket, root: str, uid: int, gid: int) -> None:
    """The process itself.  It closes all files of the agent, such as its lock and sockets."""
    fd = connection.detach()
    os.dup2(fd, 0)
    os.closerange(1, 4096)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the agent's end is closed
    if os.geteuid() == 0:
        drop_root(uid, gid)
    with socket.socket(fileno=0) as own, own.makefile("rwb") as stream:
        for line in stream:
            request = record.parse(line)
            if request["do"] == "empty":
                memory.empty(request["root"], request["name"])
                answer: object = None
            elif request["do"] == "wipe":
                answer = sum(memory.wipe(root, name) for name in request["names"])
            else:
                answer = [[one.name, one.size, one.used] for one in memory.measure(root)]
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()


class Caches:
    """Decides which caches the Keeper removes.  Used by the event loop only."""

    def __init__(
        self,
        keeper: Keeper,
        is_enrolled: Callable[[str], bool],
        *,
        limits: tuple[int, int],
        wipe_after: float,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._is_enrolled = is_enrolled
        self._per_user, self._total = limits
        self._wipe_after = wipe_after
        self._log = log
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._plain: dict[str, float] = {}
        self._problem = ""
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="caches")

    def note(self, user: str) -> None:
        """Note a login."""
        self._seen[user] = self._clock()
        self._plain.pop(user, None)

    async def sweep(self, named: set[str] | None) -> None:
        """Remove caches over the limits, and those of all but these users (None: unknown)."""
        now = self._clock()
        for user in named or ():
            self._seen[user] = now
        if named is not None:
            self._seen = {u: at for u, at in self._seen.items() if now - at < self._wipe_after}
        users = None if named is None else set(self._seen)
        await self._quietly(lambda: self._tidy(users))

    async def wipe(self, user: str | None = None) -> None:
        """Remove the caches of one user, or of all enrolled users, even if they are in use."""
        if user is None:
            self._seen.clear()
            await self._quietly(lambda: self._tidy(set()))
        else:
            self._seen.pop(user, None)
            await self._quietly(lambda: self._wipe_names(lambda name: _normal(name) == user))

    async def empty(self, root: str, names: list[str]) -> None:
        """Remove what is in these folders, if there is a process that can."""
        for name in names:
            await self._quietly(functools.partial(self._keeper.empty, root, name))

    async def stop(self, named: set[str] | None) -> None:
        """Remove the caches of all but these users."""
        self._seen.clear()
        await self.sweep(named)
        self._thread.shutdown()

    def _tidy(self, users: set[str] | None) -> None:
        found = self._keeper.measure()
        gone = memory.over_limits(found, self._per_user, self._total)
        if gone:
            self._log.info("index caches too large, wiped: %d", len(gone))
        if users is not None:
            unused = [one.name for one in found if _normal(one.name) not in users]
            gone += [name for name in unused if self._is_ours(_normal(name))]
        self._keeper.wipe(gone)

    def _is_ours(self, user: str) -> bool:
        """Whether the user is enrolled; False if that is not known.

        A "no" is kept for a while: a site may have many users who are not enrolled, whose caches
        stay, and a look-up may be a query of a database.
        """
        now = self._clock()
        if not user or now - self._plain.get(user, -_PLAIN_FOR) < _PLAIN_FOR:
            return False
        try:
            enrolled = self._is_enrolled(user)
        except MailsealError:
            return False
        if not enrolled:
            self._plain[user] = now
        return enrolled

    def _wipe_names(self, wanted: Callable[[str], bool]) -> None:
        self._keeper.wipe([one.name for one in self._keeper.measure() if wanted(one.name)])

    async def _quietly(self, job: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except (OSError, ValueError, MailsealError) as exc:
            if str(exc) != self._problem:
                self._problem = str(exc)
                self._log.warning("index caches in memory are not wiped: %s", exc)


def _normal(name: str) -> str:
    """The user of this folder; empty if it is not a user's folder."""
    try:
        return normalise(name)
    except BadUserName:
        return ""


def start(config: Config) -> Keeper | None:
    """Start the Keeper before root is dropped; None if the configuration needs none."""
    if config.index.cache is None:
        return None
    try:
        uid, gid = user_ids(config.delivery.user, "delivery.user")
    except ConfigError:
        return None  # check-config reports it
    if os.geteuid() not in (0, uid):
        return None
    return Keeper.start(config.index.cache, uid, gid)
