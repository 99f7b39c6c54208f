# SPDX-License-Identifier: MIT
"""Checks that the other fields of a user leave room for the keys in the line of a login.

Dovecot accepts no line over 8,192 bytes.  The agent calculates the size of its own fields, and
reserves 1,536 bytes for all others (mailcrypt_fields.py).  Only Dovecot's userdb knows these.
"""

from __future__ import annotations

import contextlib

from mailseal.config import Config
from mailseal.delivery.dovecot import sealing
from mailseal.delivery.dovecot.userdb import DovecotUserdb, escape
from mailseal.errors import TemporaryError
from mailseal.login.mailcrypt_fields import RESERVE

_PREFIX = len("userdb_")  # in a line of 2.3
_OF_DOVECOT = 200
"""Bytes of the fields that auth adds at a login: auth_mech, auth_token, session and so on."""


def require(config: Config, user: str) -> None:
    """Raise TemporaryError if the userdb returns more than is reserved.

    Returns if the userdb does not answer, or does not know the user.
    """
    account = None
    if config.dovecot_is_here:
        with contextlib.suppress(TemporaryError):
            account = DovecotUserdb(config).lookup(user)
    if account is None:
        return
    found = _OF_DOVECOT + 2 * len(user.encode())
    for name, value in account.extra.items():
        if name not in sealing.OURS:  # counted by the agent
            found += _PREFIX + len(escape(f"{name}={value}").encode()) + 1
    if found > RESERVE:
        raise TemporaryError(
            f"the user database returns {found} bytes for {user}, but in a login only {RESERVE} "
            "are left for fields other than the keys: logins could fail",
            hint=f"`doveadm user {user}` shows the fields; shorten or remove some",
        )
