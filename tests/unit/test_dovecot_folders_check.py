# SPDX-License-Identifier: MIT
"""The findings of check-config about the index cache and shared folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal.admin import dovecot_folders_check
from mailseal.admin.finding import ERROR, WARNING
from mailseal.doveconf import Doveconf
from tests.lab.dovecot import installed_version, snippet

VERSION = installed_version()[:3]

BASE = {
    "2.3": "protocols = imap lmtp\nssl = no\n"
    "mail_location = maildir:~/Maildir:INDEXCACHE=/run/mailseal/cache/%u\n",
    "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    "protocols = imap lmtp\nssl = no\nmail_driver = maildir\nmail_path = ~/Maildir\n",
}[VERSION]
INBOX = "namespace inbox {\n  inbox = yes\n  separator = /\n}\n"
USER = {"2.3": "%%u", "2.4": "$user"}[VERSION]
PUBLIC = "namespace public {\n  type = public\n  separator = /\n  prefix = Public/\n}\n"

Check = Callable[..., list[tuple[str, str]]]


def shared(prefix: str = f"shared/{USER}/") -> str:
    return f"namespace shared {{\n  type = shared\n  separator = /\n  prefix = {prefix}\n}}\n"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The findings for Dovecot settings and the lines of the ACL file (None: no file)."""

    def findings(text: str, rules: str | None = None, snip: bool = True) -> list[tuple[str, str]]:
        acl = tmp_path / "rules.acl"
        acl.unlink(missing_ok=True)
        if rules is not None:
            acl.write_text(rules)
        places = {"/etc/dovecot/mailseal-shared.acl": str(acl)}
        parts = [BASE, snippet(installed_version(), "mailseal", {}), INBOX, text]
        if snip:
            parts.append(snippet(installed_version(), "shared-folders", places))
        path = tmp_path / "dovecot.conf"
        path.write_text("".join(parts))
        found = dovecot_folders_check.findings(Doveconf(["doveconf", "-c", str(path)]))
        return [(finding.level, finding.text) for finding in found]

    return findings


@pytest.mark.parametrize(
    "rules",
    [
        "shared/* -anyone ip\n",
        "# ours\nshared/* -anyone pi\nPublic/* anyone lr\n",
        "* -anyone lip\n",
        '"shared/*" -anyone l :insert :post\n',
    ],
)
def test_nobody_may_save(check: Check, rules: str) -> None:
    assert check(shared(), rules) == []


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (None, "cannot be read"),
        ("", "needs the line `shared/* -anyone ip`"),
        ("#shared/* -anyone ip\n", "needs the line"),
        ("shared/* anyone ip\n", "needs the line"),
        ("shared/* -anyone i\n", "needs the line"),
        ("shared/alice/* -anyone ip\n", "needs the line"),
        ("Shared/* -anyone ip\n", "needs the line"),
        ("shared/* -user=bob ip\n", "needs the line"),
    ],
)
def test_somebody_may_save(check: Check, rules: str | None, why: str) -> None:
    ((level, text),) = check(shared(), rules)
    assert level == ERROR
    assert why in text and "shared namespace" in text


def test_each_namespace_is_looked_at(check: Check) -> None:
    ((level, text),) = check(shared() + PUBLIC, "shared/* -anyone ip\n")
    assert level == ERROR
    assert "public namespace with the prefix Public/" in text
    assert "`Public/* -anyone ip`" in text
    assert check(shared() + PUBLIC, "shared/* -anyone ip\nPublic/* -anyone ip\n") == []


def test_without_the_snippet(check: Check) -> None:
    ((level, text),) = check(shared(), "shared/* -anyone ip\n", snip=False)
    assert level == ERROR and "the plugin acl is not loaded in protocol imap" in text


def test_no_shared_folders(check: Check) -> None:
    assert check("", snip=False) == []


def test_the_index_cache_beside_the_mail(check: Check) -> None:
    beside = {"2.3": "mail_location = maildir:~/Maildir\n", "2.4": "mail_cache_path =\n"}[VERSION]
    ((level, text),) = check(beside, snip=False)
    assert level == WARNING and "dovecot.index.cache" in text
