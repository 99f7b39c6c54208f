# SPDX-License-Identifier: MIT
"""Reads all JSON: keyrings, public keys, backups, and messages between processes.

CONTRACT
    Strict: UTF-8, no name twice in an object, no NaN or Infinity, at any depth.
    The caller checks that the file has mailseal's canonical form.

FAILURES
    Damaged, or NewerFormat, with a text that is appended to the name of the file.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

from mailseal.errors import Damaged, NewerFormat


def parse(data: bytes) -> Any:
    """Any JSON value."""
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise Damaged("not JSON") from None


def read(data: bytes, form: str, version: int, fields: Set[str]) -> dict[str, Any]:
    """An object of this format and version, which has exactly these fields."""
    content = parse(data)
    if not is_of(content, form, version) or content.keys() != fields:
        raise Damaged("wrong format or fields")
    return content  # type: ignore[no-any-return]


def is_of(content: Any, form: str, version: int) -> bool:
    """Whether this has the format.  Raises NewerFormat if it has a later version."""
    if not isinstance(content, dict) or content.get("format") != form:
        return False
    found = content.get("version")
    if type(found) is int and found > version:
        raise NewerFormat(
            f"has format version {found}, this mailseal reads up to {version}",
            hint="upgrade mailseal",
        )
    return type(found) is int and found == version


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_name: str) -> Any:
    raise ValueError
