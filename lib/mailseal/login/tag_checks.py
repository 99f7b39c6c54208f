# SPDX-License-Identifier: MIT
"""Checks the tags of a logged-in user's mails, without passing keys to another uid.

    sessions    verb: the users whose sessions began within the last `newer` seconds
    check       verb: from now on this connection checks tags for `user`

CONTRACT
    The agent cannot open mail files, and the owner of the mail gets no keys.  So the client (the
    owner of the mail) opens each file and sends the descriptor.  A process with the agent's uid
    (tag_check_process.py), which gets the keys of this session only, reads the file and returns
    the result of the check, without any content of the mail.
    Only agent.admin_users may use these verbs.
    The process ends when the session ends, and when the client closes the connection.  It has the
    lowest CPU priority, and the agent does not wait for it: no login takes longer.

FAILURES
    UsageError: the user has no session.  AgentUnavailable: too many checks already.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from contextvars import ContextVar

import mailseal
from mailseal.errors import AgentUnavailable, UsageError
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Session, Sessions
from mailseal.login.verbs import Answer, Verb, text_of, user_of

TAKEN = "taken"
"""Used as a status: from now on another process answers on this connection."""

_AT_ONCE = 8
_MOST_LISTED = 2000
_PROCESS = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from mailseal.login.tag_check_process import main; main()"
)


connection: ContextVar[asyncio.StreamWriter] = ContextVar("connection")
"""The connection of the current request."""


class TagChecks:
    """The processes that check tags."""

    def __init__(self, sessions: Sessions, log: logging.Logger) -> None:
        self._sessions = sessions
        self._log = log
        self._running: list[subprocess.Popen[bytes]] = []
        self.verbs: dict[str, Verb] = {"sessions": self._list, "check": self._check}

    async def _list(self, fields: Fields) -> Answer:
        newer = text_of(fields, "newer")
        if not newer.isdecimal():
            raise UsageError("`newer` must be a number of seconds")
        found = self._sessions.younger_than(int(newer))[:_MOST_LISTED]
        return "ok", {"users": json.dumps(found).encode()}

    async def _check(self, fields: Fields) -> Answer:
        user = user_of(fields)
        session = self._sessions.current(user)
        if session is None:
            raise UsageError(f"{user} has no session")
        self._running = [process for process in self._running if process.poll() is None]
        if len(self._running) >= _AT_ONCE:
            raise AgentUnavailable("too many mailboxes are being checked")
        writer = connection.get()
        # Further requests of the client are for the other process.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        descriptor = writer.get_extra_info("socket").fileno()
        process = await asyncio.to_thread(_started, session, descriptor)
        self._running.append(process)
        session.at_end = (*session.at_end, process.kill)
        if self._sessions.current(user) is not session:
            process.kill()
        self._log.info("check of stored mail: user=<%s>, pid=%d", user, process.pid)
        return TAKEN, {}


def _started(session: Session, descriptor: int) -> subprocess.Popen[bytes]:
    """Pass the keys through a pipe, which can hold 64 KB, more than the keys of a keyring."""
    keys = "\n".join(key.dovecot_string() for key in session.private_keys())
    library = os.path.dirname(os.path.dirname(mailseal.__file__))
    command = [sys.executable, "-I", "-c", _PROCESS, library]
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(command, stdin=reading, stdout=descriptor, env={})
        os.write(writing, keys.encode())
    finally:
        os.close(reading)
        os.close(writing)
    return process
