# SPDX-License-Identifier: MIT
"""Notes of the agent about users, in addition to keyrings.  They contain no secrets.

LAYOUT
    FOLDER/old-mail/NAME    the user has asked to seal older mail; the time of the file is the time
                            of the request
    FOLDER/used/NAME.json   {SLOT: DAY}: the day of the last use of an app password
    FOLDER/addresses.json   {USER: [ADDRESS]}: addresses from which users have logged in
    Folders have mode 0711, files 0644 and 0600.

CONTRACT
    For each slot, there is one write each day.  All notes may be lost: then the last use is
    unknown, the user must ask again, and no address is known.

FAILURES
    want_old_mail() raises TemporaryError.  All others never fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from mailseal import durable
from mailseal.errors import Damaged, MailsealError
from mailseal.keys import record
from mailseal.keys.names import file_name

_DAY = 86400
_REMEMBERED = 20_000
_MAX_FILE = 1 << 16
_MAX_ADDRESSES = 1 << 25


class Notes:
    """The files.  Reading a request only needs execute permission on the folder."""

    def __init__(self, folder: str, *, clock: Callable[[], float] = time.time) -> None:
        self._old_mail = os.path.join(folder, "old-mail")
        self._used = os.path.join(folder, "used")
        self._addresses = os.path.join(folder, "addresses.json")
        self._folder = folder
        self._clock = clock
        self._days: OrderedDict[str, dict[str, int]] = OrderedDict()

    def prepare(self, owner: tuple[int, int] | None = None) -> None:
        """Make the folders if they are missing."""
        for folder in (self._folder, self._old_mail, self._used):
            durable.make_folder(folder, mode=0o711, owner=owner)

    def want_old_mail(self, user: str) -> None:
        """Note the request; another one replaces it."""
        durable.replace(self._wish(user), b"", mode=0o644)

    def forget(self, user: str) -> None:
        """Remove the notes of a user who is not enrolled any more."""
        self._days.pop(user, None)
        with contextlib.suppress(MailsealError):
            durable.remove(self._wish(user))
            durable.remove(self._days_of(user))

    def wants_old_mail(self, user: str) -> int:
        """Time of the last request, in nanoseconds since 1970; 0 if there is none."""
        try:
            return os.stat(self._wish(user), follow_symlinks=False).st_mtime_ns
        except OSError:
            return 0

    def note_use(self, user: str, slot_id: str) -> bool:
        """Note that a slot has opened the keyring.  Returns whether save() is needed."""
        days = self._days.get(user)
        if days is None:
            days = self._days[user] = self._load(user)
            if len(self._days) > _REMEMBERED:
                self._days.popitem(last=False)
        today = int(self._clock()) // _DAY * _DAY
        if days.get(slot_id) == today:
            return False
        days[slot_id] = today
        return True

    def save(self, user: str) -> None:
        """Write the days of one user."""
        data = json.dumps(self._days.get(user, {})).encode() + b"\n"
        with contextlib.suppress(MailsealError):
            durable.replace(self._days_of(user), data)

    def last_use(self, user: str) -> dict[str, int]:
        """Day of the last use by slot, in seconds since 1970."""
        found = self._days.get(user)
        return dict(self._load(user) if found is None else found)

    def save_addresses(self, data: bytes) -> None:
        """Write the addresses of all users."""
        with contextlib.suppress(MailsealError):
            durable.replace(self._addresses, data)

    def load_addresses(self) -> bytes:
        """What save_addresses() has written; empty if there is nothing."""
        with contextlib.suppress(OSError), open(self._addresses, "rb") as stream:
            return stream.read(_MAX_ADDRESSES)
        return b""

    def _load(self, user: str) -> dict[str, int]:
        with contextlib.suppress(OSError, Damaged), open(self._days_of(user), "rb") as stream:
            found = record.parse(stream.read(_MAX_FILE))
            if isinstance(found, dict):
                return {str(slot): day for slot, day in found.items() if isinstance(day, int)}
        return {}

    def _wish(self, user: str) -> str:
        return os.path.join(self._old_mail, file_name(user))

    def _days_of(self, user: str) -> str:
        return os.path.join(self._used, f"{file_name(user)}.json")
