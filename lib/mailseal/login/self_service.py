# SPDX-License-Identifier: MIT
"""The verbs for users who manage their own keys, through the page (web.user).

CONTRACT
    Each needs the user's login password, except:
      state               needs the token of sign_in; it changes nothing
      begun, code_begun   the same; the groups of the code that the second step needs
    For a user who is not enrolled, Dovecot's passdb checks the password, otherwise the keyring.
    Until the password is proved, the answer does not depend on whether the user is enrolled, and
    about the same work is done before it.

VERBS
    sign_in        password: a token for `state`, and the state
    state          token: the state, as JSON
    enroll_begin   password: a recovery code; nothing is stored yet
    enroll_finish  password, two groups of the code: the user is enrolled
    code_begin     password: a new recovery code; the older one stays valid
    code_finish    password, two groups of the code: it replaces the older one
    seal_old       password: asks to seal the mail from before the enrollment
    leave          password: asks to store all mail in clear and to remove the keys
    stay           password: cancels this request
    end_sessions   password: ends the sessions in the agent and in Dovecot
    own_keys       password: the private keys in clear
    reset          recovery code or old password as `secret`, new password that the postmaster has
                   set: the keyring gets it too, unless Dovecot refuses it
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailseal.errors import (
    AlreadyEnrolled,
    MailsealError,
    NotEnrolled,
    NotPermitted,
    TemporaryError,
    WrongPassword,
)
from mailseal.login.chores import Chores
from mailseal.login.everywhere import Everywhere
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.new_codes import NewCodes
from mailseal.login.newcomers import Newcomers
from mailseal.login.notes import Notes
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault
from mailseal.login.verbs import Answer, Verb, needed, note_enrollment, text_of, user_of

_TOKEN_FOR = 43200
_Describe = Callable[[str], dict[str, Any]]


class SelfService:
    """Verbs for web.user; panel_verbs.py limits the rate of wrong passwords."""

    def __init__(
        self,
        vault: Vault,
        pools: ThreadPools,
        sessions: Sessions,
        *,
        newcomers: Newcomers,
        chores: Chores,
        notes: Notes,
        old_mail: Callable[[str], dict[str, Any] | None],
        describe: _Describe,
        admin_verbs: Mapping[str, Verb],
        seals_old_mail: bool,
        enrolls_at_login: Callable[[str], bool] = lambda user: False,
        log: logging.Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vault = vault
        self._life = Lifecycle(vault)
        self._pools = pools
        self._sessions = sessions
        self._newcomers = newcomers
        self._codes = NewCodes(vault)
        self._chores = chores
        self._notes = notes
        self._old_mail = old_mail
        self._describe = describe
        self._admin = admin_verbs
        self._seals_old_mail = seals_old_mail
        self._enrolls_at_login = enrolls_at_login
        self._log = log
        self._clock = clock
        self._key = os.urandom(32)
        self._ended: dict[str, float] = {}
        self.verbs: dict[str, Verb] = {
            "sign_in": self._sign_in,
            "state": self._state,
            "begun": self._begun,
            "enroll_begin": self._enroll_begin,
            "enroll_finish": self._enroll_finish,
            "code_begin": self._code_begin,
            "code_begun": self._code_begun,
            "code_finish": self._code_finish,
            "seal_old": self._seal_old,
            "leave": self._leave,
            "stay": self._stay,
            "end_sessions": self._end_sessions,
            "own_keys": self._own_keys,
            "reset": self._reset,
        }

    async def _sign_in(self, fields: Fields) -> Answer:
        user = await self._proven(fields)
        return "ok", {"token": self._token(user), **await self._shown(user)}

    async def _state(self, fields: Fields) -> Answer:
        return "ok", await self._shown(self._of_token(fields))

    async def _begun(self, fields: Fields) -> Answer:
        return "ok", _asked(self._newcomers.asked(self._of_token(fields)))

    async def _enroll_begin(self, fields: Fields) -> Answer:
        user, password = await self._not_enrolled(fields), needed(fields, "password")
        # Of an earlier enrollment.  Not at the end: then another tab may have made new ones.
        await self._pools.quick(lambda: self._notes.forget(user))
        begin = lambda: self._newcomers.begin(user, password)  # noqa: E731
        code, asked = await self._pools.change(begin)
        self._log.info("enroll: user=<%s>, recovery code made, not enrolled yet", user)
        return "ok", {"code": code.encode(), **_asked(asked)}

    async def _enroll_finish(self, fields: Fields) -> Answer:
        """With `old_mail` the older mail is sealed too."""
        typed = text_of(fields, "typed").split()
        user, password = await self._not_enrolled(fields), needed(fields, "password")

        def finish() -> str:
            keyring = self._newcomers.finish(user, password, typed)
            note_enrollment(self._log, keyring)
            return keyring.current.key_id.hex()

        key_id = await self._pools.change(finish)
        self._sessions.end(user)
        try:
            if "old_mail" in fields:
                await self._pools.quick(lambda: self._notes.want_old_mail(user))
            await Everywhere(self._vault.public, self._pools).enrolled(user)
        finally:
            # Sessions from before the enrollment have no key and would save mail in clear.
            self._chores.kick(user)
        return "ok", {"key_id": key_id.encode()}

    async def _not_enrolled(self, fields: Fields) -> str:
        """A user who proves the password and may enroll now.  Raises AlreadyEnrolled."""
        user = await self._proven(fields)
        if await self._pools.quick(lambda: self._vault.is_known(user)):
            raise AlreadyEnrolled(f"{user} is already enrolled")
        await self._pools.wait(lambda: self._newcomers.require_sealable(user))
        return user

    async def _code_begin(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        code, asked = await self._pools.change(lambda: self._codes.begin(user, password))
        self._log.info("recovery-code: user=<%s>, made, not valid yet", user)
        return "ok", {"code": code.encode(), **_asked(asked)}

    async def _code_begun(self, fields: Fields) -> Answer:
        return "ok", _asked(self._codes.asked(self._of_token(fields)))

    async def _code_finish(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        typed = text_of(fields, "typed").split()
        await self._pools.change(lambda: self._codes.finish(user, password, typed))
        self._sessions.end(user)
        self._log.info("recovery-code: user=<%s>, done", user)
        return "ok", {}

    async def _seal_old(self, fields: Fields) -> Answer:
        user = await self._enrolled(fields)
        await self._pools.quick(lambda: self._notes.want_old_mail(user))
        self._log.info("seal_old: user=<%s>", user)
        return "ok", {}

    async def _leave(self, fields: Fields) -> Answer:
        """Keep the keys in memory until mailseal-sealer has finished."""
        user, password = user_of(fields), needed(fields, "password")
        if not self._newcomers.possible:
            raise NotPermitted("without keys the user could not log in any more")
        if self._enrolls_at_login(user):
            raise NotPermitted(
                f"login.enroll would enroll {user} again at the next login, without a recovery "
                "code",
                hint="exclude the user with login.enroll_for, or unset login.enroll",
            )
        opened = await self._pools.change(lambda: self._vault.open(user, password))
        self._chores.leave(user, opened.keys)
        opened.wipe()
        self._log.info("leave: user=<%s>, asked for", user)
        return "ok", {}

    async def _stay(self, fields: Fields) -> Answer:
        """Cancel; mail that was stored in clear is sealed again."""
        user = await self._enrolled(fields)
        self._chores.stay(user)
        await self._pools.quick(lambda: self._stays(user))
        self._log.info("stay: user=<%s>", user)
        return "ok", {}

    def _stays(self, user: str) -> None:
        if self._vault.public.is_suspended(user):
            self._vault.repair(user)
        self._notes.want_old_mail(user)

    async def _end_sessions(self, fields: Fields) -> Answer:
        user = await self._proven(fields)
        await self._admin["lock"]({"user": user.encode()})
        self._ended[user] = self._clock()
        self._chores.kick(user)
        return "ok", {}

    async def _own_keys(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        opened = await self._pools.change(lambda: self._vault.open(user, password))
        lines = "\n".join(key.dovecot_string() for key in reversed(opened.keys))
        opened.wipe()
        self._log.warning("own_keys: user=<%s>, private keys given to the user", user)
        return "ok", {"keys": lines.encode()}

    async def _reset(self, fields: Fields) -> Answer:
        """The secret comes first: otherwise this would be a way to guess the login password."""
        user, secret, new = user_of(fields), needed(fields, "secret"), needed(fields, "new")
        await self._pools.change(lambda: self._life.prove(user, secret))
        if self._newcomers.possible:
            # Until the keyring has the new password, Dovecot fails temporarily where it is right.
            with contextlib.suppress(TemporaryError):
                await self._pools.wait(lambda: self._newcomers.prove(user, new))
        return await self._admin["rewrap"](fields)

    async def _enrolled(self, fields: Fields) -> str:
        """A user who proves the password and is enrolled.  Raises NotEnrolled."""
        user = await self._proven(fields)
        if not await self._pools.quick(lambda: self._vault.is_known(user)):
            raise NotEnrolled(f"{user} is not enrolled")
        return user

    async def _proven(self, fields: Fields) -> str:
        """The user, after a check of the password.

        If the keyring does not open, Dovecot is asked as well: for a user who is not enrolled it
        decides, and for the others it takes as long, two seconds for a wrong password.  open()
        runs Argon2id if there is no keyring, too.
        """
        user, password = user_of(fields), needed(fields, "password")
        try:
            await self._pools.change(lambda: self._vault.open(user, password).wipe())
        except WrongPassword as exc:
            wrong = exc
        else:
            return user
        # Looked up now: if the user was unenrolled meanwhile, there is no keyring any more.
        enrolled = await self._pools.quick(lambda: self._vault.is_known(user))
        if not self._newcomers.possible:
            raise wrong
        prove = self._pools.wait(lambda: self._newcomers.prove(user, password))
        if not enrolled:
            await prove
            return user
        with contextlib.suppress(MailsealError):
            await prove
        raise wrong

    def _token(self, user: str) -> bytes:
        at = str(int(self._clock())).encode()
        return at + b"." + self._seal_of(user, at)

    def _of_token(self, fields: Fields) -> str:
        user = user_of(fields)
        at, _, seal = needed(fields, "token").partition(b".")
        if not hmac.compare_digest(seal, self._seal_of(user, at)) or not at.isdigit():
            raise NotPermitted("sign in again")
        since = int(at)
        if not 0 <= self._clock() - since < _TOKEN_FOR or since <= self._ended.get(user, -1.0):
            raise NotPermitted("sign in again")
        return user

    def _seal_of(self, user: str, at: bytes) -> bytes:
        return hmac.digest(self._key, at + b"." + user.encode(), "sha256").hex().encode()

    async def _shown(self, user: str) -> Fields:
        found = await self._pools.quick(lambda: self._look(user))
        session = self._sessions.age(user)
        found["session"] = (
            None if session is None else {"age": int(session[0]), "idle": int(session[1])}
        )
        found["leaving"] = self._chores.leaves(user)
        found["service_runs"] = self._chores.anybody_comes
        return {"state": json.dumps(found).encode()}

    def _look(self, user: str) -> dict[str, Any]:
        """The state that a user may see, without secrets."""
        found: dict[str, Any] = {
            "user": user,
            "enrolled": self._vault.is_known(user),
            "can_enroll": self._newcomers.possible,
            "can_leave": self._newcomers.possible and not self._enrolls_at_login(user),
            "escrow": self._vault.escrow is not None,
            "old_mail": self._old_mail(user),
            "old_mail_at_enrollment": self._seals_old_mail,
            "old_mail_wanted": bool(self._notes.wants_old_mail(user)),
        }
        if not found["enrolled"]:
            return found
        described = self._describe(user)
        if "problem" in described:
            return found | {"problem": True}
        used = self._notes.last_use(user)
        return found | {
            "since": described["created"],
            "key_id": described["keys"][-1]["id"],
            "key_pairs": len(described["keys"]),
            "second_way": described["second_way"],
            "problem": described["public_key"] != "ok"
            and not self._vault.public.is_suspended(user),
            "ways_in": [
                {name: slot[name] for name in ("id", "kind", "label", "created")}
                | {"used": used.get(slot["id"])}
                for slot in described["slots"]
            ],
        }


def _asked(groups: Sequence[int]) -> Fields:
    return {"asked": " ".join(map(str, groups)).encode()}
