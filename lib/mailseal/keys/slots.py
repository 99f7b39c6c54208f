# SPDX-License-Identifier: MIT
"""The table of all kinds of slots.  A new kind is a module like escrow_slot.py and a line here.

A slot of a kind that is not in the table was made by a newer version.  It is kept
unchanged and shown as unknown.  It cannot be opened, and the keyring is not damaged because
of it.  Its tag is checked like that of any other slot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mailseal.errors import Damaged
from mailseal.keys import escrow_slot, password_slot
from mailseal.keys.slot import Credential, Derive, Slot, SlotKind, sane


@dataclasses.dataclass(frozen=True)
class UnknownSlot:
    """A slot of a kind that this version does not know."""

    id: str
    kind: str
    label: str
    created: int
    tag: bytes
    stored: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The stored fields, unchanged."""
        return {**self.stored, "tag": self.tag.hex()}

    def with_tag(self, tag: bytes) -> UnknownSlot:
        """A copy with this tag."""
        return dataclasses.replace(self, tag=tag)

    def takes(self, credential: Credential) -> bool:
        """No credential opens it."""
        return False

    def unwrap(self, credential: Credential, user: str, derive: Derive) -> bytearray | None:
        """Always None: this version cannot open it."""
        return None


def _parse_unknown(fields: Mapping[str, Any]) -> UnknownSlot:
    tag = bytes.fromhex(fields["tag"])
    common = (fields["id"], fields["kind"], fields["label"], fields["created"])
    return UnknownSlot(*common, tag, dict(fields))


KINDS = {kind.name: kind for kind in (*password_slot.KINDS, escrow_slot.KIND)}
_UNKNOWN = SlotKind("unknown", _parse_unknown, known=False)


def kind_of(slot: Slot) -> SlotKind:
    """The kind of this slot, with its rights."""
    return KINDS.get(slot.kind, _UNKNOWN)


def from_json(fields: Any) -> Slot:
    """Read a stored slot strictly.  Raises Damaged."""
    try:
        slot = KINDS.get(fields["kind"], _UNKNOWN).parse(fields)
        if not sane(slot) or slot.as_json() != fields:
            raise ValueError
    except (KeyError, TypeError, ValueError, Damaged):
        raise Damaged("a slot has wrong fields") from None
    return slot
