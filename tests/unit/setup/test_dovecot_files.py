# SPDX-License-Identifier: MIT
"""Dovecot's files are read in its order, and passdbs and userdbs are found in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.admin.setup.dovecot_files import Tree
from mailseal.errors import ConfigError

AUTH = "passdb {\n  driver = sql\n  # args = no\n  args = /etc/x  \n}\n"
AUTH += "userdb {\n  driver = static\n}\n"


def tree(folder: Path, **files: str) -> Tree:
    """`main` is dovecot.conf; a_b is the file conf.d/a-b.conf."""
    (folder / "conf.d").mkdir()
    for name, text in files.items():
        path = "dovecot.conf" if name == "main" else f"conf.d/{name.replace('_', '-')[1:]}.conf"
        (folder / path).write_text(text)
    return Tree(str(folder / "dovecot.conf"), str(folder / "conf.d" / "99-mailseal.conf"))


def test_mailseals_file_is_the_last_one(tmp_path: Path) -> None:
    found = tree(tmp_path, main="!include conf.d/*.conf\n!include_try no.conf\n", n10_auth=AUTH)
    assert found.is_last()


@pytest.mark.parametrize(
    "main",
    [
        "protocols = imap\n",  # conf.d is not read
        "!include conf.d/*.conf\npassdb {\n  driver = pam\n}\n",
        "!include conf.d/*.conf\nprotocol lmtp {\n  mail_plugins = sieve\n}\n",
        "!include conf.d/*.conf\n!include conf.d/*.conf\n",
        "!include conf.d/*.conf\n!include extra\n",
    ],
)
def test_it_would_not_be_the_last_one(tmp_path: Path, main: str) -> None:
    (tmp_path / "extra").write_text("mail_location = maildir:/elsewhere\n")
    assert not tree(tmp_path, main=main).is_last()


def test_a_file_after_it(tmp_path: Path) -> None:
    main = "!include conf.d/*.conf\n"
    assert not tree(tmp_path, main=main, n99_zzz="auth_mechanisms = plain\n").is_last()


def test_comments_and_harmless_settings_may_come_after_it(tmp_path: Path) -> None:
    main = "!include conf.d/*.conf\n#passdb {\nssl = no\nservice auth {\n}\n"
    assert tree(tmp_path, main=main).is_last()


def test_blocks(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        main='!include "conf.d/*.conf"\nuserdb {\n  driver = passwd\n}\n',
        n10_auth=AUTH,
        n20_imap="protocol imap {\n  mail_max_userip_connections = 5\n}\n",
    ).auth_blocks()
    assert [(b.kind, b.settings) for b in found] == [
        ("passdb", {"driver": "sql", "args": "/etc/x"}),
        ("userdb", {"driver": "static"}),
        ("userdb", {"driver": "passwd"}),
    ]
    assert [b.close.number for b in found] == [4, 7, 3]
    assert [Path(b.close.path).name for b in found] == ["10-auth.conf"] * 2 + ["dovecot.conf"]


@pytest.mark.parametrize(
    "text",
    [
        "protocol imap {\n" + AUTH + "}\n",
        "passdb {\n  driver = sql\n  args \\\n}\n",
        "passdb {\n  override_fields = a=b \\\n}\n",
        "}\n",
        "!include dovecot.conf\n",
        "!include conf.d/10-auth.conf\n!include conf.d/10-auth.conf\n",
        "passdb {\n  !include conf.d/10-auth.conf\n}\n",
        "!include gone/there.conf\n!include no\n",
    ],
)
def test_what_is_not_understood(tmp_path: Path, text: str) -> None:
    (tmp_path / "no").symlink_to("nowhere")
    with pytest.raises(ConfigError):
        tree(tmp_path, main=text, n10_auth=AUTH).auth_blocks()
