# SPDX-License-Identifier: MIT
"""One user's keyring: the key pairs, sealed under a master key, and the slots that open it.

FORMAT (JSON, one canonical spelling, so that no byte of the file is free to change)
    format, version   "mailseal-keyring", 1
    user, created     whose it is; seconds since 1970
    revision          counts writes; two writers at once are told by it
    keys              oldest first, the last seals new mail: id, curve, created, public (DER),
                      nonce and sealed (the private number under AES-256-GCM)
    keys_tag          HMAC-SHA256 over the list of keys
    slots             see slots.py
    digest            SHA-256 of all the rest

WHAT PROTECTS WHAT
    The digest finds accidents: a damaged file is Damaged, a temporary failure, and
    never looks like a wrong password.  Against intent stand the associated
    data: each private key is bound to user, id, curve, place and time, each slot to
    user, id and parameters, and keys_tag to the whole list, so that
    nothing can be swapped, dropped or added without the master key.  Putting
    back a whole older file cannot be seen from inside it.

FAILURES
    parse() raises Damaged or NewerFormat.  unlock() raises WrongPassword or Damaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
from typing import Any

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import CURVES, PrivateKey, PublicKey
from mailseal.errors import Damaged, NewerFormat, UsageError, WrongPassword
from mailseal.keys import codes, slots
from mailseal.keys.names import normalise
from mailseal.keys.sealed import SealedKey, list_tag
from mailseal.keys.slots import Derive, EscrowSlot, PasswordSlot, Slot, canonical

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


@dataclasses.dataclass(frozen=True)
class Keyring:
    """A keyring as stored: everything but the way in."""

    user: str
    created: int
    revision: int
    keys: tuple[SealedKey, ...]
    keys_tag: bytes
    slots: tuple[Slot, ...]

    @property
    def current(self) -> PublicKey:
        """The public key that seals new mail."""
        return self.keys[-1].public

    def holds(self, key_id: bytes) -> bool:
        """Whether the key pair is in this keyring, current or older."""
        return any(key.public.key_id == key_id for key in self.keys)

    def of_kind(self, kind: str) -> tuple[Slot, ...]:
        """The slots of one kind."""
        return tuple(slot for slot in self.slots if slot.kind == kind)

    @property
    def pending(self) -> Slot | None:
        """The new login slot of a change that nothing has settled yet, or None."""
        logins = self.of_kind("login")
        return logins[0] if len(logins) > 1 else None

    def slot(self, slot_id: str) -> Slot:
        """The slot with this id.  Raises UsageError."""
        for slot in self.slots:
            if slot.id == slot_id:
                return slot
        raise UsageError(f"{self.user} has no slot {slot_id}")

    def unlock(self, password: bytes, *, derive: Derive = kdf.derive) -> Opened:
        """Open with the login password or an app password.

        Costs one Argon2id for the login slot, and one before it if the
        password is spelled like an app password of a slot that exists.
        Raises WrongPassword, Damaged.
        """
        plain = codes.read("app", password)
        if plain is not None:
            wanted = codes.slot_of(plain)
            for slot in self.of_kind("app"):
                if slot.id == wanted and (opened := self._try(slot, plain, derive)):
                    return opened
        for slot in self.of_kind("login"):
            if opened := self._try(slot, password, derive):
                return opened
        raise WrongPassword(f"wrong password for {self.user}")

    def recover(self, typed: bytes, *, derive: Derive = kdf.derive) -> Opened:
        """Open with a recovery code.  Raises WrongPassword with the reason, Damaged."""
        plain = codes.read("recovery", typed)
        if plain is None:
            raise WrongPassword(
                "this is not a recovery code: eight groups of four letters and digits",
                hint="a letter mistyped? the code has a checksum",
            )
        for slot in self.of_kind("recovery"):
            if slot.id == codes.slot_of(plain) and (opened := self._try(slot, plain, derive)):
                return opened
        raise WrongPassword(f"this recovery code does not belong to {self.user}, or was replaced")

    def open_escrow(self, private: PrivateKey) -> Opened:
        """Open with the organisation's private key.  Raises WrongPassword, Damaged."""
        for slot in self.slots:
            if isinstance(slot, EscrowSlot) and slot.key_id == private.key_id:
                return self._opened(slot.open(private, self.user), slot)
        raise WrongPassword(f"{self.user} has no slot for this escrow key")

    def without(self, slot_id: str) -> Keyring:
        """Take a slot away.  Needs no password; the login slot stays."""
        slot = self.slot(slot_id)
        if slot.kind == "login" and len(self.of_kind("login")) == 1:
            raise UsageError("the login slot cannot be taken away", hint="use `mailseal passwd`")
        return dataclasses.replace(self, slots=tuple(s for s in self.slots if s is not slot))

    def _try(self, slot: Slot, secret: bytes, derive: Derive) -> Opened | None:
        if not isinstance(slot, PasswordSlot):
            return None
        master = slot.open(secret, self.user, derive)
        return None if master is None else self._opened(master, slot)

    def _opened(self, master: bytearray, slot: Slot) -> Opened:
        expected = list_tag(master, self.user, self.keys)
        if len(master) != slots.MASTER_SIZE or not hmac.compare_digest(expected, self.keys_tag):
            raise Damaged(f"the list of keys of {self.user} was changed")
        keys = tuple(key.open(master, self.user, at) for at, key in enumerate(self.keys))
        return Opened(self, master, slot, keys)

    def encode(self) -> bytes:
        """The file."""
        content = self._content()
        content["digest"] = _digest(content)
        return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "user": self.user,
            "created": self.created,
            "revision": self.revision,
            "keys": [key.as_json() for key in self.keys],
            "keys_tag": self.keys_tag.hex(),
            "slots": [slot.as_json() for slot in self.slots],
        }

    @classmethod
    def parse(cls, data: bytes, user: str) -> Keyring:
        """Read a file that should be this user's.  Raises Damaged, NewerFormat."""
        try:
            keyring = cls._parse(data)
        except Damaged as exc:
            raise Damaged(f"the keyring of {user} is damaged: {exc}") from None
        except NewerFormat as exc:
            raise NewerFormat(f"the keyring of {user} {exc}", hint=exc.hint) from None
        if keyring.user != user:
            raise Damaged(f"the keyring of {user} belongs to another user")
        return keyring

    @classmethod
    def _parse(cls, data: bytes) -> Keyring:
        try:
            content = json.loads(data.decode("ascii"))
        except (ValueError, RecursionError):
            raise Damaged("not JSON") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise Damaged("not a keyring")
        version = content.get("version")
        if type(version) is int and version > VERSION:
            raise NewerFormat(
                f"has format version {version}, this mailseal reads up to {VERSION}",
                hint="upgrade mailseal",
            )
        if set(content) != _FIELDS or version != VERSION:
            raise Damaged("wrong fields")
        if content.pop("digest") != _digest(content):
            raise Damaged("the digest does not match")
        lists = (content["keys"], content["slots"])
        if not all(isinstance(entries, list) for entries in lists):
            raise Damaged("wrong fields")
        if not 1 <= len(lists[0]) <= MAX_KEYS or not 1 <= len(lists[1]) <= MAX_SLOTS:
            raise Damaged("too few or too many keys or slots")
        numbers = (content["created"], content["revision"])
        if any(type(number) is not int or number < 0 for number in numbers):
            raise Damaged("wrong fields")
        try:
            keyring = cls(
                str(content["user"]),
                *numbers,
                tuple(SealedKey.from_json(entry) for entry in lists[0]),
                bytes.fromhex(content["keys_tag"]),
                tuple(slots.from_json(entry) for entry in lists[1]),
            )
        except (TypeError, ValueError):
            raise Damaged("wrong fields") from None
        ids = [slot.id for slot in keyring.slots]
        if len(set(ids)) != len(ids) or keyring.encode() != data:
            raise Damaged("not in canonical form")
        return keyring


class Opened:
    """An opened keyring.  Changes make a new `keyring`; nothing is written here."""

    def __init__(
        self, keyring: Keyring, master: bytearray, slot: Slot | None, keys: tuple[PrivateKey, ...]
    ) -> None:
        self.keyring = keyring
        self.keys = keys
        self._slot = slot
        self._master = master

    @property
    def slot(self) -> Slot:
        """The slot that opened it."""
        if self._slot is None:
            raise UsageError("a new keyring was opened by no slot")
        return self._slot

    @classmethod
    def create(cls, user: str, *, curve: str, now: int) -> Opened:
        """A new keyring with one key pair and, so far, no slot."""
        user = normalise(user)
        opened = cls(Keyring(user, now, 0, (), b"", ()), bytearray(os.urandom(32)), None, ())
        opened.add_key(curve, now=now)
        return opened

    def add_key(self, curve: str, *, now: int) -> PublicKey:
        """A new key pair for new mail; older ones stay for reading."""
        if len(self.keyring.keys) >= MAX_KEYS:
            raise UsageError(f"a keyring holds at most {MAX_KEYS} key pairs")
        if curve not in CURVES:
            raise UsageError(f"no such curve: {curve}")
        key = PrivateKey.generate(curve)
        user, at = self.keyring.user, len(self.keyring.keys)
        keys = (*self.keyring.keys, SealedKey.seal(self._master, key, user, at, now))
        tag = list_tag(self._master, user, keys)
        self.keyring = dataclasses.replace(self.keyring, keys=keys, keys_tag=tag)
        self.keys = (*self.keys, key)
        return key.public

    def set_login(
        self,
        password: bytes,
        cost: kdf.Profile,
        *,
        now: int,
        keep: str | None = None,
        derive: Derive = kdf.derive,
    ) -> Slot:
        """Make this the login password: its slot.  Of the older ones `keep` goes on opening."""
        slot_id = codes.new_id({slot.id for slot in self.keyring.slots}, codes.CHANGE_ID_SIZE)
        login = self._seal(password, "login", "", cost, now, derive, slot_id)
        old = self.keyring.of_kind("login")
        kept = tuple(slot for slot in old if slot.id == keep)
        others = tuple(slot for slot in self.keyring.slots if slot not in old)
        self._set_slots((login, *kept, *others))
        return login

    def drop_other_logins(self) -> None:
        """Of the login slots keep only the one that opened this keyring."""
        self.drop_kind("login", but=self.slot.id)

    def drop_kind(self, kind: str, *, but: str) -> None:
        """Take away all slots of a kind, but for the one with this id."""
        kept = (s for s in self.keyring.slots if s.kind != kind or s.id == but)
        self._set_slots(tuple(kept))

    def add_code(
        self,
        kind: str,
        label: str,
        cost: kdf.Profile,
        *,
        now: int,
        derive: Derive = kdf.derive,
    ) -> tuple[Slot, str]:
        """A new app password or recovery code: its slot, and the text to hand out."""
        slot_id = codes.new_id({slot.id for slot in self.keyring.slots})
        code = codes.make(kind, slot_id)
        plain = codes.read(kind, code.encode()) or b""
        slot = self._seal(plain, kind, label, cost, now, derive, slot_id)
        self._set_slots((*self.keyring.slots, slot))
        return slot, code

    def add_escrow(self, public: PublicKey, label: str, *, now: int) -> Slot:
        """A slot for the organisation's key; an older one for the same key is replaced."""
        others = tuple(
            slot
            for slot in self.keyring.slots
            if not (isinstance(slot, EscrowSlot) and slot.key_id == public.key_id)
        )
        slot_id = codes.new_id({slot.id for slot in others})
        user = self.keyring.user
        slot = EscrowSlot.seal(
            self._master, public, user=user, slot_id=slot_id, label=label, created=now
        )
        self._set_slots((*others, slot))
        return slot

    def wipe(self) -> None:
        """Overwrite the master key.  Copies that Python or OpenSSL made may live on."""
        self._master[:] = bytes(len(self._master))
        self.keys = ()

    def _seal(
        self,
        password: bytes,
        kind: str,
        label: str,
        cost: kdf.Profile,
        now: int,
        derive: Derive,
        slot_id: str | None = None,
    ) -> PasswordSlot:
        return PasswordSlot.seal(
            self._master,
            password,
            user=self.keyring.user,
            slot_id=slot_id or codes.new_id({slot.id for slot in self.keyring.slots}),
            kind=kind,
            label=label,
            created=now,
            cost=cost,
            derive=derive,
        )

    def _set_slots(self, new: tuple[Slot, ...]) -> None:
        if len(new) > MAX_SLOTS:
            raise UsageError(f"a keyring holds at most {MAX_SLOTS} slots")
        self.keyring = dataclasses.replace(self.keyring, slots=new)


def _digest(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(canonical("digest", content=rest)).hexdigest()
