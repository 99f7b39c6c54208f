# SPDX-License-Identifier: MIT
"""The verbs for logins.  They run on the event loop; slow work is done in threads.

CONTRACT
    answer() never raises and never waits for Argon2id.  The status of a login verb is ok,
    wrong, unknown or temporary, that of an admin verb ok or error.  A login with a password
    that has opened the session's keyring before needs no Argon2id.  Several logins with the
    same password at the same time share one run.  A wrong password is remembered for a few
    seconds, so a client that repeats it costs nothing.  guesses.py limits the rate of wrong
    passwords.  Each unlock writes one log line, without secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import (
    AlreadyEnrolled,
    BadPassword,
    BadUserName,
    MailsealError,
    TemporaryError,
    UsageError,
    WrongPassword,
)
from mailseal.keys import codes
from mailseal.keys.names import normalise
from mailseal.keys.password_slot import MAX_OPENING, check_password
from mailseal.keys.stores import Revision
from mailseal.login.guesses import Guesses, Try
from mailseal.login.host_copy import in_use
from mailseal.login.indexes import Indexes
from mailseal.login.mailcrypt_fields import Named, login_fields, public_fields
from mailseal.login.notes import Notes
from mailseal.login.policy import Policy
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.stored import Found, Stored
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Unlocked, Vault
from mailseal.login.verbs import STALE, Answer, Verb, error_answer, note_enrollment

if TYPE_CHECKING:
    from mailseal.login.indexer import Indexer

_WRONG_FOR, _WRONG_ENTRIES = 5.0, 10000
# The mechanisms with a password: Dovecot treats IMAP LOGIN and POP3 USER/PASS as PLAIN.
# With XOAUTH2 and OAUTHBEARER the client sends a token, which is different at the next login.
_WITH_PASSWORD = (b"PLAIN", b"LOGIN")
_Keys = tuple[Sequence[PrivateKey], str, bytes, PublicKey]
"""Oldest first; "cached" or "new"; the key of the index folder; the key that seals new mail."""


class LoginVerbs:
    """All verbs: those for logins, and the given ones (admin_verbs.py, panel_verbs.py)."""

    def __init__(
        self,
        vault: Vault,
        sessions: Sessions,
        pools: ThreadPools,
        *,
        admin_verbs: Mapping[str, Verb],
        panel_verbs: Mapping[str, Verb] | None = None,
        page_verbs: Mapping[str, Verb] | None = None,
        version: str,
        policy: Policy,
        log: logging.Logger,
        guesses: Guesses | None = None,
        indexes: Indexes | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.vault = vault
        self.notes = notes
        self.indexes = indexes
        self.search: Indexer | None = None
        self.guesses = guesses or Guesses(log=log)
        self.sessions = sessions
        self.pools = pools
        self.version = version
        self.policy = policy
        self.log = log
        self.stored = Stored(vault, sessions, pools, log, indexes)
        self.login_verbs: dict[str, Verb] = {"unlock": self._unlock, "lookup": self._lookup}
        self.admin_verbs = admin_verbs
        self.panel_verbs = panel_verbs or {}
        self.page_verbs = page_verbs or {}
        # The revision is part of the key: results from before a change of the keyring are not used.
        self._under_way: dict[tuple[bytes, Revision | None], asyncio.Future[Unlocked]] = {}
        self._wrong: OrderedDict[bytes, tuple[float, Revision | None]] = OrderedDict()

    async def answer(
        self,
        verb: str,
        fields: Fields,
        *,
        admin: bool,
        login: bool = True,
        panel: bool = False,
        page: bool = False,
    ) -> Answer:
        """The answer to one request of a caller with these rights."""
        login_verb = self.login_verbs.get(verb)
        if login_verb is not None and login:
            try:
                return await login_verb(fields)
            except MailsealError as exc:
                return "temporary", {"reason": _sentence(exc).encode()}
            except Exception as exc:
                self._unexpected(verb, exc)
                return "temporary", {"reason": b"internal error, see the log of mailseal-agent"}
        try:
            known = {**self.page_verbs, **self.panel_verbs, **self.admin_verbs}
            if login_verb is None and verb not in known:
                raise UsageError(f"the key agent has no verb {verb[:20]}")
            panels = self.page_verbs if page else self.panel_verbs if panel else {}
            allowed = known if admin else panels
            if verb not in allowed:
                return "denied", {}
            return await allowed[verb](fields)
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
                return await self._without_key(user, fields)
            keyless = fields.get("service", b"").decode("utf-8", "replace") in self.policy.keyless
            if behind and keyless:
                result = "no key needed"
                return await self._public_only(user)
            password = fields.get("password", b"")
            if "app" in fields and codes.read("app", password) is None:
                result = "wrong"
                return "wrong", {}
            found = await self.stored.look(user)
            if behind and found.is_new:
                if not await self._enrolled_at_login(user, password, fields):
                    result = "not enrolled"
                    return "unknown", {}
                found = await self.stored.look(user)
            try:
                keys, session, index_key, seals = await self._keys_for(user, fields, found)
            except WrongPassword:
                result = "wrong"
                if not behind:
                    return "wrong", {}
                return self._stale(user)
            if keyless:
                result = "ok, no key needed"
                return "ok", _named(user, public_fields(self.version, seals))
            named = login_fields(self.version, keys, seals)
            result = "ok"
            if self.indexes is not None:
                named = named + await self.indexes.unlock(user, index_key)
            if self.search is not None:
                self.search.begin(user, _shown(fields, "service"))
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

    async def _enrolled_at_login(self, user: str, password: bytes, fields: Fields) -> bool:
        """Enroll a new user whose password another passdb has accepted, if login.enroll says so."""
        if not self.policy.enrolls(user):
            return False
        if fields.get("mechanism", b"").upper() not in _WITH_PASSWORD:
            mechanism = _shown(fields, "mechanism") or "unknown"
            self.log.warning(
                "user=<%s>, not enrolled at login: with mechanism %s the client may not have sent "
                "the password; run `mailseal enroll %s`",
                user,
                mechanism,
                user,
            )
            return False
        try:
            check_password(password)
        except BadPassword as exc:
            self.log.warning("user=<%s>, not enrolled at login: %s", user, exc)
            return False
        with contextlib.suppress(AlreadyEnrolled):  # another login has just done it
            keyring = await self.pools.run(lambda: self.vault.enroll(user, password))
            note_enrollment(self.log, keyring)
        return True

    async def _keys_for(self, user: str, fields: Fields, stored: Found) -> _Keys:
        """Raises WrongPassword and others."""
        password, remote = fields.get("password", b""), _shown(fields, "remote")
        # Wrong passwords are not counted if another passdb has accepted the password.
        guesses = None if "behind" in fields else self.guesses
        if not 0 < len(password) <= MAX_OPENING or b"\0" in password:
            raise WrongPassword("this is not a valid password")
        revision, mac = stored.revision, self.sessions.mac(user, password)
        found = self.sessions.find(user, mac, revision)
        if found is not None:
            keys, index_key = found[0].private_keys(), bytes(found[0].index)
            await self.stored.check_public(user, publics := [key.public for key in keys], stored)
            self.guesses.note_right(user, remote)
            await self._note_use(user, found[1])
            return keys, "cached", index_key, in_use(stored.copied, publics)
        if self._known_wrong(mac, revision):
            raise WrongPassword(f"wrong password for {user}")
        shared = self._under_way.get((mac, revision))
        if shared is None:
            a_try = guesses.admit(user, remote) if guesses is not None else None
            vouched = guesses is None or self.policy.keyring_decides
            job = self.pools.run(lambda: self.vault.unlock(user, password, vouched=vouched))
            shared = asyncio.ensure_future(job)
            self._under_way[mac, revision] = shared
            shared.add_done_callback(lambda done: self._unlocked(user, mac, revision, done, a_try))
        try:
            unlocked = await asyncio.shield(shared)
        except WrongPassword:
            if guesses is not None:
                guesses.note_wrong(user, remote)
            raise
        self.guesses.note_right(user, remote)
        await self._note_use(user, unlocked.slot_id)
        return unlocked.keys, "new", unlocked.index_key, unlocked.seals

    async def _note_use(self, user: str, slot_id: str) -> None:
        """Of app passwords, whose ids are short: once a day a small file is written."""
        if self.notes is None or len(slot_id) != codes.ID_SIZE:
            return
        notes = self.notes
        if notes.note_use(user, slot_id):
            with contextlib.suppress(TemporaryError):
                await self.pools.local(lambda: notes.save(user))

    def _unlocked(
        self,
        user: str,
        mac: bytes,
        revision: Revision | None,
        done: asyncio.Future[Unlocked],
        a_try: Try | None,
    ) -> None:
        """After Argon2id: start the session, or remember that the password was wrong."""
        self._under_way.pop((mac, revision), None)
        exc = None if done.cancelled() else done.exception()
        if a_try is not None:
            a_try.ended(mac if isinstance(exc, WrongPassword) else None)
        if done.cancelled():
            return
        if exc is None:
            got = done.result()
            # During a password change the next login must open the keyring: it may end the change.
            if got.settled:
                self.sessions.start(user, mac, got.revision, got.keys, got.slot_id, got.index_key)
        elif isinstance(exc, WrongPassword):
            self._wrong[mac] = (time.monotonic() + _WRONG_FOR, revision)
            while len(self._wrong) > _WRONG_ENTRIES:
                self._wrong.popitem(last=False)

    def _known_wrong(self, mac: bytes, revision: Revision | None) -> bool:
        until, seen = self._wrong.get(mac, (0.0, None))
        return time.monotonic() < until and seen == revision

    def _stale(self, user: str) -> Answer:
        """The other passdb has accepted the password, but it does not open the keyring."""
        remedy = f"run `mailseal rewrap {user}` with the old password or a recovery code"
        self.log.error(
            "user=<%s>, password was changed without mailseal: the passdb accepts it, the "
            "keyring does not; %s",
            user,
            remedy,
        )
        return "temporary", {"reason": f"{STALE}: {remedy}".encode()}

    async def _without_key(self, user: str, fields: Fields) -> Answer:
        """A login that cannot read sealed mail.

        POP3 is refused: Dovecot 2.3.19 returns an empty mail for each mail that it
        cannot open, and clients delete mails after fetching them.
        """
        if fields.get("service") == b"pop3":
            raise TemporaryError("no POP3 login without the key: Dovecot would return empty mails")
        return await self._public_only(user)

    async def _public_only(self, user: str) -> Answer:
        """The fields to seal mail but not to open it: for logins that need no key, and lookups."""
        if (key := await self.stored.sealing_key(user)) is None:
            return "unknown", {}
        return "ok", _named(user, public_fields(self.version, key))

    async def _lookup(self, fields: Fields) -> Answer:
        try:
            user = normalise(fields.get("user", b""))
        except BadUserName:
            return "unknown", {}
        if fields.get("master"):
            self.log.info(
                "lookup: user=<%s>, service=%s, no key: master user <%s>",
                user,
                _shown(fields, "service"),
                _shown(fields, "master"),
            )
            return await self._without_key(user, fields)
        return await self._public_only(user)

    def _unexpected(self, verb: str, exc: Exception) -> None:
        """Log the class and the line, but not the values, which may be secret."""
        frames = traceback.extract_tb(exc.__traceback__)[-3:]
        where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
        self.log.error("%s: unexpected %s at %s", verb[:20], type(exc).__name__, where)


def _named(user: str, named: Named) -> Fields:
    return {"user": user.encode(), **{name: value.encode() for name, value in named}}


def _shown(fields: Fields, name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")[:100]


def _sentence(exc: MailsealError) -> str:
    return f"{exc} ({exc.hint})" if exc.hint else str(exc)
