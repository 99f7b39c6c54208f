# SPDX-License-Identifier: MIT
"""Decides how the mail of one recipient is delivered.

    unknown user                                  NoSuchUser (550 5.1.1)
    enrolled, Maildir of delivery.user            seal: mailseal stores it itself
    enrolled, but with Sieve script, another      relay: Dovecot's mail_crypt seals, if its
      mail format, or another uid                   userdb returns the same public key (it is
                                                    asked also with `userdb: template`)
    mailbox full (dovecot.quota_socket)           MailboxFull (452), MailboxFullRefused (552)
    not enrolled                                  delivery.not_enrolled: relay in clear,
                                                    RecipientDeferred or RecipientRefused

CONTRACT: FAIL CLOSED
    Mail of an enrolled user is never stored in clear.  Only PublicStore
    decides whether a user is enrolled.  Every result except a certain "no" (None) is
    a temporary failure.  Mail for an enrolled user is relayed only if the reply of
    Dovecot's userdb shows that Dovecot will seal with this key.  A reply that was kept may be
    older than the key: then Dovecot is asked again, once for each user and key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Literal

from mailseal.config import Config
from mailseal.crypto.eckeys import PublicKey
from mailseal.delivery.dovecot import sealing, userdb
from mailseal.delivery.dovecot.location import Account, expand
from mailseal.delivery.dovecot.quota import QuotaStatus
from mailseal.delivery.lmtp.syntax import Address
from mailseal.errors import (
    BadUserName,
    MailsealError,
    NoSuchUser,
    RecipientDeferred,
    RecipientRefused,
    TemporaryError,
)
from mailseal.keys.names import normalise
from mailseal.keys.public import PublicStore

_SITE_SCRIPTS = ("sieve_before", "sieve_after", "sieve_default", "sieve_script")
"""Userdb fields with further Sieve scripts: those of 2.3, and the last one of 2.4."""


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """How mail for `address` is delivered.  `why` is for the log."""

    address: Address
    account: Account
    action: Literal["seal", "relay"]
    key: PublicKey | None
    detail: str
    why: str

    @property
    def user(self) -> str:
        """The user name for keys."""
        return self.account.user

    @property
    def maildir(self) -> str:
        """The Maildir, if mailseal stores the mail."""
        return self.account.maildir or ""


class MustWait(Exception):
    """To choose the route, another process must be asked."""


class _NotSealed(TemporaryError):
    """Dovecot's reply does not show that Dovecot would seal with this key."""

    key_id = b""


class Router:
    """Decides for one recipient at a time; used by many threads."""

    def __init__(self, config: Config, settings: Mapping[str, str] | None = userdb.NONE) -> None:
        """`settings`: those of Dovecot, None if they are not known (dovecot/settings.py)."""
        self._users = userdb.from_config(config, settings)
        self._dovecot = userdb.of_dovecot(config, userdb.NONE)
        self._keys = PublicStore(config.public_dir)
        self._delimiter = config.delivery.recipient_delimiter
        self._script = config.delivery.sieve_script
        self._sieve_for_all = config.delivery.sieve == "always"
        self._not_enrolled = config.delivery.not_enrolled
        self._certain = config.delivery.userdb != "template"
        self._uid = os.geteuid()
        service = config.dovecot.quota_socket
        self._quota = QuotaStatus(service, config) if service else None
        self._asked_again: dict[str, bytes] = {}
        """User, and id of the key with which Dovecot would not seal, when it was asked again."""

    def route(self, address: Address, size: int = 0, *, may_wait: bool = True) -> Route:
        """Choose the route.  Raises the errors in the module's table, otherwise TemporaryError.

        `size` is the announced size in bytes, 0 if it is not known.  For relayed mail, Dovecot
        checks the quota.  With `may_wait=False` it does not wait for another process or a mount,
        but raises MustWait.
        """
        name, detail = self._split(address)
        if not may_wait and (not self._certain or self._quota is not None):
            raise MustWait
        account = self._users.remembered(name)
        if account is not None:
            try:
                return self._decided(address, name, detail, account, size)
            except _NotSealed as exc:
                if self._asked_again.get(name) == exc.key_id:
                    raise
        if not may_wait:
            raise MustWait
        account = self._users.lookup(name, anew=True)
        try:
            return self._decided(address, name, detail, account, size, anew=True)
        except _NotSealed as exc:
            if len(self._asked_again) >= 10000:
                self._asked_again.clear()
            self._asked_again[name] = exc.key_id
            raise

    def _decided(
        self,
        address: Address,
        name: str,
        detail: str,
        account: Account | None,
        size: int,
        *,
        anew: bool = False,
    ) -> Route:
        """The route, with what the user database knows about `name`."""
        if account is None:
            self._require_not_enrolled(name)
            raise NoSuchUser(f"user unknown: {name}")
        key = self.key_of(account.user)
        if key is None:
            self._require_no_other_name(name, account.user)
            return self._in_clear(address, account, detail)
        _require_own_name(account)
        _require_located(account)
        obstacle = self._obstacle(account)
        if obstacle is None:
            if self._quota is not None:
                self._quota.require_room(account.user, size)
            return Route(address, account, "seal", key, detail, "enrolled")
        proof = account if self._certain else self._as_dovecot_knows(name, account, anew)
        _require_sealing(proof, key, obstacle)
        return Route(address, account, "relay", key, detail, obstacle)

    def _as_dovecot_knows(self, name: str, account: Account, anew: bool) -> Account:
        """Look up in Dovecot, perhaps on another host, a user that the template knows."""
        found = self._dovecot.lookup(name, anew=anew)
        if found is None or found.user != account.user:
            theirs = "which does not know this user"
            if found is not None:
                theirs = f"whose name for this user is {found.user}"
            raise TemporaryError(f"{account.user} must get mail through Dovecot, {theirs}")
        return found

    def key_of(self, user: str) -> PublicKey | None:
        """The user's present public key.  None only if the user is certainly not enrolled."""
        try:
            return self._keys.lookup(user)
        except BadUserName as exc:
            # A user with a name that is not allowed was never enrolled, but to be safe this
            # is a temporary failure.
            raise TemporaryError(str(exc)) from None
        except MailsealError as exc:
            raise TemporaryError(
                f"cannot look up the key of {user}: {exc}", hint=exc.hint
            ) from None

    def _require_not_enrolled(self, name: str) -> None:
        """If an enrolled user has no home, the mail store may not be mounted.

        Dovecot's "no such user" is certain; the template only checks that folders exist.
        """
        if not self._certain and self._is_key_name(name):
            raise TemporaryError(f"the home of {name} does not exist, but the user has a key")

    def _require_no_other_name(self, name: str, user: str) -> None:
        """Refuse if there is a key for the address, but Dovecot has another name for the user."""
        if name != user and self._is_key_name(name):
            raise TemporaryError(
                f"{name} has a key, but Dovecot's name for this user is {user}",
                hint=f"enroll {user}, and unenroll {name}",
            )

    def _is_key_name(self, name: str) -> bool:
        """Whether there is a key for exactly this name."""
        with contextlib.suppress(BadUserName):
            return self.key_of(normalise(name)) is not None
        return False

    def _split(self, address: Address) -> tuple[str, str]:
        """User name and detail, separated at the first delimiter, as in Dovecot."""
        local, detail = address.local, ""
        if self._delimiter is not None:
            base, _, rest = local.partition(self._delimiter)
            if base:
                local, detail = base, rest
        return (f"{local}@{address.domain}" if address.domain else local), detail

    def _in_clear(self, address: Address, account: Account, detail: str) -> Route:
        if self._not_enrolled == "deliver":
            return Route(address, account, "relay", None, detail, "not enrolled")
        if self._not_enrolled == "defer":
            raise RecipientDeferred(f"{account.user} has no key pair yet")
        raise RecipientRefused(f"{account.user} has no key pair")

    def _obstacle(self, account: Account) -> str | None:
        """Why mailseal cannot store for this account itself; None if it can."""
        if account.maildir is None:
            return "not a Maildir"
        if account.uid is not None and account.uid != self._uid:
            return "another uid"
        if self._sieve_for_all:
            return "sieve for all"
        return "sieve script" if self._has_script(account) else None

    def _has_script(self, account: Account) -> bool:
        if any(name.startswith(_SITE_SCRIPTS) for name in account.extra):
            return True
        location = account.extra.get("sieve", self._script)
        if not location:
            return False
        where, *options = location.split(";")
        for option in options:
            if option.startswith("active="):
                where = option[len("active=") :]
        kind, colon, rest = where.partition(":")
        if colon and kind.isalpha():
            if kind != "file":
                return True  # dict:, ldap: and so on: only Dovecot can read them
            where = rest
        path = expand(where, account.user, account.home)
        if path is None:
            return not (where.startswith("~") and not account.home)
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise TemporaryError(
                f"cannot determine whether {account.user} has a Sieve script: {exc.strerror}"
            ) from None
        return True


def _require_own_name(account: Account) -> None:
    """Refuse if Dovecot distinguishes Alice and alice: mailseal has keys for alice only."""
    if account.name != account.user:
        raise TemporaryError(
            f"Dovecot's name for this user is {account.name}, and the key is that of "
            f"{account.user}: for Dovecot these may be two users",
            hint="make Dovecot convert names to lower case: auth_username_format = %Lu in 2.3, "
            "%{user | lower} in 2.4",
        )


def _require_located(account: Account) -> None:
    """Refuse if mail could be stored where Dovecot does not look for it."""
    if not account.located:
        raise TemporaryError(
            f"it is not known where Dovecot stores the mail of {account.user}: its userdb returns "
            "no mail location, and its settings cannot be read",
            hint="run `mailseal check-config`",
        )


def _require_sealing(account: Account, key: PublicKey, obstacle: str) -> None:
    """Raise if Dovecot's userdb fields do not make mail_crypt seal with `key`."""
    reason = sealing.why_not(account.extra, key)
    if reason is not None:
        error = _NotSealed(
            f"{account.user} must get mail through Dovecot ({obstacle}), but {reason}",
            hint="see the userdb block in dovecot-conf",
        )
        error.key_id = key.key_id
        raise error
