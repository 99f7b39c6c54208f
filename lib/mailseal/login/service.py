# SPDX-License-Identifier: MIT
"""The agent's answers: one method a verb, on the event loop, slow work in threads.

CONTRACT
    answer() never raises and never blocks on Argon2id.  Login verbs end in ok,
    wrong, unknown or temporary; admin verbs in ok or error.  A second login with a
    password that a session knows costs no Argon2id, nor do several logins at
    once with the same password: they share one run.  A wrong password is
    remembered for a few seconds, so that a client that repeats it costs nothing.
    Every unlock makes one log line without secrets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import (
    BadUserName,
    Damaged,
    MailsealError,
    NotEnrolled,
    TemporaryError,
    UsageError,
    WrongPassword,
)
from mailseal.keys.keystore import Stamp
from mailseal.keys.names import normalise
from mailseal.keys.slots import MAX_PASSWORD
from mailseal.login.mailcrypt_fields import Named, login_fields, public_fields
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.vault import Unlocked, Vault
from mailseal.login.workers import Workers

Answer = tuple[str, Fields]
Verb = Callable[[Fields], Awaitable[Answer]]

_WRONG_FOR = 5.0
_WRONG_ENTRIES = 10000
STATUS_PAGE = 200
"""Users in one answer to `status`."""


class Service:
    """All verbs.  `admin_verbs` may be extended before the agent starts."""

    def __init__(
        self,
        vault: Vault,
        sessions: Sessions,
        workers: Workers,
        *,
        version: str,
        stale_password: str = "refuse",  # noqa: S107 (a policy, not a password)
        log: logging.Logger,
    ) -> None:
        self.vault = vault
        self.sessions = sessions
        self.workers = workers
        self.version = version
        self.stale_password = stale_password
        self.log = log
        self.login_verbs: dict[str, Verb] = {"unlock": self._unlock, "lookup": self._lookup}
        self.admin_verbs: dict[str, Verb] = {
            "enroll": self._enroll,
            "passwd": self._passwd,
            "status": self._status,
            "lock": self._lock,
            "open": self._open,
            "find": self._find,
            "repair": self._repair,
        }
        self._under_way: dict[bytes, asyncio.Future[Unlocked]] = {}
        self._wrong: OrderedDict[bytes, tuple[float, Stamp | None]] = OrderedDict()

    async def answer(self, verb: str, fields: Fields, *, admin: bool) -> Answer:
        """The reply to one request of a caller who may log users in, and perhaps more."""
        login_verb = self.login_verbs.get(verb)
        if login_verb is not None:
            try:
                return await login_verb(fields)
            except MailsealError as exc:
                return "temporary", {"reason": _sentence(exc).encode()}
            except Exception as exc:
                self._unexpected(verb, exc)
                return "temporary", {"reason": b"internal error, see the log of mailseal-agent"}
        try:
            admin_verb = self.admin_verbs.get(verb)
            if admin_verb is None:
                raise UsageError(f"the key agent has no verb {verb[:20]}")
            if not admin:
                return "denied", {}
            return await admin_verb(fields)
        except MailsealError as exc:
            return error_answer(exc)
        except Exception as exc:
            self._unexpected(verb, exc)
            return error_answer(TemporaryError("internal error, see the log of mailseal-agent"))

    async def _unlock(self, fields: Fields) -> Answer:
        began = time.monotonic()
        behind = "behind" in fields
        session, result = "none", "temporary"
        name = fields.get("user", b"").decode("utf-8", "replace")
        try:
            try:
                user = name = normalise(fields.get("user", b""))
            except BadUserName:
                result = "unknown" if behind else "wrong"
                return result, {}
            if behind and fields.get("master"):
                result = f"no key: master user <{_shown(fields, 'master')}>"
                return self._limited(user)
            if behind and self.vault.store.stamp(user) is None and not self._marked(user):
                result = "not enrolled"
                return "unknown", {}
            try:
                named, session = await self._keys_for(user, fields.get("password", b""))
            except WrongPassword:
                result = "wrong"
                if not behind:
                    return "wrong", {}
                return self._stale(user)
            result = "ok"
            return "ok", _named(user, named)
        except MailsealError as exc:
            result = f"temporary ({_sentence(exc)})"
            raise
        finally:
            self.log.info(
                "unlock: user=<%s>, service=%s, remote=%s, result=%s, session=%s, delay=%.3f",
                name,
                _shown(fields, "service"),
                _shown(fields, "remote"),
                result,
                session,
                time.monotonic() - began,
            )

    async def _keys_for(self, user: str, password: bytes) -> tuple[Named, str]:
        """Fields for a login, and "cached" or "new".  Raises WrongPassword and others."""
        if not 0 < len(password) <= MAX_PASSWORD or b"\0" in password:
            raise WrongPassword("no password can be like this")
        stamp = self.vault.store.stamp(user)
        mac = self.sessions.mac(user, password)
        found = self.sessions.find(user, mac, stamp)
        if found is not None:
            keys = found[0].private_keys()
            await self._check_public(user, [key.public for key in keys])
            return login_fields(self.version, keys), "cached"
        if self._known_wrong(mac, stamp):
            raise WrongPassword(f"wrong password for {user}")
        shared = self._under_way.get(mac)
        if shared is None:
            job = self.workers.run(lambda: self.vault.unlock(user, password))
            shared = asyncio.ensure_future(job)
            self._under_way[mac] = shared
            shared.add_done_callback(lambda done: self._unlocked(user, mac, stamp, done))
        unlocked = await asyncio.shield(shared)
        return login_fields(self.version, unlocked.keys), "new"

    def _unlocked(
        self, user: str, mac: bytes, stamp: Stamp | None, done: asyncio.Future[Unlocked]
    ) -> None:
        """A run has ended: begin the session, or remember that the password was wrong."""
        self._under_way.pop(mac, None)
        if done.cancelled():
            return
        exc = done.exception()
        if exc is None:
            got = done.result()
            self.sessions.start(user, mac, got.stamp, got.keys, got.slot_id)
        elif isinstance(exc, WrongPassword):
            self._wrong[mac] = (time.monotonic() + _WRONG_FOR, stamp)
            while len(self._wrong) > _WRONG_ENTRIES:
                self._wrong.popitem(last=False)

    def _known_wrong(self, mac: bytes, stamp: Stamp | None) -> bool:
        until, seen = self._wrong.get(mac, (0.0, None))
        return time.monotonic() < until and seen == stamp

    def _marked(self, user: str) -> bool:
        return self.vault.public.is_marked(user)

    async def _check_public(self, user: str, keys: list[PublicKey]) -> None:
        """At every login, cached or not.  Normally one stat; repairs are left to a thread."""
        try:
            published = self.vault.public.lookup(user)
        except (Damaged, TemporaryError):
            published = None
        if published is None or published.key_id != keys[-1].key_id:
            await self.workers.run(lambda: self.vault.check_public(user, keys))

    def _stale(self, user: str) -> Answer:
        """The other passdb said yes, the keyring says no."""
        remedy = f"run `mailseal rewrap {user}` with the old password or a recovery code"
        self.log.error(
            "user=<%s>, password was changed without mailseal: the passdb accepts it, the "
            "keyring does not; %s",
            user,
            remedy,
        )
        if self.stale_password == "limited":  # noqa: S105 (a policy)
            return self._limited(user)
        return "temporary", {"reason": f"password changed without mailseal: {remedy}".encode()}

    def _limited(self, user: str) -> Answer:
        """A login that gets no private key: what it saves is sealed all the same."""
        published = self.vault.public.lookup(user)
        if published is None:
            return "unknown", {}
        return "ok", _named(user, public_fields(self.version, published))

    async def _lookup(self, fields: Fields) -> Answer:
        try:
            user = normalise(fields.get("user", b""))
        except BadUserName:
            return "unknown", {}
        return self._limited(user)

    async def _enroll(self, fields: Fields) -> Answer:
        user, password = self._user(fields), _needed(fields, "password")
        keyring = await self.workers.run(lambda: self.vault.enroll(user, password))
        self.sessions.end(user)
        key_id = keyring.current.key_id.hex()
        self.log.info("enroll: user=<%s>, keyid=%s", user, key_id)
        if len(keyring.slots) == 1:
            self.log.warning(
                "user=<%s> has no second way in: a forgotten password means lost mail", user
            )
        return "ok", {"user": user.encode(), "key_id": key_id.encode()}

    async def _passwd(self, fields: Fields) -> Answer:
        user = self._user(fields)
        old, new = _needed(fields, "old"), _needed(fields, "new")
        await self.workers.run(lambda: self.vault.passwd(user, old, new))
        self.sessions.end(user)
        self.log.info("passwd: user=<%s>, password changed", user)
        return "ok", {}

    async def _status(self, fields: Fields) -> Answer:
        """One user, or a page of all users after `after`."""
        if "user" in fields:
            users = [self._user(fields)]
            self.vault.store.load(users[0])
            more = False
        else:
            after = fields.get("after", b"").decode("utf-8", "replace")
            later = [user for user in self.vault.store.users() if user > after]
            users, more = later[:STATUS_PAGE], len(later) > STATUS_PAGE
        found = [self._describe(user) for user in users]
        answer = {"sessions": str(len(self.sessions)).encode(), "users": json.dumps(found).encode()}
        return "ok", {**answer, "more": b"1"} if more else answer

    def _describe(self, user: str) -> dict[str, object]:
        """What `status` shows of a user.  No secrets."""
        try:
            keyring = self.vault.store.load(user)
        except MailsealError as exc:
            return {"user": user, "problem": str(exc)}
        age = self.sessions.age(user)
        return {
            "user": user,
            "created": keyring.created,
            "revision": keyring.revision,
            "keys": [key.identity() for key in keyring.keys],
            "slots": [
                {"id": slot.id, "kind": slot.kind, "label": slot.label, "created": slot.created}
                for slot in keyring.slots
            ],
            "session": None if age is None else {"age": int(age[0]), "idle": int(age[1])},
            "public_key": self._public_state(user, keyring.current.key_id),
        }

    def _public_state(self, user: str, key_id: bytes) -> str:
        try:
            published = self.vault.public.lookup(user)
        except MailsealError as exc:
            return str(exc)
        if published is None:
            return "not published"
        return "ok" if published.key_id == key_id else "NOT THE USER'S CURRENT KEY"

    async def _lock(self, fields: Fields) -> Answer:
        if "user" in fields:
            user = self._user(fields)
            count = int(self.sessions.end(user))
            self.log.info("lock: user=<%s>, sessions ended=%d", user, count)
        else:
            count = self.sessions.end_all()
            self.log.info("lock: all users, sessions ended=%d", count)
        return "ok", {"ended": str(count).encode()}

    async def _open(self, fields: Fields) -> Answer:
        """The private keys in clear, for opening a file; login and app passwords."""
        user, password = self._user(fields), _needed(fields, "password")
        unlocked = await self.workers.run(lambda: self.vault.unlock(user, password))
        self.log.warning("open: user=<%s>, private keys handed to an administrator", user)
        newest_first = [key.dovecot_string() for key in reversed(unlocked.keys)]
        return "ok", {"keys": "\n".join(newest_first).encode()}

    async def _find(self, fields: Fields) -> Answer:
        key_id = _needed(fields, "key_id")
        user = await self.workers.run(lambda: self.vault.find(key_id))
        if user is None:
            raise NotEnrolled("no keyring here holds the key this mail is sealed to")
        return "ok", {"user": user.encode()}

    async def _repair(self, fields: Fields) -> Answer:
        user = self._user(fields)
        found = await self.workers.run(lambda: self.vault.repair(user))
        self.sessions.end(user)
        return "ok", {"found": found.encode()}

    def _user(self, fields: Fields) -> str:
        return normalise(_needed(fields, "user"))

    def _unexpected(self, verb: str, exc: Exception) -> None:
        """Log where it happened: class and line, never the values, which may be secrets."""
        frames = traceback.extract_tb(exc.__traceback__)[-3:]
        where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
        self.log.error("%s: unexpected %s at %s", verb[:20], type(exc).__name__, where)


def error_answer(exc: MailsealError) -> Answer:
    """An error for people: its class travels, so that the command line ends with its status."""
    fields = {"class": type(exc).__name__.encode(), "message": str(exc).encode()}
    if exc.hint:
        fields["hint"] = exc.hint.encode()
    return "error", fields


def _needed(fields: Fields, name: str) -> bytes:
    try:
        return fields[name]
    except KeyError:
        raise UsageError(f"the request lacks the field {name}") from None


def _named(user: str, named: Named) -> Fields:
    return {"user": user.encode(), **{name: value.encode() for name, value in named}}


def _shown(fields: Fields, name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")[:100]


def _sentence(exc: MailsealError) -> str:
    return f"{exc} ({exc.hint})" if exc.hint else str(exc)
