# SPDX-License-Identifier: MIT
"""User names in normal form, and a safe file name for each.

CONTRACT
    normalise() returns the normal form of a user name, which is used everywhere
    in mailseal: UTF-8 with ASCII letters in lower case, like Dovecot's %Lu.
    Other letters are not changed: otherwise two different accounts in Dovecot
    could have the same key.
    file_name() returns a unique path component for each name, with at
    most MAX_FILE_NAME bytes, so that ".json" and the suffix of a temporary
    file fit in the 255 bytes that file systems allow.

FAILURES
    BadUserName: empty, over 254 bytes, not UTF-8, or a control character.
    "/" and ".." are fine in a name; the file name has them escaped.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from mailseal.errors import BadUserName

MAX_BYTES = 254
"""Longest name, in bytes of UTF-8: what a mail path can hold (RFC 5321, erratum 1690)."""

MAX_FILE_NAME = 200
_PREFIX = 120
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789@_+-.")
# The common case: a name that is its own spelling and its own file name.  20 times as fast.
_UNESCAPED = re.compile(rf"[a-z0-9@_+-][a-z0-9@_+.-]{{0,{MAX_FILE_NAME - 1}}}")
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def normalise(user: str | bytes) -> str:
    """The one spelling of a user name.  Raises BadUserName."""
    if isinstance(user, bytes):
        try:
            user = user.decode("utf-8")
        except UnicodeDecodeError:
            raise BadUserName("the user name is not UTF-8") from None
    if _UNESCAPED.fullmatch(user):
        return user
    try:
        size = len(user.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadUserName("the user name is not UTF-8") from None
    if not user:
        raise BadUserName("the user name is empty")
    if size > MAX_BYTES:
        raise BadUserName(f"the user name has {size} bytes, at most {MAX_BYTES} are allowed")
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in user):
        raise BadUserName("the user name contains a control character")
    return user.translate(_ASCII_LOWER)


def file_name(user: str | bytes) -> str:
    """A path component for the user, without any suffix.  Raises BadUserName.

    Every byte but a-z 0-9 @ _ + - and a dot that is not the first becomes
    %xx.  Too long a result is cut and ends in "~" and the SHA-256 of the name:
    "~" itself is always escaped, so the two kinds cannot meet.
    """
    name = normalise(user)
    if _UNESCAPED.fullmatch(name):
        return name
    raw = name.encode("utf-8")
    escaped = "".join(
        chr(byte) if byte in _SAFE and not (byte == 0x2E and at == 0) else f"%{byte:02x}"
        for at, byte in enumerate(raw)
    )
    if len(escaped) <= MAX_FILE_NAME:
        return escaped
    return f"{escaped[:_PREFIX]}~{hashlib.sha256(raw).hexdigest()}"


def user_of_file(name: str) -> str | None:
    """The user whose file_name() this is.  None if it was shortened or is not such a name."""
    if _UNESCAPED.fullmatch(name):
        return name
    if not name.isascii():
        return None
    raw = re.sub("%([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name).encode("latin-1")
    try:
        user = normalise(raw)
        return user if file_name(user) == name else None
    except BadUserName:
        return None
