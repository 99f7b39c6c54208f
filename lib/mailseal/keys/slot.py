# SPDX-License-Identifier: MIT
"""The parts that all kinds of slots have: fields, a tag, rights, and credentials.

FIELDS
    id, kind, label, created   as `mailseal status` shows them
    tag                        HMAC-SHA256 of all other fields, under the master key

The tag authenticates each slot by itself, not the list as a whole: so a slot can be
removed without the master key (`revoke`, `passwd --undo`), but without opening the
keyring no slot can be added, changed or moved to another user.  It covers
slots of kinds that this version does not know as well.

FAILURES
    Text that is not a slot raises Damaged.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import UsageError

VERSION = 1
MASTER_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
SLOT_TAG_SIZE = 32
MAX_LABEL = 100
MAX_ID = 16

Derive = Callable[[bytes, bytes, kdf.Profile, int], bytes]
"""kdf.derive, or a function that also limits how many of them run at the same time."""


@dataclasses.dataclass(frozen=True)
class Password:
    """A password typed at a login: the login password or an app password."""

    text: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class RecoveryCode:
    """A recovery code, typed by a user who has forgotten the password."""

    text: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class EscrowKey:
    """The organisation's private key."""

    private: PrivateKey


Credential = Password | RecoveryCode | EscrowKey


class Slot(Protocol):
    """One way to open a keyring.  Each slot contains the same master key, sealed separately."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def tag(self) -> bytes: ...

    def as_json(self) -> dict[str, Any]:
        """The stored fields."""
        ...

    def with_tag(self, tag: bytes) -> Slot:
        """A copy with this tag."""
        ...

    def takes(self, credential: Credential) -> bool:
        """Whether this could open the slot.  Checks the form only, so it costs nothing."""
        ...

    def unwrap(self, credential: Credential, user: str, derive: Derive) -> bytearray | None:
        """The master key, or None if the credential is wrong.  Raises Damaged."""
        ...


@dataclasses.dataclass(frozen=True)
class SlotKind:
    """A kind of slot.  slots.py has the list.

    parse          makes the slot from its stored fields; raises KeyError, TypeError, ValueError
    opens_mail     its keys may be passed to Dovecot
    changes_slots  it permits adding and replacing slots
    sets_login     it permits setting a new login password
    second_way     it is a recovery method
    tried_first    the credential contains the id of its slot
    """

    name: str
    parse: Callable[[Mapping[str, Any]], Slot]
    opens_mail: bool = False
    changes_slots: bool = False
    sets_login: bool = False
    second_way: bool = False
    tried_first: bool = False
    known: bool = True


def canonical(purpose: str, **fields: Any) -> bytes:
    """Exactly one byte string for a set of fields; used as associated data."""
    content = {"purpose": f"mailseal {purpose}", "version": VERSION, **fields}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def associated(slot: Slot, user: str, **parameters: Any) -> bytes:
    """The associated data of a slot's wrap: what all slots have, and the kind's own parameters."""
    return canonical(
        "slot",
        user=user,
        id=slot.id,
        kind=slot.kind,
        label=slot.label,
        created=slot.created,
        **parameters,
    )


def common(slot: Slot) -> dict[str, Any]:
    """The stored fields that all kinds have."""
    return {
        "id": slot.id,
        "kind": slot.kind,
        "label": slot.label,
        "created": slot.created,
        "tag": slot.tag.hex(),
    }


def subkey(master: bytes | bytearray, purpose: str) -> bytes:
    """A separate key for each use of the master key, 32 bytes."""
    return hmac.digest(bytes(master), canonical("subkey", use=purpose), "sha256")


def tag_of(master: bytes | bytearray, user: str, slot: Slot) -> bytes:
    """The right value of `slot.tag`."""
    fields = {name: value for name, value in slot.as_json().items() if name != "tag"}
    return hmac.digest(
        subkey(master, "slots"), canonical("slot tag", user=user, slot=fields), "sha256"
    )


def check_label(label: str) -> str:
    """Return the label if it is one short line; it may be empty.  Raises UsageError."""
    if len(label) > MAX_LABEL or any(unicodedata.category(c).startswith("C") for c in label):
        raise UsageError(f"a label is one line of at most {MAX_LABEL} letters")
    return label


def sane(slot: Slot) -> bool:
    """Check sizes and types of the common fields; each kind checks its own fields."""
    if not all(isinstance(text, str) for text in (slot.id, slot.kind, slot.label)):
        return False
    if type(slot.created) is not int or not 0 <= slot.created < 1 << 40:
        return False
    return (
        1 <= len(slot.id) <= MAX_ID
        and 1 <= len(slot.kind) <= MAX_ID
        and len(slot.label) <= MAX_LABEL
        and len(slot.tag) == SLOT_TAG_SIZE
    )
