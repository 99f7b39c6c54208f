# SPDX-License-Identifier: MIT
"""Ends sessions whose keyring another host's agent has changed or locked.

CONTRACT
    A separate thread asks the database; the event loop never waits for it.  Each login compares
    its session with the database anyway.  This thread removes private keys from memory within
    seconds when `mailseal lock --all` is run on any host, and locks the index folders.
    While the database is down, sessions stay.

PostgreSQL notifies of a change at once; MariaDB is asked a few times a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from mailseal.errors import MailsealError
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.feed import Feed, Names, Position
from mailseal.keys.sql.hosts import Hosts
from mailseal.keys.stores import KeyringStore, Revision
from mailseal.login.startup import tell_unreachable

_EVERY = 1.0
_TIDY = 3600.0

Changed = Mapping[str, Revision | None] | None
"""Users with changed keyrings, and their new revisions; None: all users."""

Told = Callable[[Changed, Names], None]
"""Gets the changes, and the users that were locked on another host."""


class Watch:
    """The thread, which calls `changed`."""

    def __init__(
        self,
        database: Database,
        keyrings: KeyringStore,
        changed: Told,
        log: logging.Logger,
    ) -> None:
        self._database = database
        self._keyrings = keyrings
        self._changed = changed
        self._log = log
        self._feed = Feed(database)
        self._hosts = Hosts(database)
        self._position: Position | None = None
        self._problem = ""
        self._tidied = 0.0

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.look()
                if self._problem:
                    self._log.info("the database answers again")
                self._problem = ""
                self._database.wait(_EVERY)
            except MailsealError as exc:
                # A database that is set up again may not know the user any more.
                if (problem := f"{exc}; {exc.hint}") != self._problem:
                    tell_unreachable(self._log, exc, "%s; users with a session can still log in")
                self._problem = problem
                time.sleep(_EVERY)

    def look(self) -> None:
        """Ask the database one time."""
        if self._position is None:
            self._position = self._feed.now()
            return
        now, names, locked = self._feed.since(self._position)
        if names is None:
            self._changed(None, locked)
        elif names:
            self._changed({name: self._keyrings.revision(name) for name in names}, locked)
        self._position = now
        if time.monotonic() - self._tidied > _TIDY:
            self._tidied = time.monotonic()
            self._feed.forget_old()
            for name in self._hosts.forget_silent():
                self._log.info("host %s: removed its row from before a reboot", name)
