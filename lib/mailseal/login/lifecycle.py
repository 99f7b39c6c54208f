# SPDX-License-Identifier: MIT
"""Changes to keyrings: passwords, recovery codes, app passwords, rotation, backup, removal.

CONTRACT
    Each change atomically replaces one file: if the process is killed, the
    keyring is the old one or the new one.  No mail is changed.
    Adding a slot needs the login password.  A recovery code can only set a new
    login password.  Removing a slot needs no password.
    If keyring and public key both change, stores.py defines the order.

FAILURES
    WrongPassword, NotEnrolled, UsageError (no such slot, too many of them), Conflict
    (another process changed the keyring meanwhile), ChangePending, ChangeGone, Damaged,
    TemporaryError.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import (
    AlreadyEnrolled,
    ChangeGone,
    ChangePending,
    Damaged,
    MailsealError,
    NotEnrolled,
    UsageError,
)
from mailseal.keys import codes
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.keyring_file import MAX_SLOTS
from mailseal.keys.password_slot import check_password
from mailseal.keys.slot import Slot, check_label
from mailseal.keys.stores import Change
from mailseal.login.vault import Vault

_T = TypeVar("_T")

_SPARE = 4
"""Slots that app passwords leave free: for the new password of a change, for a new recovery code
beside the one that it replaces, and for an escrow key beside an older one."""


class Lifecycle:
    """What the admin verbs do to one user's keyring."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._store = vault.store

    def passwd(self, user: str, old: bytes, new: bytes, *, keep_old: bool = False) -> str:
        """Replace the login password; the id of the change, which is that of the new slot.

        With `keep_old` both open, until commit(), undo(), or a login that another
        passdb vouches for: so that a panel can change its own hash in between.
        """
        check_password(new)
        return self._set_login(self._vault.open(user, old), new, keep_old=keep_old)

    def rewrap(self, user: str, secret: bytes, new: bytes) -> str:
        """Set the login password with the previous one, or with a recovery code."""
        check_password(new)
        return self._set_login(self._open_either(user, secret), new)

    def recover(self, user: str, code: bytes, new: bytes, *, keep_old: bool = False) -> str:
        """Set the login password with a recovery code; `keep_old` and result as in passwd()."""
        check_password(new)
        opened = self._store.load(user).recover(code, derive=self._vault.derive)
        return self._set_login(opened, new, keep_old=keep_old)

    def _set_login(self, opened: Opened, new: bytes, *, keep_old: bool = False) -> str:
        """One change at a time: another that began just now, and is not settled, stays alone.

        What is left of an older one goes: the password that opened the keyring is the old one
        of this change; with a recovery code it is the one that was there before both.
        """
        vault = self._vault

        def change(opened: Opened) -> str:
            self._refuse_beside_another(opened)
            before = opened.slot
            if before.kind != "login":
                before = opened.keyring.of_kind("login")[-1]
            keep = before.id if keep_old else None
            now, derive = vault.now(), vault.derive
            return opened.set_login(new, vault.cost, now=now, keep=keep, derive=derive).id

        return self._change(opened, change)

    def _refuse_beside_another(self, opened: Opened) -> None:
        """Raises ChangePending while somebody else may be about to settle a change."""
        pending = opened.keyring.pending
        if pending is not None and not self._vault.is_old(pending):
            raise ChangePending(
                f"the password of {opened.keyring.user} is being changed by somebody else already",
                hint=f"try again in {self._vault.minutes_left(pending)} minutes, or end the other "
                "change, which `mailseal status` shows",
            )

    def commit(self, user: str, change_id: str) -> None:
        """End this change: only its new password opens.  Once more does no harm.

        Raises ChangeGone unless the new password of this change opens.
        """
        before = self._store.load(user)
        if not any(slot.id == change_id for slot in before.of_kind("login")):
            raise _gone(user)
        # If this slot is the old password of a later change, this change was completed before.
        if before.pending is not None and before.pending.id == change_id:
            self._drop_logins(before, lambda slot: slot.id != change_id)

    def undo(self, user: str, change_id: str) -> None:
        """End this change: only the old password opens.

        Raises ChangeGone unless the change is still open.
        """
        before = self._store.load(user)
        if before.pending is None or before.pending.id != change_id:
            raise _gone(user)
        self._drop_logins(before, lambda slot: slot.id == change_id)

    def _drop_logins(self, before: Keyring, unwanted: Callable[[Slot], bool]) -> None:
        after = before
        for slot in filter(unwanted, before.of_kind("login")):
            after = after.without(slot.id)
        if after is not before:
            self._vault.save(after, before=before)

    def _open_either(self, user: str, secret: bytes) -> Opened:
        """With the login password or a recovery code."""
        if codes.read("recovery", secret) is None:
            return self._vault.open(user, secret)
        return self._store.load(user).recover(secret, derive=self._vault.derive)

    def new_recovery_code(self, user: str, password: bytes) -> str:
        """A recovery code; it takes the place of older ones."""

        def change(opened: Opened) -> str:
            cost, derive = self._vault.cost, self._vault.derive
            now = self._vault.now()
            slot, code = opened.add_code("recovery", "", cost, now=now, derive=derive)
            opened.drop_kind("recovery", but=slot.id)
            return code

        return self._change(self._vault.open(user, password), change)

    def add_app_password(self, user: str, password: bytes, label: str) -> tuple[Slot, str]:
        """An app password with a label: its slot and its text."""
        check_label(label)

        def change(opened: Opened) -> tuple[Slot, str]:
            if len(opened.keyring.slots) >= MAX_SLOTS - _SPARE:
                raise UsageError(
                    f"{user} has {len(opened.keyring.slots)} slots, no more app passwords fit",
                    hint=f"`mailseal revoke {user} SLOT` takes one away",
                )
            cost, derive = self._vault.cost, self._vault.derive
            return opened.add_code("app", label, cost, now=self._vault.now(), derive=derive)

        return self._change(self._vault.open(user, password), change)

    def revoke(self, user: str, slot_id: str) -> Slot:
        """Take a slot away; needs no password.  The last login slot stays."""
        before = self._store.load(user)
        slot = before.slot(slot_id)
        self._vault.save(before.without(slot_id), before=before)
        return slot

    def rotate(self, user: str, password: bytes) -> PublicKey:
        """A new key pair for new mail; the older ones stay for reading."""

        opened = self._open_for_new_pair(user, password)
        return self._change(opened, self._vault.add_key)

    def rekey(
        self, user: str, password: bytes, *, revoked: str | None = None
    ) -> tuple[PublicKey | None, Sequence[Slot]]:
        """A new master key with everything sealed anew, and a new key pair for new mail.

        Whoever has an old copy of the keyring, and what once opened it, has the old pairs;
        he gets no later one.  App passwords and recovery codes go, and slots of unknown
        kinds: they cannot be made anew without what opens them.  Returns the new pair, None
        if a login could not carry one more, and the slots that went.
        """
        vault = self._vault

        def change(opened: Opened) -> tuple[PublicKey | None, Sequence[Slot]]:
            self._refuse_beside_another(opened)
            if revoked is not None and opened.keyring.slot(revoked).kind in ("login", "escrow"):
                raise UsageError(
                    f"slot {revoked} of {user} is not removed by a rekey",
                    hint="revoke it without --rekey, then run `mailseal rekey USER`",
                )
            gone = opened.rekey(password, vault.cost, now=vault.now(), derive=vault.derive)
            return (vault.add_key(opened) if vault.room(opened.keyring) else None), gone

        return self._change(self._open_for_new_pair(user, password), change)

    def drop_key(self, user: str, password: bytes, key_id: bytes, *, check: bool = False) -> None:
        """Forget an older pair for ever.  The caller has made sure that no mail needs it.

        With `check` nothing is stored.
        """
        opened = self._vault.open(user, password)
        if check:
            try:
                opened.drop_key(key_id)
            finally:
                opened.wipe()
        else:
            self._change(opened, lambda opened: opened.drop_key(key_id))

    def _open_for_new_pair(self, user: str, password: bytes) -> Opened:
        """A public key that is somebody else's is found before a new one takes its place."""
        opened = self._vault.open(user, password)
        self._vault.check_public(user, [key.public for key in opened.keys])
        return opened

    def export(self, user: str, secret: bytes) -> Sequence[PrivateKey]:
        """The private keys, newest first, for the login password or a recovery code."""
        opened = self._open_either(user, secret)
        keys = opened.keys[::-1]
        opened.wipe()
        return keys

    def prove(self, user: str, secret: bytes) -> None:
        """Raise WrongPassword unless this is the login password or a recovery code."""
        self._open_either(user, secret).wipe()

    def backup(self, user: str) -> bytes:
        """The keyring as it is stored, after checking it.  It opens as the original does."""
        return self._store.raw(user)

    def restore(self, user: str, data: bytes, *, force: bool = False) -> str:
        """Store a keyring from a backup and publish its key.  Returns what was there.

        A keyring that is there already, is intact and differs is replaced only
        with `force`, and then too only if no key pair would be lost.
        """
        with self._vault.stores.transaction(user) as change:
            return self._restore(change, Keyring.parse(data, user), data, force)

    def _restore(self, change: Change, keyring: Keyring, data: bytes, force: bool) -> str:
        user = change.user
        try:
            there = change.keyring()
        except NotEnrolled:
            found = "none"
        except Damaged as exc:
            found = f"damaged ({exc})"
        else:
            # A change in progress must detect that the keyring was restored.
            keyring = dataclasses.replace(
                keyring, revision=max(keyring.revision, there.revision + 1)
            )
            found = "the same" if there.encode() == data else "another one"
            lost = [key for key in there.keys if not keyring.holds(key.public.key_id)]
            if lost:
                raise AlreadyEnrolled(
                    f"the keyring of {user} has {len(lost)} key pairs that the backup lacks",
                    hint="mail sealed with them could never be read again; nothing was changed",
                )
            if found == "another one" and not force:
                raise AlreadyEnrolled(
                    f"{user} has another keyring than the backup",
                    hint="with --force, it is replaced, and the passwords, codes and slots of the "
                    "backup are valid",
                )
        if found != "the same":
            change.overwrite(keyring)
        with contextlib.suppress(MailsealError):
            published = self._vault.public.lookup(user)
            if published is not None and published.key_id == keyring.current.key_id:
                return found
        change.publish(keyring.current)
        return found

    def suspend(self, user: str) -> None:
        """Let mail for the user wait, and nobody log in: the first half of unenroll().

        Ended by unenroll(), or by Vault.repair().
        """
        with self._vault.stores.transaction(user) as change:
            change.keyring()
            change.suspend()

    def unenroll(self, user: str) -> None:
        """Forget the user's keys for ever.  The caller has made sure that no mail needs them.

        First the public key goes, so that no mail is sealed to what is then removed.
        """
        if self._vault.is_new(user):
            raise NotEnrolled(f"{user} is not enrolled")
        with self._vault.stores.transaction(user) as change:
            change.remove()

    def _change(self, opened: Opened, change: Callable[[Opened], _T]) -> _T:
        """Change an opened keyring and store it, if it is still the stored one."""
        try:
            before = opened.keyring
            result = change(opened)
            self._vault.add_escrow(opened)
            self._vault.save(opened.keyring, before=before)
            return result
        finally:
            opened.wipe()


def _gone(user: str) -> ChangeGone:
    return ChangeGone(
        f"this change of the password of {user} is not open any more",
        hint=f"it was ended by a login or by somebody else: run `mailseal status {user}`",
    )
