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
    (another process has changed the keyring in the meantime), ChangePending, ChangeGone, Damaged,
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
    NotPublished,
    TemporaryError,
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
"""Slots that app passwords cannot use: they are reserved for the new password of a change, a new
recovery code and a new escrow key, which exist together with the older ones for a while."""


class Lifecycle:
    """The changes to one user's keyring."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._store = vault.store

    def passwd(self, user: str, old: bytes, new: bytes, *, keep_old: bool = False) -> str:
        """Replace the login password.  Returns the id of the change, which is the new slot's id.

        With `keep_old` both passwords open the keyring until commit(), undo(), or a login that
        another passdb has accepted.  In between a panel can change its own hash.
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
        """Permit only one change at a time: refuse if another one has begun recently.

        An older open change is ended: the password that opened the keyring becomes the old
        password of this change.  With a recovery code, it is the password from before both.
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
        """Raise ChangePending while another change may still be completed."""
        pending = opened.keyring.pending
        if pending is not None and not self._vault.is_old(pending):
            raise ChangePending(
                f"another password change for {opened.keyring.user} is in progress",
                hint=f"try again in {self._vault.minutes_left(pending)} minutes, or end the other "
                "change, which `mailseal status` shows",
            )

    def commit(self, user: str, change_id: str) -> None:
        """Complete this change: only its new password opens the keyring.  May be repeated.

        Raises ChangeGone if the new password of this change does not open it.
        """
        before = self._store.load(user)
        if not any(slot.id == change_id for slot in before.of_kind("login")):
            raise _gone(user)
        # If this slot is the old password of a later change, this change was completed already.
        if before.pending is not None and before.pending.id == change_id:
            self._drop_logins(before, lambda slot: slot.id != change_id)

    def undo(self, user: str, change_id: str) -> None:
        """Undo this change: only the old password opens the keyring.

        Raises ChangeGone if the change is not open any more.
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
        """Open the keyring with the login password or a recovery code."""
        if codes.read("recovery", secret) is None:
            return self._vault.open(user, secret)
        return self._store.load(user).recover(secret, derive=self._vault.derive)

    def new_recovery_code(self, user: str, password: bytes) -> str:
        """Make a recovery code, which replaces older ones."""

        def change(opened: Opened) -> str:
            slot, code = self._recovery_code(opened)
            opened.drop_kind("recovery", but=slot.id)
            return code

        return self._change(self._vault.open(user, password), change)

    def make_recovery_code(self, user: str, password: bytes) -> tuple[Slot, str]:
        """Make a recovery code for replace_recovery_code(); nothing is stored."""
        opened = self._vault.open(user, password)
        try:
            return self._recovery_code(opened)
        finally:
            opened.wipe()

    def replace_recovery_code(self, user: str, password: bytes, made: Callable[[], Slot]) -> None:
        """Store the slot that `made` returns, in place of older recovery codes."""
        self._change(self._vault.open(user, password), lambda opened: opened.put(made()))

    def _recovery_code(self, opened: Opened) -> tuple[Slot, str]:
        cost, derive = self._vault.cost, self._vault.derive
        return opened.add_code("recovery", "", cost, now=self._vault.now(), derive=derive)

    def add_app_password(self, user: str, password: bytes, label: str) -> tuple[Slot, str]:
        """Make an app password with a label.  Returns its slot and its text."""
        check_label(label)

        def change(opened: Opened) -> tuple[Slot, str]:
            if len(opened.keyring.slots) >= MAX_SLOTS - _SPARE:
                raise UsageError(
                    f"{user} has {len(opened.keyring.slots)} slots, no more app passwords fit",
                    hint=f"remove one with `mailseal revoke {user} SLOT`",
                )
            cost, derive = self._vault.cost, self._vault.derive
            return opened.add_code("app", label, cost, now=self._vault.now(), derive=derive)

        return self._change(self._vault.open(user, password), change)

    def revoke(self, user: str, slot_id: str) -> Slot:
        """Remove a slot; needs no password.  The last login slot cannot be removed."""
        before = self._store.load(user)
        slot = before.slot(slot_id)
        self._vault.save(before.without(slot_id), before=before)
        return slot

    def rotate(self, user: str, password: bytes) -> PublicKey:
        """Make a new key pair for new mail; the older ones stay for reading."""

        opened = self._open_for_new_pair(user, password)
        return self._change(opened, self._vault.add_key)

    def rekey(
        self, user: str, password: bytes, *, revoked: str | None = None
    ) -> tuple[PublicKey | None, Sequence[Slot]]:
        """Make a new master key, seal everything with it, and make a key pair for new mail.

        Somebody with an old copy of the keyring and an old password has the old key pairs,
        but gets no later ones.  App passwords, recovery codes and slots of unknown kinds are
        removed, because they cannot be made again without their secrets.  Returns the
        new key pair (None if it does not fit into a login) and the removed slots.
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
        """Remove an older key pair permanently.  The caller has checked that no mail needs it.

        With `check` nothing is changed.
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
        """Detect a public key of somebody else before it is replaced."""
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
        """The stored keyring, after a check.  The same secrets open it."""
        return self._store.raw(user)

    def restore(self, user: str, data: bytes, *, force: bool = False) -> str:
        """Store a keyring from a backup and publish its key.  Returns what was there before.

        A different intact keyring is replaced only with `force`, and never if
        a key pair would be lost.
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
                    f"the keyring of {user} has {len(lost)} key pairs that are not in the backup",
                    hint="mail sealed with them could never be read again; nothing was changed",
                )
            if found == "another one" and not force:
                raise AlreadyEnrolled(
                    f"the keyring of {user} is different from the backup",
                    hint="with --force, it is replaced, and the passwords, codes and slots of the "
                    "backup are valid",
                )
        if found != "the same":
            change.overwrite(keyring)
        with contextlib.suppress(MailsealError):
            published = self._vault.public.lookup(user)
            if published is not None and published.key_id == keyring.current.key_id:
                return found
        try:
            change.publish(keyring.current)
        except TemporaryError as exc:
            raise NotPublished(
                f"the keyring of {user} is restored, but not its public key: {exc}",
                hint=f"run `mailseal repair {user}`; until then, mail is deferred, or sealed with "
                "the previous key pair",
            ) from None
        return found

    def suspend(self, user: str) -> None:
        """Defer mail for the user and refuse logins: the first part of unenroll().

        unenroll() or Vault.repair() ends this state.
        """
        with self._vault.stores.transaction(user) as change:
            change.keyring()
            change.suspend()

    def unenroll(self, user: str, *, suspended: bool = False) -> None:
        """Remove the user's keys permanently.  The caller has checked that no mail needs them.

        With `suspended` the check is only valid if suspend() was the last change; otherwise sealed
        mail may have arrived since, and this raises TemporaryError.
        The public key is removed first, so that no mail is sealed to a removed key pair.
        """
        if self._vault.is_new(user):
            raise NotEnrolled(f"{user} is not enrolled")
        with self._vault.stores.transaction(user) as change:
            if suspended and not self._vault.public.is_suspended(user):
                raise TemporaryError(f"mail for {user} is not deferred any more: look again")
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
        hint=f"a login or another command has ended it; see `mailseal status {user}`",
    )
