# SPDX-License-Identifier: MIT
"""Makes the agent's objects from the configuration, when it starts.

FAILURES
    ConfigError with the name of the option.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.login.guesses import Limits
from mailseal.login.newcomers import Newcomers
from mailseal.login.policy import Policy
from mailseal.login.vault import Vault


class Outside(Protocol):
    """The functions of other parts of mailseal that the agent uses."""

    def check_password(self, config: Config, user: str, password: bytes) -> None:
        """Raise WrongPassword unless Dovecot accepts this user's password."""
        ...

    def require_sealable(self, config: Config, user: str) -> None:
        """Raise TemporaryError if mail of this user could not be sealed."""
        ...

    def old_mail(self, config: Config, user: str) -> dict[str, Any] | None:
        """The state of the user's existing mail, as recorded by mailseal-sealer."""
        ...


def newcomers(vault: Vault, config: Config, outside: Outside | None) -> Newcomers:
    """Without checks if the keyring is the only password check: then all users are enrolled."""
    if outside is None or config.login.password_check != "passdb":  # noqa: S105 - no password
        return Newcomers(vault, None)
    return Newcomers(
        vault,
        functools.partial(outside.check_password, config),
        functools.partial(outside.require_sealable, config),
    )


def policy(config: Config) -> Policy:
    """The options login.* for logins."""
    return Policy(
        config.login.enroll == "at-login",
        tuple(entry.lower() for entry in config.login.enroll_for),
        frozenset(config.login.keyless_services),
        keyring_decides=config.login.password_check == "keyring",  # noqa: S105 - no password
    )


def limits(config: Config) -> Limits:
    """The options login.wrong_*."""
    login = config.login
    return Limits(
        per_user=login.wrong_per_user,
        per_address=login.wrong_per_address,
        pause=login.wrong_pause,
        shared=login.shared_addresses,
    )


def uids(names: tuple[str, ...], option: str) -> frozenset[int]:
    """The uids of the users in an option."""
    return frozenset(user_ids(name, option)[0] for name in names)


def login_group(config: Config) -> int | None:
    """The group of the first of agent.login_users that is not root; None if there is none."""
    for name in config.agent.login_users:
        uid, gid = user_ids(name, "agent.login_users")
        if uid != 0:
            return gid
    return None
