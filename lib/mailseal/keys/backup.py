# SPDX-License-Identifier: MIT
"""The backup file: sealed keyrings of many users, and a checksum.

FORMAT (text, one JSON value in each line)
    {"format": "mailseal-backup", "version": 1, "created": SECONDS}
    {"user": NAME, "keyring": TEXT}          one for each user; TEXT is the keyring file
    {"users": NUMBER, "sha256": HEX}         of all lines before

A backup contains no key in clear.  It opens with the passwords, codes and escrow keys
that were valid when it was made.

FAILURES
    Damaged: truncated, changed, or not a backup.  NewerFormat.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mailseal.errors import Damaged, NewerFormat
from mailseal.keys import record
from mailseal.keys.keyring import Keyring

FORMAT = "mailseal-backup"
VERSION = 1


def encode(keyrings: Mapping[str, bytes], *, created: int) -> bytes:
    """The backup file with these keyrings."""
    lines: list[dict[str, Any]] = [{"format": FORMAT, "version": VERSION, "created": created}]
    lines += [{"user": user, "keyring": data.decode()} for user, data in sorted(keyrings.items())]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    end = {"users": len(keyrings), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


def parse(data: bytes) -> dict[str, Keyring]:
    """The keyrings in a backup, after a check, by user.  Also reads a single keyring file."""
    try:
        is_backup = record.is_of(_first(data), FORMAT, VERSION)
    except NewerFormat as exc:
        raise NewerFormat(f"the backup {exc}", hint=exc.hint) from None
    if not is_backup:
        return _single(data)
    body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    end = _json(last)
    right = hashlib.sha256(body + b"\n").hexdigest()
    if not data.endswith(b"\n") or not isinstance(end, dict) or end.get("sha256") != right:
        raise Damaged("the backup was changed or truncated")
    found = {}
    for line in body.split(b"\n")[1:]:
        entry = _json(line)
        try:
            user, text = entry["user"], entry["keyring"]
            found[user] = Keyring.parse(text.encode(), user)
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            raise Damaged("the backup has a line that is not a keyring") from None
    if end.get("users") != len(found):
        raise Damaged("the number of keyrings in the backup is wrong")
    return found


def _single(data: bytes) -> dict[str, Keyring]:
    content = _json(data)
    user = content.get("user") if isinstance(content, dict) else None
    if not isinstance(user, str):
        raise Damaged("neither a backup nor a keyring")
    return {user: Keyring.parse(data, user)}


def _first(data: bytes) -> Any:
    """The content of the first line; None if it is not JSON, as in a keyring file."""
    try:
        return record.parse(data.partition(b"\n")[0])
    except Damaged:
        return None


def _json(data: bytes) -> Any:
    try:
        return record.parse(data)
    except Damaged:
        raise Damaged("neither a backup nor a keyring") from None
