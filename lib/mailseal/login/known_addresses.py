# SPDX-License-Identifier: MIT
"""Keeps the addresses from which users have logged in over a restart of the agent.

Otherwise, during an attack on a user, a restart would make the user wait like the attacker.  The
file contains names of users and addresses, as Dovecot's log does, and no secrets.  It may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from mailseal.errors import Damaged
from mailseal.keys import record
from mailseal.login.guesses import Guesses
from mailseal.login.notes import Notes

_EVERY = 600.0
"""Seconds between two writes, if there are new addresses.  A crash loses those of this time."""


class KnownAddresses:
    """The file, and the addresses in memory."""

    def __init__(self, guesses: Guesses, notes: Notes) -> None:
        self._guesses = guesses
        self._notes = notes
        self._saved = 0
        with contextlib.suppress(Damaged):
            found = record.parse(notes.load_addresses() or b"{}")
            for user, places in found.items() if isinstance(found, dict) else ():
                for place in places if isinstance(places, list) else ():
                    if isinstance(place, str):
                        guesses.note_right(user, place.partition("/")[0])
        self._saved = guesses.changes

    async def run(self) -> None:
        """Write the file from time to time."""
        while True:
            await asyncio.sleep(_EVERY)
            if changed := self._changed():
                await asyncio.to_thread(self._notes.save_addresses, changed)

    def save(self) -> None:
        """Write the file, when the agent ends."""
        if changed := self._changed():
            self._notes.save_addresses(changed)

    def _changed(self) -> bytes:
        if self._saved == self._guesses.changes:
            return b""
        self._saved = self._guesses.changes
        return json.dumps(self._guesses.known()).encode() + b"\n"
