# SPDX-License-Identifier: MIT
"""Which key pairs a user has had: mail of an older pair is the user's, other sealed mail is not.

ids = ids_of(config, user)       # the ids of all pairs, or None: the agent does not answer
"""

from __future__ import annotations

import os

from mailseal.admin.command import ask
from mailseal.config import Config
from mailseal.errors import MailsealError
from mailseal.keys import record


def ids_of(config: Config, user: str) -> list[bytes] | None:
    """Without them, mail of older pairs cannot be told from mail of a stranger."""
    try:
        (entry,) = record.parse(ask(config, "status", user=os.fsencode(user)).fields["users"])
        return [bytes.fromhex(key["id"]) for key in entry["keys"]]
    except (MailsealError, KeyError, ValueError):
        return None
