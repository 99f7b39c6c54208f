# SPDX-License-Identifier: MIT
"""The verbs for agent.panel_users: they require the user's password or recovery code.

CONTRACT
    A panel is a web server, and an attacker may take it over.  So a panel can only do
    what the user could do with a password or a recovery code.  Without these, it
    only learns whether a user is enrolled, and the kinds of the user's slots.  It
    cannot list users.
      passwd, app, recovery       the login password
      recover                     a recovery code
      rewrap                      the previous password or a recovery code
      commit, undo                the id of the change, which passwd or recover has returned
      revoke                      the login password; only for app passwords
      status                      nothing; with the login password or a recovery
                                  code it shows all slots of the user
    The page for users (web.user) can also use the verbs of self_service.py.
    With the address of its client as `remote`, guesses count as those at IMAP from there.
    callers.py says whose word for it counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mailseal.errors import NotEnrolled, NotPermitted, WrongPassword
from mailseal.login.guesses import Guesses, place_of
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.protocol import Fields
from mailseal.login.thread_pools import ThreadPools, asked_by_panel
from mailseal.login.vault import Vault
from mailseal.login.verbs import Answer, Verb, needed, text_of, user_of

# The field with the user's password or recovery code that a verb checks; "password" if it is not
# listed.  Other fields with these names are dropped: a field that a verb ignores must not count as
# the guess in place of the one that it checks.
_PROOF = {"passwd": "old", "recover": "code"}
_PROOF |= dict.fromkeys(("rewrap", "reset", "status"), "secret")
_UNPROVEN = ("commit", "undo", "state", "begun", "code_begun")
_SECRETS = frozenset(("old", "password", "code", "secret"))
_AS_THEY_ARE = ("passwd", "commit", "undo", "rewrap", "recover", "recovery", "app")


class PanelVerbs:
    """Verbs for panels, which use the verbs for administrators."""

    def __init__(
        self,
        vault: Vault,
        pools: ThreadPools,
        admin_verbs: Mapping[str, Verb],
        guesses: Guesses | None = None,
    ) -> None:
        self._vault = vault
        self._life = Lifecycle(vault)
        self._pools = pools
        self._admin = admin_verbs
        self._guesses = guesses or Guesses()
        verbs: dict[str, Verb] = {name: admin_verbs[name] for name in _AS_THEY_ARE}
        self.verbs = self.guarded({**verbs, "revoke": self._revoke, "status": self._status})

    def guarded(self, verbs: Mapping[str, Verb]) -> dict[str, Verb]:
        """The same verbs for a panel: wrong passwords are slowed down."""
        return {name: self._guarded(name, verb) for name, verb in verbs.items()}

    def _guarded(self, name: str, verb: Verb) -> Verb:
        """Limit the rate of wrong passwords, and use a separate thread pool for panels."""
        proof = "" if name in _UNPROVEN else _PROOF.get(name, "password")

        async def guarded(fields: Fields) -> Answer:
            fields = {key: value for key, value in fields.items() if key not in _SECRETS - {proof}}
            secret = fields.get(proof)
            asked_by_panel.set(True)
            try:
                return await verb(fields) if secret is None else await tried(fields, secret)
            finally:
                asked_by_panel.set(False)

        async def tried(fields: Fields, secret: bytes) -> Answer:
            user, wrong = user_of(fields), None
            remote = fields.get("remote", b"").decode("utf-8", "replace")[:100]
            if place_of(remote) is None:
                remote, a_try = "", self._guesses.admit_to_panel(user)
            else:
                a_try = self._guesses.admit(user, remote)
            try:
                answer = await verb(fields)
                self._guesses.note_right(user, remote)
                return answer
            except WrongPassword:
                wrong = self._guesses.stands_for(user, secret)
                raise
            except NotEnrolled:
                if name not in _PROOF:
                    raise
                # There is no keyring that the secret could open.
                wrong = self._guesses.stands_for(user, secret)
                raise WrongPassword(f"wrong password for {user}") from None
            finally:
                if a_try.ended(wrong, repeated=True):
                    self._guesses.note_wrong(user, remote)

        return guarded

    async def _revoke(self, fields: Fields) -> Answer:
        user, password = user_of(fields), needed(fields, "password")
        slot_id = text_of(fields, "slot")
        if "rekey" in fields:
            raise NotPermitted("a panel cannot rekey; only an administrator can")

        def check() -> None:
            opened = self._vault.open(user, password)
            opened.wipe()
            if opened.keyring.slot(slot_id).kind != "app":
                raise NotPermitted(f"slot {slot_id} of {user} is not an app password")

        await self._pools.change(check)
        return await self._admin["revoke"](fields)

    async def _status(self, fields: Fields) -> Answer:
        user = user_of(fields)
        if "secret" in fields:
            secret = fields["secret"]
            await self._pools.change(lambda: self._life.prove(user, secret))
            return await self._admin["status"]({"user": user.encode()})
        keyring = await self._pools.quick(lambda: self._vault.load(user))
        found = {"user": user, "ways_in": sorted({slot.kind for slot in keyring.slots})}
        return "ok", {"users": json.dumps([found]).encode()}
