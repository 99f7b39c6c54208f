# SPDX-License-Identifier: MIT
"""Dovecot's configuration as files and lines, to add lines in the right place.

doveconf prints settings without the files in which they are.  This module follows `!include` in
the order in which Dovecot reads the files, and finds the blocks of passdbs and userdbs.

FAILURES
    ConfigError: something that this module does not understand.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import os
import re
from collections.abc import Iterator

from mailseal.errors import ConfigError

_INCLUDE = re.compile(r"\s*!include(_try)?\s+(\S.*?)\s*")
_OPENS = re.compile(r"\s*([\w-]+)(?:\s+[^{}=]+?)?\s*\{\s*(#.*)?")
_CLOSES = re.compile(r"\s*\}\s*(#.*)?")
_LATE = re.compile(
    r"\s*(passdb|userdb|protocol|mail_plugins|mail_location|mail_cache_path|mail_temp_dir|"
    r"auth_username_format|auth_mechanisms|crypt_write_algorithm|deliver_log_format)\b"
)
"""Settings that must not come after mailseal's file."""

_DEPTH = 10


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a file; numbers begin at 0.  text: empty if it is a comment."""

    path: str
    number: int
    text: str


@dataclasses.dataclass(frozen=True)
class AuthBlock:
    """A passdb or userdb block.  close: the line with its closing brace."""

    kind: str
    settings: dict[str, str]
    close: Line


class Tree:
    """All files.  `ours`: the path of mailseal's file, which may not exist yet."""

    def __init__(self, root: str, ours: str) -> None:
        self._ours = ours
        self._root = root
        self.lines = list(self._read(root, 0))

    def _read(self, path: str, depth: int) -> Iterator[Line]:
        if depth > _DEPTH:
            raise ConfigError(f"{path}: files include each other")
        if path == self._ours:
            yield Line(path, 0, "")
            return
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as stream:
                texts = stream.read().split("\n")
        except OSError as exc:
            raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
        for number, text in enumerate(texts):
            if included := _INCLUDE.fullmatch(text):
                for name in self._named(os.path.dirname(path), included[2]):
                    yield from self._read(name, depth + 1)
            else:
                yield Line(path, number, "" if text.lstrip().startswith("#") else text)

    def _named(self, folder: str, pattern: str) -> list[str]:
        """The files of one `!include`, in the order of Dovecot."""
        pattern = os.path.join(folder, pattern.strip('"'))
        found = glob.glob(pattern)
        if fnmatch.fnmatchcase(self._ours, pattern) and self._ours not in found:
            found.append(self._ours)
        return sorted(found)

    def is_last(self) -> bool:
        """Whether mailseal's file is read, and no setting that must come before it comes after."""
        places = [n for n, line in enumerate(self.lines) if line.path == self._ours]
        if len(places) != 1:
            return False
        return not any(_LATE.match(line.text) for line in self.lines[places[0] :])

    def auth_blocks(self) -> list[AuthBlock]:
        """In order.  Raises ConfigError if one is not at the top level, or not understood."""
        found: list[AuthBlock] = []
        inside: list[str] = []
        block: AuthBlock | None = None
        for line in self.lines:
            text = line.text
            if opened := _OPENS.fullmatch(text):
                inside.append(opened[1])
                if opened[1] in ("passdb", "userdb"):
                    if len(inside) > 1:
                        raise ConfigError(
                            f"{line.path}:{line.number + 1}: a {opened[1]} inside of another block"
                        )
                    block = AuthBlock(opened[1], {}, line)
            elif _CLOSES.fullmatch(text):
                if not inside:
                    raise ConfigError(f"{line.path}:{line.number + 1}: a brace too much")
                inside.pop()
                if block is not None and not inside:
                    if block.close.path != line.path:
                        raise ConfigError(f"{line.path}: a {block.kind} in several files")
                    if any(line == other.close for other in found):
                        raise ConfigError(f"{line.path} is included twice")
                    found.append(dataclasses.replace(block, close=line))
                    block = None
            elif block is not None and text.strip():
                name, equals, value = text.partition("=")
                if not equals or text.endswith("\\"):
                    raise ConfigError(
                        f"{line.path}:{line.number + 1}: this line was not understood: {text}"
                    )
                block.settings[name.strip()] = value.strip()
        return found
