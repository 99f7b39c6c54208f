# SPDX-License-Identifier: MIT
"""The records of mailseal-sealer: one small JSON file for each user.

LAYOUT
    FOLDER/NAME.json    mode 0644 in a folder of mode 0711: open by name, no listing

FAILURES
    A file that cannot be read counts as missing.  save(): TemporaryError, DiskFull.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from mailseal import durable
from mailseal.errors import Damaged
from mailseal.keys import record
from mailseal.keys.names import file_name


class _Record(Protocol):
    @property
    def user(self) -> str: ...


T = TypeVar("T", bound=_Record)

_LONGEST = 1 << 16


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
        with contextlib.suppress(OSError, Damaged, TypeError), open(path, "rb") as stream:
            return self._kind(**record.parse(stream.read(_LONGEST)))
        return None

    def all(self) -> Iterator[T]:
        """The states of all users.  Raises TemporaryError if the folder cannot be listed."""
        with durable.reporting(f"cannot list {self.folder}"):
            names = os.listdir(self.folder)
        for name in names:
            found = self._read(os.path.join(self.folder, name))
            if found is not None and self._path(found.user) == os.path.join(self.folder, name):
                yield found

    def save(self, state: T) -> None:
        """Write the file atomically, with durable.replace()."""
        data = json.dumps(dataclasses.asdict(state)).encode() + b"\n"  # type: ignore[call-overload]
        durable.replace(self._path(state.user), data, mode=0o644, alone=True)

    def _path(self, user: str) -> str:
        return os.path.join(self.folder, f"{file_name(user)}.json")
