# SPDX-License-Identifier: MIT
"""The records of mailseal-sealer: one small JSON file for each user.

LAYOUT
    FOLDER/NAME.json    mode 0644 in a folder of mode 0711: open by name, no listing

FAILURES
    A file that cannot be read, or is damaged, counts as missing.  save(): TemporaryError, DiskFull.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from mailseal import durable
from mailseal.errors import BadUserName, Damaged
from mailseal.keys import record
from mailseal.keys.names import file_name


class _Record(Protocol):
    @property
    def user(self) -> str: ...


T = TypeVar("T", bound=_Record)

_LONGEST = 1 << 16
_LARGEST = (1 << 63) - 1


class UserFiles(Generic[T]):
    """The files of all users.  `kind`: the dataclass that they contain."""

    def __init__(self, folder: str, kind: type[T]) -> None:
        self.folder = folder
        self._kind = kind

    def prepare(self) -> None:
        """Make the folder."""
        durable.make_folder(self.folder, mode=0o711)

    def load(self, user: str) -> T | None:
        """The state that was saved last."""
        found = self._read(self._path(user))
        return found if found is not None and found.user == user else None

    def _read(self, path: str) -> T | None:
        with (
            contextlib.suppress(OSError, Damaged, TypeError, BadUserName),
            open(path, "rb", opener=_not_waiting) as stream,
        ):
            state = self._kind(**record.parse(stream.read(_LONGEST)))
            if _has_its_types(state) and self._path(state.user) == path:
                return state
        return None

    def all(self) -> Iterator[T]:
        """The states of all users.  Raises TemporaryError if the folder cannot be listed."""
        with durable.reporting(f"cannot list {self.folder}"):
            names = os.listdir(self.folder)
        for name in names:
            found = self._read(os.path.join(self.folder, name))
            if found is not None:
                yield found

    def save(self, state: T) -> None:
        """Write the file atomically, with durable.replace()."""
        data = json.dumps(dataclasses.asdict(state)).encode() + b"\n"  # type: ignore[call-overload]
        durable.replace(self._path(state.user), data, mode=0o644, alone=True)

    def _path(self, user: str) -> str:
        return os.path.join(self.folder, f"{file_name(user)}.json")


def _not_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe with nobody at the other end


def _has_its_types(state: object) -> bool:
    """A damaged file must not stop the service, which works for all users."""
    for field in dataclasses.fields(state):  # type: ignore[arg-type]
        value = getattr(state, field.name)
        wanted = str(field.type).partition("[")[0]  # annotations are strings
        if type(value).__name__ != wanted and (type(value), wanted) != (int, "float"):
            return False
        if isinstance(value, int) and not 0 <= value <= _LARGEST:
            return False
    return True
