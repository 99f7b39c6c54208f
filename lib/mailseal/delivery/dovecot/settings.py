# SPDX-License-Identifier: MIT
"""Reads the mail location from Dovecot's configuration, for users whose userdb entry has none.

A user database often returns no mail location: then `mail_location` (2.3) or `mail_driver` and
`mail_path` (2.4) apply to all users.  Mail stored elsewhere would not be found.  In the same way
`mail_home` and `mail_uid` apply if it returns no home and no uid.
The settings are those of the Dovecot whose userdb is used: its base_dir, which contains its
sockets, has a link `dovecot.conf` to the configuration with which it was started.

They are read at start, as root, who can read the complete configuration.
FAILURES: none.  known() returns None if the settings exist but are not known: Dovecot has not been
started since the machine was, or its configuration cannot be read.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil

from mailseal.config import Config
from mailseal.delivery.dovecot.location import expand
from mailseal.delivery.dovecot.sealing import ATTACHMENTS
from mailseal.doveconf import Block, Doveconf, DoveconfError, search_path

_SAMPLE = ("user@example.org", "/home/user")
_LOWER = r"(?: ?\| ?lower)?"
# The 2.4 variables for %h, %u, %n and %d of 2.3.  Names of enrolled users are in lower case.
_VARIABLES = (
    (re.compile(r"%\{home\}"), "%h"),
    (re.compile(rf"%\{{user{_LOWER}\}}"), "%u"),
    (re.compile(rf"%\{{user ?\| ?username{_LOWER}\}}"), "%n"),
    (re.compile(rf"%\{{user ?\| ?domain{_LOWER}\}}"), "%d"),
    (re.compile(r"%L([und])"), r"%\1"),
    # Of docs/index-privacy.md: INDEX and INDEXCACHE at a login, nothing in a lookup.
    (re.compile(r"%\{userdb:mailseal_index\}"), ""),
)


def known(config: Config) -> dict[str, str] | None:
    """The settings as userdb fields; None if they are not known.

    Empty if there are none for mailseal: the user database is a template or on another host, or no
    Dovecot is installed here.
    """
    if not _is_here(config):
        return {}
    doveconf = of_running(config)
    try:
        return _known_of(doveconf) if doveconf else None
    except (OSError, DoveconfError):
        return None


def link_of(config: Config) -> str:
    """The link to the configuration of the Dovecot whose userdb is used."""
    return os.path.join(os.path.dirname(config.dovecot.userdb_socket), "dovecot.conf")


def _is_here(config: Config) -> bool:
    if config.delivery.userdb != "dovecot" or not config.dovecot.userdb_socket.startswith("/"):
        return False
    return shutil.which("doveconf", path=search_path()) is not None


def of_running(config: Config) -> Doveconf | None:
    """The configuration of the Dovecot that is used for lookups; None if it is not known."""
    if not _is_here(config):
        return None
    link = link_of(config)
    try:
        if os.lstat(link).st_uid not in (0, os.geteuid()):
            return None  # other users can write to the folder
    except OSError:
        return None
    return Doveconf(["doveconf", "-c", os.path.realpath(link)])


def imap(config: Config) -> Block:
    """All settings of protocol imap; an empty block if they are not known."""
    doveconf = of_running(config)
    try:
        return doveconf.settings("imap") if doveconf else Block()
    except DoveconfError:
        return Block()


def in_short(value: str) -> str:
    """Replace the variables of 2.4 in a setting by those of 2.3, for location.expand()."""
    for variable, short in _VARIABLES:
        value = variable.sub(short, value)
    return value


def _known_of(doveconf: Doveconf) -> dict[str, str]:
    """Other settings that sealing.py needs."""
    fields = inbox_fields(doveconf)
    settings = doveconf.settings("lmtp")
    for name in ATTACHMENTS:
        if value := settings.get(name):
            fields[name] = value
    fields |= account_fields(settings)
    if os.geteuid() == 0 and fields.get("mail_path") and "mail_inbox_path" not in fields:
        # 2.4: doveconf does not distinguish an empty mail_inbox_path from one that is not set.
        inbox = doveconf.inbox(*_SAMPLE)
        if inbox and os.path.normpath(inbox) != expand(fields["mail_path"], *_SAMPLE):
            fields["mail_inbox_path"] = "elsewhere"
    return fields


def account_fields(settings: Block) -> dict[str, str]:
    """mail_home and mail_uid: for users whose userdb entry has no home and no uid."""
    found = {
        "mail_home": in_short(settings.get("mail_home")),
        "mail_uid": _uid_of(settings.get("mail_uid")),
    }
    return {name: value for name, value in found.items() if value}


def _uid_of(user: str) -> str:
    """The uid of a user's name, or of a number; empty if there is no such user."""
    if user.isdecimal():
        return user
    try:
        return str(pwd.getpwnam(user).pw_uid) if user else ""
    except KeyError:
        return ""


def inbox_fields(doveconf: Doveconf) -> dict[str, str]:
    """The settings with the location of INBOX, as userdb fields.  Raises DoveconfError."""
    settings = doveconf.settings("imap")
    own = next((b for b in settings.all("namespace") if b.get("inbox") == "yes"), None)
    fields = {}
    for name, setting in (
        ("mail", "mail_location"),  # 2.3; its namespaces shorten the name
        ("mail_driver", "mail_driver"),
        ("mail_path", "mail_path"),
        ("mail_inbox_path", "mail_inbox_path"),
        ("mailbox_list_layout", "mailbox_list_layout"),
    ):
        there = own.get(setting.replace("mail_loc", "loc")) if own else ""
        value = in_short(there or settings.get(setting))
        # 2.4 always prints fs, but uses maildir++ for a Maildir; auto detects the layout.
        if value and (name, value) not in (("mailbox_list_layout", "fs"), ("mail_driver", "auto")):
            fields[name] = value
    return fields
