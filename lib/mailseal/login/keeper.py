# SPDX-License-Identifier: MIT
"""A process that runs as the owner of the mail, for files that the agent cannot open.

    index caches in memory    measured and removed (memory.py)
    old index folders         emptied
    index folders in use      read ahead (ahead.py)

CONTRACT
    start() starts the processes before the agent has read any key.  They get names from a socket
    of the agent, and can do only this.  They end with the agent.
    Reading ahead has a process of its own: a disk that hangs must not keep caches in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
from typing import Any

from mailseal.config import Config
from mailseal.daemon import drop_root, user_ids
from mailseal.errors import ConfigError
from mailseal.index import ahead, memory
from mailseal.index.memory import Cached
from mailseal.keys import record


class Keeper:
    """The agent's side of the process.  Calls block, and raise OSError if it has ended."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection
        self._stream = connection.makefile("rwb")
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

    def plan(self, name: str, limit: int) -> int:
        """Select what is to be read ahead for a user (ahead.py); returns the number of pieces."""
        return int(self._ask({"do": "plan", "name": name, "limit": limit}))

    def read(self, number: int) -> None:
        """Read this piece of the last plan() into the kernel's memory."""
        self._ask({"do": "read", "number": number})

    def empty(self, root: str, name: str) -> None:
        """Remove what is in a folder that was put aside (folders.py)."""
        self._ask({"do": "empty", "root": root, "name": name})

    def close(self) -> None:
        """End the process; a call that waits for its answer fails."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _ask(self, request: dict[str, object]) -> Any:
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()
        line = self._stream.readline()
        if not line:
            raise BrokenPipeError(errno.EPIPE, "the process for the indexes has ended")
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
    pieces: list[ahead.Piece] = []
    with socket.socket(fileno=0) as own, own.makefile("rwb") as stream:
        for line in stream:
            request = record.parse(line)
            answer: object = None
            if request["do"] == "empty":
                memory.empty(request["root"], request["name"])
            elif request["do"] == "wipe":
                answer = sum(memory.wipe(root, name) for name in request["names"])
            elif request["do"] == "plan":
                pieces = ahead.plan(root, request["name"], request["limit"])
                answer = len(pieces)
            elif request["do"] == "read":
                ahead.read(root, pieces[request["number"]])
            else:
                answer = [[one.name, one.size, one.used] for one in memory.measure(root)]
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()


@dataclasses.dataclass(frozen=True)
class Keepers:
    """The processes; each may be None."""

    caches: Keeper | None = None
    ahead: Keeper | None = None


def start(config: Config) -> Keepers:
    """Start those that the configuration needs, before root is dropped."""
    try:
        uid, gid = user_ids(config.delivery.user, "delivery.user")
    except ConfigError:
        return Keepers()  # check-config reports it
    if os.geteuid() not in (0, uid):
        return Keepers()
    index = config.index

    def keeper(root: str | None, *, wanted: bool = True) -> Keeper | None:
        return Keeper.start(root, uid, gid) if root is not None and wanted else None

    return Keepers(
        caches=keeper(index.cache),
        ahead=keeper(index.folder, wanted=index.read_ahead is not None),
    )
