# SPDX-License-Identifier: MIT
"""Reads the mail location from userdb fields of Dovecot 2.3 or 2.4."""

from __future__ import annotations

import dataclasses
import os
import re

from mailseal.errors import BadUserName

_HARMLESS = ("INDEX", "INDEXPVT", "INDEXCACHE", "CONTROL", "VOLATILEDIR", "LAYOUT", "NO-NOSELECT")
_LAYOUTS = ("maildir++", "fs")  # with LAYOUT=index the folder of INBOX has another name
_ELSEWHERE = re.compile(r"namespace\b.*|mailbox_(?!list_(?:layout|index)).*")
"""Userdb fields that can change the location of mail, in addition to the fields below."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """One user in the user database.  `uid` is None if it returns none.

    `maildir` is None if mailseal cannot store mail there (another format, a chroot, an unknown
    layout): then Dovecot must store it.  `name` is Dovecot's user name.
    If `located` is False, nothing says yet where the mail is: Dovecot's settings are not known.
    """

    user: str
    home: str
    maildir: str | None
    uid: int | None
    extra: dict[str, str]
    layout: str = "maildir++"
    name: str = ""
    located: bool = True


def expand(template: str, user: str, home: str = "") -> str | None:
    """Replace %u, %n, %d, %h and a leading ~.  None if the template has other variables,
    or needs a home that is not known.

    Raises BadUserName if a part of the name would leave the path, such as "..".
    """
    local, _, domain = user.partition("@")
    values = {"u": user, "n": local, "d": domain, "h": home, "%": "%"}
    if template == "~" or template.startswith("~/"):
        template = f"%h{template[1:]}"
    known = True

    def fill(match: re.Match[str]) -> str:
        nonlocal known
        known = known and match[1] in values and (match[1] != "h" or bool(home))
        value = values.get(match[1], "")
        if match[1] in "und" and ("/" in value or value in (".", "..") or "\0" in value):
            raise BadUserName(f"user name {user!r} cannot be part of a path")
        return value

    path = re.sub("%(.?)", fill, template, flags=re.DOTALL)
    if not known or not path.startswith("/") or (not domain and "%d" in template):
        return None
    return os.path.normpath(path)


def layout_of(extra: dict[str, str]) -> str:
    """The layout of folders in the Maildir: "maildir++", "fs" or another name of Dovecot."""
    for option in extra.get("mail", "").split(":")[2:]:
        if option.upper().startswith("LAYOUT="):
            return option[len("LAYOUT=") :].lower()
    return extra.get("mailbox_list_layout", "maildir++").lower()


def maildir_of(extra: dict[str, str], user: str, home: str, default: str) -> str | None:
    """The Maildir in userdb fields of 2.3 (`mail`) or 2.4 (`mail_path`).

    None if INBOX is not, or may not be, the Maildir itself.
    """
    if layout_of(extra) not in _LAYOUTS or any(map(_ELSEWHERE.fullmatch, extra)):
        return None
    if "mail_driver" in extra or "mail_path" in extra or "mail_inbox_path" in extra:
        if extra.get("mail_driver", "maildir") != "maildir":
            return None
        path = expand(extra.get("mail_path") or default, user, home)
        inbox = extra.get("mail_inbox_path") or "."
        return path if inbox == "." or expand(inbox, user, home) == path else None
    location = extra.get("mail")
    if not location:
        return expand(default, user, home)
    kind, _, rest = location.partition(":")
    path, *options = rest.split(":")
    if kind != "maildir" or not path:
        return None
    maildir = expand(path, user, home)
    for option in options:
        name, _, value = option.partition("=")
        # Other options change the location of mail; the location of the index is not needed.
        same = name.upper() == "INBOX" and expand(value, user, home) == maildir
        if not same and name.upper() not in _HARMLESS:
            return None
    return maildir
