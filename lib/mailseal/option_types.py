# SPDX-License-Identifier: MIT
"""The kinds of values an option may take.

A kind has a check, which converts a YAML value to the value that the code uses
(bytes, seconds, an int for a mode) and raises ValueError for invalid values, and
`takes`, a text that says what the check accepts.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Kind(Generic[T]):
    """One kind of value: its check, and a text for people."""

    check: Callable[[Any], T]
    takes: str
    write: Callable[[T], object] = lambda value: value
    """The value in the form for the configuration file."""
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Values of earlier versions, each with a hint."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or any(ord(c) < 32 for c in value):
        raise ValueError
    return value


def text(takes: str) -> Kind[str]:
    """Any text in one line; `takes` describes it."""
    return Kind(_text, takes)


def _header(value: Any) -> str:
    """waitress removes these, because clients could have sent them, and names with a `_`."""
    found = _text(value)
    if found.lower() == "forwarded" or found.lower().startswith("x-forwarded-") or "_" in found:
        raise ValueError
    return found


header = Kind(
    _header,
    "the name of an HTTP header that only the web server sets, such as X-Real-IP; not Forwarded or "
    "X-Forwarded-*, which mailseal-web ignores",
)


def _absolute_path(value: Any) -> str:
    if not _text(value).startswith("/"):
        raise ValueError
    return os.path.normpath(str(value))


absolute_path = Kind(_absolute_path, "an absolute path")


def _user_or_uid(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    return _text(value)


user_or_uid = Kind(_user_or_uid, "a user name or a uid")


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The kind, or null for none."""

    def check(value: Any) -> T | None:
        return None if value is None else kind.check(value)

    return Kind(check, f"{kind.takes}, or null")


def _one_of(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def choice(*words: str, dropped: Mapping[str, str] | None = None) -> Kind[str]:
    """One of these words.  `dropped`: values of earlier versions, each with a hint."""

    def check(value: Any) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)  # without quotes, 2.3 is a number in YAML
        if value not in words:
            raise ValueError
        return str(value)

    return Kind(check, _one_of(words), dropped=dropped or {})


def word_or(kind: Kind[str], *words: str) -> Kind[str]:
    """One of these words, or a value of the kind."""
    return Kind(
        lambda value: value if value in words else kind.check(value),
        _one_of((*words, kind.takes)),
    )


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list of values of the kind; it may be empty."""

    def check(value: Any) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(kind.check(v) for v in value)

    return Kind(check, f"a list, each entry {kind.takes}")


def number(low: int, high: int) -> Kind[int]:
    """An integer from `low` to `high`, inclusive."""

    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(check, f"a number from {low} to {high}")


def _with_unit(value: int, units: dict[str, int]) -> str | int:
    """The number with the largest unit that divides it."""
    unit = max((u for u in units if value % units[u] == 0), key=lambda u: units[u])
    return f"{value // units[unit]}{unit}" if unit else value


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,15})([KMG]?)", str(value))
    if match is None or isinstance(value, bool) or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


size = Kind(_size, "a size (4096, 512K, 100M, 1G)", lambda value: _with_unit(value, _UNITS))

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
    if match is None or isinstance(value, bool) or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _SECONDS[match[2] or "s"]


duration = Kind(
    _duration, "a duration (30s, 5m, 12h, 7d)", lambda value: _with_unit(value, _SECONDS)
)


def _octal_mode(value: Any) -> int:
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError
    return int(value, 8)


octal_mode = Kind(_octal_mode, "an octal mode in quotes", lambda value: f"{value:04o}")


def _socket_name(value: Any) -> str:
    """`/path` is a unix socket, `host:port` or `[v6]:port` is TCP."""
    name = _text(value)
    if name.startswith("/"):
        return os.path.normpath(name)
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):(\d{1,5})", name)
    if match is None or int(match[2]) > 65535:
        raise ValueError
    return name


socket_name = Kind(_socket_name, "an absolute path or host:port")


def _header_rule(value: Any) -> str:
    """Check the form only; folder names are checked where rules are used."""
    name = _text(value)
    if re.fullmatch(r"[!-9;-~]+:\s*\S.*=>\s*[^\s*%~].*", name) is None:
        raise ValueError
    return name


header_rule = Kind(_header_rule, '"HEADER: VALUE => FOLDER"')


def _store(value: Any) -> str:
    if value != "files":
        from mailseal.database_address import parse  # few configurations have one

        parse(_text(value))
    return str(value)


store = Kind(_store, "files, or the address of a database without a password")


def _network(value: Any) -> str:
    import ipaddress  # only few files need it

    return str(ipaddress.ip_network(_text(value)))


network = Kind(_network, "an IP address or a network, for example 192.0.2.0/24")
