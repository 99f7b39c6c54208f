# SPDX-License-Identifier: MIT
"""All findings of check-config, in families.  `mailseal doctor` has a check for each family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from mailseal.admin import access_check, dovecot_check, index_check
from mailseal.admin.finding import Finding
from mailseal.config import Config
from mailseal.doveconf import Doveconf

_AGAIN = "correct it as the line says, then run `mailseal check-config`"
_DOVECOT = (
    "correct it as the line says, then run `mailseal check-config --no-sockets` and, if it finds "
    "no error, `systemctl restart dovecot`"
)


@dataclasses.dataclass(frozen=True)
class Family:
    """Findings of one kind.  `sound`: what is true if there are none."""

    name: str
    sound: str
    remedy: str
    find: Callable[[Config, Doveconf], Iterable[Finding]]


SOCKETS = "sockets"

FAMILIES = (
    Family(
        "users",
        "the system users in mailseal.yaml exist",
        _AGAIN,
        lambda config, _: access_check.users(config),
    ),
    Family(
        "store",
        "there is a store for keys, and the agent can use it",
        "run `mailseal init` if this is a new installation; otherwise mount its file system",
        lambda config, _: access_check.store(config),
    ),
    Family(
        "public-keys",
        "the folder of public keys contains files only",
        _AGAIN,
        lambda config, _: access_check.public_files(config),
    ),
    Family(
        "dovecot",
        "Dovecot's passdbs, userdbs, plugins, formats and namespaces fit mailseal",
        _DOVECOT,
        dovecot_check.findings,
    ),
    Family(
        "index",
        "the encrypted index folders work, if index.folder is set",
        _AGAIN,
        index_check.findings,
    ),
    Family(
        SOCKETS,
        "servers listen on the sockets, and those who need them have access",
        _DOVECOT,
        lambda config, _: access_check.sockets(config),
    ),
)
