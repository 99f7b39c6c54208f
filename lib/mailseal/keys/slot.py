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
"""kdf.derive, or something around it that bounds how much of it runs at a time."""


@dataclasses.dataclass(frozen=True)
class Password:
    """What a user typed at a login: the login password, or an app password."""

    text: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class RecoveryCode:
    """What a user typed who has forgotten the password."""

    text: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class EscrowKey:
    """The organisation's private key."""

    private: PrivateKey


Credential = Password | RecoveryCode | EscrowKey


class Slot(Protocol):
    """One way into a keyring.  Each wraps the same master key on its own."""

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
        """What is stored."""
        ...

    def with_tag(self, tag: bytes) -> Slot:
        """The same with this tag."""
        ...

    def takes(self, credential: Credential) -> bool:
        """Whether this could open it: a matter of form, which costs nothing."""
        ...

    def unwrap(self, credential: Credential, user: str, derive: Derive) -> bytearray | None:
        """The master key, or None if the credential is wrong.  Raises Damaged."""
        ...


@dataclasses.dataclass(frozen=True)
class SlotKind:
    """What a kind is.  slots.py has them all.

    parse          makes the slot of its stored fields; raises KeyError, TypeError, ValueError
    opens_mail     what it opens may be handed to Dovecot
    changes_slots  whoever opened it may add and replace slots
    sets_login     whoever opened it may set a new login password
    second_way     it helps a user who has forgotten the login password
    tried_first    the credential says by itself which slot it belongs to
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
    """One byte string for one set of fields: what is authenticated beside a ciphertext."""
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
    """A key of its own for each use of the master key, 32 bytes."""
    return hmac.digest(bytes(master), canonical("subkey", use=purpose), "sha256")


def tag_of(master: bytes | bytearray, user: str, slot: Slot) -> bytes:
    """What `slot.tag` must be."""
    fields = {name: value for name, value in slot.as_json().items() if name != "tag"}
    return hmac.digest(
        subkey(master, "slots"), canonical("slot tag", user=user, slot=fields), "sha256"
    )


def check_label(label: str) -> str:
    """A label is one short line of text; it may be empty.  Raises UsageError."""
    if len(label) > MAX_LABEL or any(unicodedata.category(c).startswith("C") for c in label):
        raise UsageError(f"a label is one line of at most {MAX_LABEL} letters")
    return label


def sane(slot: Slot) -> bool:
    """Sizes and types of what all slots have; their kinds check the rest."""
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
