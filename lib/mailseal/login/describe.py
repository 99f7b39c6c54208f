# SPDX-License-Identifier: MIT
"""The agent's part of `mailseal status` for one user, without secrets."""

from __future__ import annotations

from mailseal.errors import MailsealError, NotEnrolled
from mailseal.keys.escrow_slot import EscrowSlot
from mailseal.keys.slots import kind_of
from mailseal.login.indexes import Indexes
from mailseal.login.sessions import Sessions
from mailseal.login.vault import Vault


def describe(
    user: str, vault: Vault, sessions: Sessions, indexes: Indexes | None
) -> dict[str, object]:
    """The entry of one user in `status`, without secrets."""
    try:
        keyring = vault.load(user)
    except NotEnrolled:  # but there is a public key or a mark
        hint = f"restore it from a backup: `mailseal restore FILE {user}`"
        return {"user": user, "problem": "the keyring is missing", "hint": hint}
    except MailsealError as exc:
        return {"user": user, "problem": str(exc), "hint": exc.hint}
    age = sessions.age(user)
    return {
        "user": user,
        "created": keyring.created,
        "revision": keyring.revision,
        "keys": [key.identity() for key in keyring.keys],
        "room": vault.room(keyring),
        "second_way": keyring.has_second_way,
        "slots": [
            {
                "id": slot.id,
                "kind": slot.kind,
                "label": slot.label,
                "created": slot.created,
                "known": kind_of(slot).known,
                **({"key_id": slot.key_id.hex()} if isinstance(slot, EscrowSlot) else {}),
            }
            for slot in keyring.slots
        ],
        "session": None if age is None else {"age": int(age[0]), "idle": int(age[1])},
        "public_key": _public_state(vault, user, keyring.current.key_id),
        **({"index": indexes.describe(user)} if indexes is not None else {}),
    }


def _public_state(vault: Vault, user: str, key_id: bytes) -> str:
    try:
        published = vault.published(user)
    except MailsealError as exc:
        return str(exc)
    if published is None:
        return "not published"
    return "ok" if published.key_id == key_id else "NOT THE USER'S CURRENT KEY"
