# SPDX-License-Identifier: MIT
"""Identifies the agent's clients by their uid, and decides which verbs they may use.

CONTRACT
    login   agent.login_users: the login verbs
    panel   agent.panel_users: verbs that require the user's password (panel_verbs.py)
    page    of these, web.user: also the verbs of self_service.py, and its word about the
            address of its client counts.  What other panels say could have others banned
    admin   agent.admin_users: all verbs
    All others get the answer "denied".  A uid that is not listed has at most
    UNLISTED_AT_ONCE connections, all of these together UNLISTED_TOGETHER, and a panel
    PANEL_AT_ONCE; further connections are closed.  There is no limit for login_users
    and admin_users: Dovecot and administrators limit these themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

UNLISTED_AT_ONCE = 4
UNLISTED_TOGETHER = 32
PANEL_AT_ONCE = 16
_LOG_EVERY = 10.0


@dataclasses.dataclass(frozen=True)
class Caller:
    """One uid and its rights."""

    uid: int
    login: bool = False
    panel: bool = False
    admin: bool = False
    page: bool = False

    def rights(self) -> dict[str, bool]:
        """For LoginVerbs.answer()."""
        return {"login": self.login, "panel": self.panel, "page": self.page, "admin": self.admin}

    @property
    def listed(self) -> bool:
        """Whether the uid is in a list of the configuration."""
        return self.login or self.panel or self.admin


class Callers:
    """The lists of the configuration, and the number of connections of each uid."""

    def __init__(
        self,
        *,
        login: frozenset[int],
        panel: frozenset[int],
        admin: frozenset[int],
        page: frozenset[int] = frozenset(),
    ) -> None:
        self._page = page
        self._login = login
        self._panel = panel
        self._admin = admin
        self._open: Counter[int] = Counter()
        self._logged: dict[int, float] = {}

    def of(self, connection: socket.socket) -> Caller:
        """The client of a connection: SO_PEERCRED, from the time of its connect(2)."""
        uid = uid_of(connection)
        admin = uid in self._admin
        panel, login = uid in self._panel, uid in self._login
        return Caller(uid, admin or login, admin or panel, admin, admin or uid in self._page)

    @contextlib.contextmanager
    def connected(self, caller: Caller) -> Iterator[bool]:
        """Count a connection while it is open.  Yields False if there are too many."""
        self._open[caller.uid] += 1
        try:
            yield self._has_room(caller)
        finally:
            self._open[caller.uid] -= 1
            if not self._open[caller.uid]:
                del self._open[caller.uid]

    def _has_room(self, caller: Caller) -> bool:
        mine = self._open[caller.uid]
        if caller.login:
            return True
        if caller.panel:
            return mine <= PANEL_AT_ONCE
        listed = self._login | self._panel | self._admin
        others = sum(count for uid, count in self._open.items() if uid not in listed)
        return mine <= UNLISTED_AT_ONCE and others <= UNLISTED_TOGETHER

    def log_refusal(self, log: logging.Logger, caller: Caller, what: str) -> None:
        """Log a refusal, at most once in ten seconds for each uid."""
        now = time.monotonic()
        if now - self._logged.get(caller.uid, -_LOG_EVERY) >= _LOG_EVERY:
            if len(self._logged) >= 1000:
                self._logged.clear()
            self._logged[caller.uid] = now
            log.warning("refused uid=%d: %s", caller.uid, what)


def uid_of(connection: socket.socket) -> int:
    """The uid at the other end when it called connect(2): SO_PEERCRED."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", raw)[1])
