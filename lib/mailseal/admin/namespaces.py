# SPDX-License-Identifier: MIT
"""Finds a user's mail in namespaces other than that of INBOX, from Dovecot's settings.

A private namespace with its own mail location in a Maildir is the user's own mail, like that
of INBOX.  Mail in shared and public namespaces belongs to others, and has other keys.

FAILURES
    None: a mail location that cannot be used is listed, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mailseal.admin.file_places import Files, files_of
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.location import expand
from mailseal.doveconf import Block

_SOMEBODY_ELSE = ("somebody@else.example", "/somebody/else")


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """Mail in another namespace."""

    prefix: str
    files: Files | None = None
    """None if it is not a Maildir of the user."""
    why: str = ""
    own: bool = True
    """Whether it is, or may be, mail of this user."""

    @property
    def maildir(self) -> str:
        """Empty if it is not a Maildir of the user."""
        return self.files.maildir if self.files else ""


def others(found: Block, user: str, home: str) -> Sequence[Elsewhere]:
    """All namespaces with mail that is not stored with INBOX."""
    seen = [_of(namespace, found, user, home) for namespace in found.all("namespace")]
    return [one for one in seen if one is not None]


def _of(namespace: Block, found: Block, user: str, home: str) -> Elsewhere | None:
    if "yes" in (namespace.get("inbox"), namespace.get("disabled")) or namespace.get("alias_for"):
        return None
    prefix = namespace.get("prefix")
    if (kind := namespace.get("type")) in ("shared", "public"):
        return Elsewhere(prefix, why=f"a {kind} namespace, mail of others", own=False)
    # 2.3 has `mdbox:~/path:OPTIONS`, 2.4 two settings.
    location = namespace.get("location")
    driver, _, rest = location.partition(":")
    template = rest.partition(":")[0] or namespace.get("mail_path")
    driver = driver or namespace.get("mail_driver") or found.get("mail_driver") or "maildir"
    if not template or driver == "virtual":
        return None  # the same mail as INBOX's namespace, or no mail
    if driver not in ("maildir", "auto"):
        return Elsewhere(prefix, why=f"a namespace with the mail format {driver}")
    path = expand(settings.in_short(template), user, home)
    if path is None:
        return Elsewhere(prefix, why=f"a namespace with an unknown mail location: {template}")
    if path == expand(settings.in_short(template), *_SOMEBODY_ELSE):
        return Elsewhere(prefix, why="a namespace with the same mail for all users", own=False)
    return Elsewhere(prefix, files_of(path, location, (namespace, found), user, home))
