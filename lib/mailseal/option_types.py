# SPDX-License-Identifier: MIT
"""What an option may hold: a check a kind.

A check returns the value in the unit the code uses (bytes, seconds) and raises
ValueError for anything else.  Values come from YAML, of whatever type it gave them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any


def text(value: Any) -> str:
    if not isinstance(value, str) or not value or any(ord(c) < 32 for c in value):
        raise ValueError
    return value


def absolute_path(value: Any) -> str:
    if not text(value).startswith("/"):
        raise ValueError
    return os.path.normpath(str(value))


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def user_or_uid(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    return text(value)


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def choice(*values: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)  # 2.3 without quotes is a number in YAML
        if value not in values:
            raise ValueError
        return str(value)

    return check


def list_of(check: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def check_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(check(v) for v in value)

    return check_list


def number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return check


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,15})([KMG]?)", str(value))
    if match is None or isinstance(value, bool) or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
    if match is None or isinstance(value, bool) or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _SECONDS[match[2]]


def octal_mode(value: Any) -> int:
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError
    return int(value, 8)


def socket_name(value: Any) -> str:
    """`/path` is a unix socket, `host:port` or `[v6]:port` is TCP."""
    name = text(value)
    if name.startswith("/"):
        return os.path.normpath(name)
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):(\d{1,5})", name)
    if match is None or int(match[2]) > 65535:
        raise ValueError
    return name


def header_rule(value: Any) -> str:
    """The form only; what folder names can be is checked where rules are used."""
    name = text(value)
    if re.fullmatch(r"[!-9;-~]+:\s*\S.*=>\s*[^\s*%~].*", name) is None:
        raise ValueError
    return name
