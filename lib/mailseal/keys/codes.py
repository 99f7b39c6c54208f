# SPDX-License-Identifier: MIT
"""App passwords and recovery codes: secrets that mailseal makes, in a format that it recognises.

A code is 32 letters of Crockford's base32 in groups of four, upper or lower case:

    3 letters   id of the slot it opens     (so that a login tries that slot only)
    26 letters  the secret, 130 random bits
    3 letters   checksum over kind, id and secret (finds a typing error: 32,767 in 32,768)

I, L and O are read as 1, 1 and 0; spaces and dashes are ignored.  The input of Argon2id
is the normal form that read() returns.
"""

from __future__ import annotations

import hashlib
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_SIZE = 3
CHANGE_ID_SIZE = 16
"""Letters in the id of a login slot.  It is the id of a password change, and anybody who knows it
can end that change.  It has 80 bits, so it cannot be guessed."""
_SECRET_SIZE = 26
_CHECK_SIZE = 3
_SIZE = ID_SIZE + _SECRET_SIZE + _CHECK_SIZE
_LONGEST_TYPED = 100
_READ_AS = str.maketrans({"i": "1", "l": "1", "o": "0", "-": None, " ": None})


def new_id(taken: set[str], size: int = ID_SIZE) -> str:
    """A slot id that is not in use."""
    while True:
        slot_id = "".join(secrets.choice(ALPHABET) for _ in range(size))
        if slot_id not in taken:
            return slot_id


def make(kind: str, slot_id: str) -> str:
    """A new code for a slot, in the form for people: eight groups of four letters."""
    body = slot_id + "".join(secrets.choice(ALPHABET) for _ in range(_SECRET_SIZE))
    plain = body + _checksum(kind, body)
    return "-".join(plain[at : at + 4] for at in range(0, _SIZE, 4))


def read(kind: str, typed: bytes) -> bytes | None:
    """The normal form of a code of this kind; None if it is not one, or was mistyped."""
    if len(typed) > _LONGEST_TYPED:
        return None
    try:
        plain = typed.decode("ascii").lower().translate(_READ_AS)
    except UnicodeDecodeError:
        return None
    if len(plain) != _SIZE or any(letter not in ALPHABET for letter in plain):
        return None
    body = plain[:-_CHECK_SIZE]
    return plain.encode() if plain[-_CHECK_SIZE:] == _checksum(kind, body) else None


def plain_part(typed: str) -> str:
    """A part of a code, spelled as in the plain spelling."""
    return typed.lower().translate(_READ_AS)


def slot_of(plain: bytes) -> str:
    """Id of the slot that a code, as read() returned it, belongs to."""
    return plain[:ID_SIZE].decode()


def _checksum(kind: str, body: str) -> str:
    digest = hashlib.sha256(f"mailseal {kind} {body}".encode()).digest()
    number = int.from_bytes(digest[:2], "big")
    return "".join(ALPHABET[(number >> shift) & 31] for shift in (0, 5, 10))
