# SPDX-License-Identifier: MIT
"""Settings of Dovecot for tests of check-config: a site's own, and mailseal's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.dovecot import installed_version
from tests.lab.place import REPOSITORY

VERSION = installed_version()[:3]
SNIPPETS = Path(REPOSITORY, "dovecot-conf", VERSION)

only_23 = pytest.mark.skipif(VERSION != "2.3", reason="in Dovecot 2.3's language")
only_24 = pytest.mark.skipif(VERSION != "2.4", reason="in Dovecot 2.4's language")

BASE = {
    "2.3": "protocols = imap pop3 lmtp\nssl = no\n"
    "mail_location = maildir:~/Maildir:INDEXCACHE=/run/mailseal/cache/%u\n"
    "namespace inbox {\n  inbox = yes\n}\n",
    "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    "protocols = imap pop3 lmtp\nssl = no\nmail_driver = maildir\nmail_path = ~/Maildir\n"
    "namespace inbox {\n  inbox = yes\n}\n",
}[VERSION]

Check = Callable[..., list[tuple[str, str]]]


def snippet(name: str) -> str:
    return (SNIPPETS / f"{name}.conf").read_text()


def chain(front: str = "result_success = continue-ok", ours: str = "", userdb: str = "") -> str:
    """A passwd-file before mailseal, as in mailseal's files, with changed or added lines."""
    ours = ours or (
        "  skip = unauthenticated\n  result_failure = return-fail\n"
        "  result_internalfail = return-fail\n"
    )
    userdb = userdb or "  skip = notfound\n  result_internalfail = return-fail\n"
    if VERSION == "2.3":
        lua = "  driver = lua\n  args = file=/usr/lib/mailseal/dovecot-conf/2.4/mailseal.lua\n"
        file = "  driver = passwd-file\n  args = /etc/u\n"
        names = [""] * 4
    else:
        lua = "  driver = lua\n  lua_file = /usr/lib/mailseal/dovecot-conf/2.4/mailseal.lua\n"
        file = "  driver = passwd-file\n  passwd_file_path = /etc/u\n"
        names = [" a", " mailseal", " mailseal", " b"]
    return (
        f"passdb{names[0]} {{\n{file}  {front}\n}}\npassdb{names[1]} {{\n{lua}{ours}}}\n"
        f"userdb{names[3]} {{\n{file}  result_success = continue-ok\n}}\n"
        f"userdb{names[2]} {{\n{lua}{userdb}}}\n"
    )


def passwd_file(kind: str, more: str = "") -> str:
    """Another block of a kind, without any relation to mailseal."""
    name, path = ("", "args") if VERSION == "2.3" else (" more", "passwd_file_path")
    return f"{kind}{name} {{\n  driver = passwd-file\n  {path} = /etc/v\n{more}}}\n"


def helper(skip: str = "unauthenticated") -> str:
    """The checkpassword passdb of 2.3."""
    return (
        "passdb {\n  driver = checkpassword\n  args = /usr/lib/mailseal/hooks/x --behind-passdb\n"
        f"  skip = {skip}\n  result_failure = return-fail\n"
        "  result_internalfail = return-fail\n}\n"
    )


OUR_USERDB = "userdb" + chain().partition("userdb")[2]
