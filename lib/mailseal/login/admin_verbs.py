# SPDX-License-Identifier: MIT
"""The agent's admin verbs: requests of the `mailseal` command, run in threads, logged.

CONTRACT
    Each verb checks its fields, lets Vault or Lifecycle do the work in a
    thread, ends the user's session if the keyring may have changed, and
    writes one log line with the user and the action, without secrets.
    The agent checks who may use these verbs (agent.admin_users).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import (
    AlreadyEnrolled,
    ChangeGone,
    MailsealError,
    NotEnrolled,
    UsageError,
    WrongPassword,
)
from mailseal.keys.slot import Slot
from mailseal.login.everywhere import Everywhere
from mailseal.login.host_verbs import HostVerbs
from mailseal.login.indexes import Indexes
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.status_verb import StatusVerb
from mailseal.login.thread_pools import ThreadPools, asked_by_panel
from mailseal.login.vault import Vault
from mailseal.login.verbs import Answer, Verb, needed, note_enrollment, text_of, user_of

if TYPE_CHECKING:
    from mailseal.keys.sql.hosts import Hosts

_T = TypeVar("_T")

_UNPROVEN = (UsageError, ChangeGone, NotEnrolled, WrongPassword)


class AdminVerbs:
    """Verbs for administrators."""

    def __init__(
        self,
        vault: Vault,
        sessions: Sessions,
        pools: ThreadPools,
        log: logging.Logger,
        indexes: Indexes | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._vault = vault
        self._indexes = indexes
        self._everywhere = Everywhere(vault.public, pools)
        self._life = Lifecycle(vault)
        self._sessions = sessions
        self._pools = pools
        self._log = log
        self.verbs: dict[str, Verb] = {
            "enroll": self._enroll,
            "passwd": self._passwd,
            "commit": self._commit,
            "undo": self._undo,
            "rewrap": self._rewrap,
            "recover": self._recover,
            "recovery": self._recovery,
            "app": self._app,
            "revoke": self._revoke,
            "rotate": self._rotate,
            "rekey": self._rekey,
            "drop_key": self._drop_key,
            "open": self._open,
            "export": self._export,
            "backup": self._backup,
            "restore": self._restore,
            "suspend": self._suspend,
            "unenroll": self._unenroll,
            "status": StatusVerb(vault, sessions, pools, indexes).answer,
            "find": self._find,
            "repair": self._repair,
            **HostVerbs(vault.store, sessions, pools, log, indexes, hosts).verbs,
        }

    async def _do(self, user: str, what: str, job: Callable[[], _T], *, quick: bool = False) -> _T:
        """Run a change in a thread, end the user's session, and log the result.

        `quick`: the change needs no Argon2id, and does not wait for changes that do.
        If it fails and has changed nothing, the session is not ended.  If a panel's request
        has no valid secret, nothing is logged: an attacker could fill the log.
        """
        may_differ = False

        def watched() -> _T:
            nonlocal may_differ
            before = self._vault.revision(user)
            try:
                return job()
            except BaseException:
                may_differ = True  # unless the next line says that it does not
                may_differ = self._vault.revision(user) != before
                raise

        try:
            result = await (self._pools.quick if quick else self._pools.change)(watched)
        except MailsealError as exc:
            if not (asked_by_panel.get() and isinstance(exc, _UNPROVEN)):
                self._log.warning("%s: user=<%s>, failed: %s", what, user, exc)
            raise
        else:
            may_differ = True
        finally:
            if may_differ:
                self._sessions.end(user)
        self._log.info("%s: user=<%s>, done", what, user)
        return result

    async def _enroll(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        try:
            keyring = await self._pools.change(lambda: self._vault.enroll(user, password))
        except AlreadyEnrolled:
            await self._everywhere.enrolled(user)
            raise
        self._sessions.end(user)
        note_enrollment(self._log, keyring)
        await self._everywhere.enrolled(user)
        answer = {"user": user.encode(), "key_id": keyring.current.key_id.hex().encode()}
        return "ok", {**answer, "second_way": b"1"} if keyring.has_second_way else answer

    async def _passwd(self, fields: Fields) -> Answer:
        user, old, new = user_of(fields), needed(fields, "old"), needed(fields, "new")
        keep = "keep_old" in fields
        job = lambda: self._life.passwd(user, old, new, keep_old=keep)  # noqa: E731
        return "ok", {"change": (await self._do(user, "passwd", job)).encode()}

    async def _commit(self, fields: Fields) -> Answer:
        user, change = user_of(fields), text_of(fields, "change")
        job = lambda: self._life.commit(user, change)  # noqa: E731
        await self._do(user, "passwd --commit", job, quick=True)
        return "ok", {}

    async def _undo(self, fields: Fields) -> Answer:
        user, change = user_of(fields), text_of(fields, "change")
        job = lambda: self._life.undo(user, change)  # noqa: E731
        await self._do(user, "passwd --undo", job, quick=True)
        return "ok", {}

    async def _rewrap(self, fields: Fields) -> Answer:
        user, secret, new = user_of(fields), needed(fields, "secret"), needed(fields, "new")
        await self._do(user, "rewrap", lambda: self._life.rewrap(user, secret, new))
        return "ok", {}

    async def _recover(self, fields: Fields) -> Answer:
        user, code, new = user_of(fields), needed(fields, "code"), needed(fields, "new")
        keep = "keep_old" in fields
        job = lambda: self._life.recover(user, code, new, keep_old=keep)  # noqa: E731
        return "ok", {"change": (await self._do(user, "recover", job)).encode()}

    async def _recovery(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        job = lambda: self._life.new_recovery_code(user, password)  # noqa: E731
        return "ok", {"code": (await self._do(user, "recovery-code", job)).encode()}

    async def _app(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        label = text_of(fields, "label")
        job = lambda: self._life.add_app_password(user, password, label)  # noqa: E731
        slot, code = await self._do(user, "app-password", job)
        return "ok", {"slot": slot.id.encode(), "code": code.encode()}

    async def _revoke(self, fields: Fields) -> Answer:
        """Needs no password.  With `rekey`, the login password; then the master key is replaced."""
        user, slot_id = user_of(fields), text_of(fields, "slot")
        what = f"revoke {slot_id[:16]}"
        if "rekey" not in fields:
            slot = await self._do(user, what, lambda: self._life.revoke(user, slot_id), quick=True)
            return "ok", {"kind": slot.kind.encode(), "label": slot.label.encode()}
        password = needed(fields, "password")
        job = lambda: self._life.rekey(user, password, revoked=slot_id)  # noqa: E731
        public, gone = await self._do(user, f"{what} with rekey", job)
        slot = next(slot for slot in gone if slot.id == slot_id)
        answer = {"kind": slot.kind.encode(), "label": slot.label.encode()}
        return "ok", answer | await self._rekeyed(user, public, [s for s in gone if s is not slot])

    async def _rekey(self, fields: Fields) -> Answer:
        """With `check` nothing is changed; it only checks whether the change is possible."""
        user, password = user_of(fields), needed(fields, "password")
        if "check" in fields:
            check = lambda: self._vault.open(user, password).wipe()  # noqa: E731
            await self._do(user, "rekey (check)", check)
            return "ok", {}
        job = lambda: self._life.rekey(user, password)  # noqa: E731
        return "ok", await self._rekeyed(user, *await self._do(user, "rekey", job))

    async def _rekeyed(self, user: str, public: PublicKey | None, gone: Sequence[Slot]) -> Fields:
        """The fields for a rekey: the new key pair, if any, and a line for each removed slot."""
        lines = "\n".join(f"{slot.kind} {slot.label}".strip() for slot in gone)
        answer = {"gone": lines.encode()}
        if public is None:
            return answer
        answer["key_id"] = public.key_id.hex().encode()
        return {**answer, **await self._everywhere.rotated(user)}

    async def _drop_key(self, fields: Fields) -> Answer:
        """With `check` nothing is changed; it only checks whether the change is possible."""
        user, password = user_of(fields), needed(fields, "password")
        key_id, check = needed(fields, "key_id"), "check" in fields
        if not check:
            await self._everywhere.key(user)
        job = lambda: self._life.drop_key(user, password, key_id, check=check)  # noqa: E731
        what = f"drop-key {key_id.hex()[:16]}{' (check)' if check else ''}"
        await self._do(user, what, job)
        return "ok", {}

    async def _rotate(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        public = await self._do(user, "rotate", lambda: self._life.rotate(user, password))
        key_id = public.key_id.hex().encode()
        return "ok", {"key_id": key_id, **await self._everywhere.rotated(user)}

    async def _open(self, fields: Fields) -> Answer:
        """The private keys in clear, to open a file; needs the login or an app password."""
        user, password = user_of(fields), needed(fields, "password")
        unlocked = await self._pools.change(lambda: self._vault.unlock(user, password))
        self._log.warning("open: user=<%s>, private keys given to an administrator", user)
        newest_first = [key.dovecot_string() for key in reversed(unlocked.keys)]
        return "ok", {"keys": "\n".join(newest_first).encode()}

    async def _export(self, fields: Fields) -> Answer:
        """The private keys in clear, for export; needs the login password or a recovery code."""
        user, secret = user_of(fields), needed(fields, "secret")
        keys = await self._pools.change(lambda: self._life.export(user, secret))
        self._log.warning("export: user=<%s>, private keys given to an administrator", user)
        return "ok", {"keys": "\n".join(key.dovecot_string() for key in keys).encode()}

    async def _backup(self, fields: Fields) -> Answer:
        user = user_of(fields)
        data = await self._pools.quick(lambda: self._life.backup(user))
        return "ok", {"keyring": data}

    async def _restore(self, fields: Fields) -> Answer:
        user, data = user_of(fields), needed(fields, "keyring")
        force = "force" in fields
        job = lambda: self._life.restore(user, data, force=force)  # noqa: E731
        found = await self._do(user, "restore", job, quick=True)
        await self._everywhere.enrolled(user)
        return "ok", {"found": found.encode()}

    async def _suspend(self, fields: Fields) -> Answer:
        user = user_of(fields)
        await self._do(user, "suspend", lambda: self._life.suspend(user), quick=True)
        await self._everywhere.key(user)
        return "ok", {}

    async def _unenroll(self, fields: Fields) -> Answer:
        """With `check` nothing is changed; it only checks whether the caller may use this verb.

        `suspended`: see Lifecycle.unenroll().
        """
        user, suspended = user_of(fields), "suspended" in fields
        if "check" in fields:
            if not await self._pools.quick(lambda: self._vault.is_known(user)):
                raise NotEnrolled(f"{user} is not enrolled")
            return "ok", {}
        job = lambda: self._life.unenroll(user, suspended=suspended)  # noqa: E731
        await self._do(user, "unenroll", job, quick=True)
        if self._indexes is not None:
            await self._indexes.forget(user)
        return "ok", {}

    async def _find(self, fields: Fields) -> Answer:
        key_id = needed(fields, "key_id")
        user = await self._pools.quick(lambda: self._vault.find(key_id))
        if user is None:
            raise NotEnrolled("this mail is sealed to a key that is in no keyring")
        return "ok", {"user": user.encode()}

    async def _repair(self, fields: Fields) -> Answer:
        user = user_of(fields)
        found = await self._do(user, "repair", lambda: self._vault.repair(user), quick=True)
        await self._everywhere.enrolled(user)
        return "ok", {"found": found.encode()}
