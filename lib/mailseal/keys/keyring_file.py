# SPDX-License-Identifier: MIT
"""The keyring file: canonical JSON with a format version and a digest.

The digest detects accidental changes.  A damaged file is a temporary failure (Damaged),
and never reported as a wrong password.

FAILURES
    decode() raises Damaged or NewerFormat.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from mailseal.errors import Damaged
from mailseal.keys import record, slots
from mailseal.keys.sealed import SealedKey
from mailseal.keys.slot import canonical

FORMAT = "mailseal-keyring"
VERSION = 1
MAX_KEYS = 64
MAX_SLOTS = 64
_FIELDS = {
    "format",
    "version",
    "user",
    "created",
    "revision",
    "keys",
    "keys_tag",
    "slots",
    "digest",
}


def encode(fields: dict[str, Any]) -> bytes:
    """The content of the file for a keyring with these attributes."""
    content = {
        **fields,
        "format": FORMAT,
        "version": VERSION,
        "keys": [key.as_json() for key in fields["keys"]],
        "keys_tag": fields["keys_tag"].hex(),
        "slots": [slot.as_json() for slot in fields["slots"]],
    }
    content["digest"] = digest(content)
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def decode(data: bytes) -> dict[str, Any]:
    """The attributes of the keyring in a file.

    The caller checks that encode() returns the same bytes.
    """
    content = _content(data)
    keys, listed = content["keys"], content["slots"]
    if not 1 <= len(keys) <= MAX_KEYS or not 1 <= len(listed) <= MAX_SLOTS:
        raise Damaged("too few or too many keys or slots")
    found = {
        "user": content["user"],
        "created": content["created"],
        "revision": content["revision"],
        "keys": tuple(SealedKey.from_json(entry) for entry in keys),
        "keys_tag": bytes.fromhex(content["keys_tag"]),
        "slots": tuple(slots.from_json(entry) for entry in listed),
    }
    if len({slot.id for slot in found["slots"]}) != len(listed):
        raise Damaged("two slots with the same id")
    return found


def _content(data: bytes) -> dict[str, Any]:
    """The JSON of a file, with all fields of the right types and a right digest."""
    content = record.read(data, FORMAT, VERSION, _FIELDS)
    if content.pop("digest") != digest(content):
        raise Damaged("the digest does not match")
    if not all(isinstance(content[name], list) for name in ("keys", "slots")):
        raise Damaged("wrong fields")
    numbers = (content["created"], content["revision"])
    if any(type(number) is not int or number < 0 for number in numbers):
        raise Damaged("wrong fields")
    if not isinstance(content["user"], str) or not _is_hex(content["keys_tag"]):
        raise Damaged("wrong fields")
    return content


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("([0-9a-f]{2})*", value) is not None


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of all fields but itself, in hex."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(canonical("digest", content=rest)).hexdigest()
