# SPDX-License-Identifier: MIT
"""Where Dovecot keeps its index and its dovecot-uidlist for one Maildir of a user.

2.3 has options of the mail location: `maildir:~/Maildir:INDEX=/idx/%u:CONTROL=/ctl/%u`; 2.4 has
settings: mail_index_path, mail_control_path.  Without them the files are in the Maildir.

FAILURES
    None: an index whose place is not known, or that is in memory, has no lock (`lockable`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.location import expand
from mailseal.doveconf import Block

_OWNER = (("%{owner_user}", "%%u"), ("%{owner_home}", "%%h"))
"""The variables of 2.4 and 2.3."""


class _Settings(Protocol):
    def get(self, name: str, /) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Files:
    """One Maildir.

    control   folder of the dovecot-uidlist files; empty: the Maildir
    index     folder of the index files; empty: the Maildir, or not known
    lockable  all that Dovecot's processes use is the index there, so that its lock keeps them out
    """

    maildir: str
    control: str = ""
    index: str = ""
    lockable: bool = True


def files_of(
    maildir: str, location: str, found: Sequence[_Settings], user: str, home: str
) -> Files:
    """`location`: that of 2.3, or empty; `found`: settings of 2.4, the strongest first."""

    def path(option: str, setting: str) -> str | None:
        template = _option(location, option) or _first(found, setting)
        return expand(settings.in_short(template), user, home) if template else maildir

    control, index = path("CONTROL", "mail_control_path"), path("INDEX", "mail_index_path")
    return Files(
        maildir,
        "" if control in (None, maildir) else str(control),
        "" if index in (None, maildir) else str(index),
        index is not None,
    )


def others_have_own_index(found: Block, files: Files, user: str, home: str) -> bool:
    """Whether users who may read this mail in a shared namespace have another index for it.

    The index is the same if its path depends on the owner only: `%%u`, `%{owner_user}`.
    """
    for namespace in found.all("namespace"):
        if namespace.get("type") != "shared":
            continue
        location = namespace.get("location")
        template = _option(location, "INDEX") or _first((namespace, found), "mail_index_path")
        if not template:
            continue  # it is in the owner's Maildir
        path = _as_owner(template, user, home)
        if path is None or path != (files.index or files.maildir):
            return True
    return False


def _as_owner(template: str, user: str, home: str) -> str | None:
    """The path for this owner; None if it depends on the reader: `~`, `%u`, `%{user}`."""
    for variable, short in _OWNER:
        template = template.replace(variable, short)
    if template.startswith("~") or "%" in template.replace("%%", ""):
        return None
    return expand(template.replace("%%", "%"), user, home)


def _option(location: str, option: str) -> str:
    for word in location.split(":")[2:]:
        if word.upper().startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _first(found: Sequence[_Settings], setting: str) -> str:
    return next((value for one in found if (value := one.get(setting))), "")
