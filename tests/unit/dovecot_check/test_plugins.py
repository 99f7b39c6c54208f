# SPDX-License-Identifier: MIT
"""What check-config says about Dovecot's plugins: mail_crypt, quota and sieve."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.admin.finding import ERROR, WARNING
from tests.unit.dovecot_check.settings import VERSION, Check


@pytest.mark.parametrize("protocol", ["imap", "pop3", "lmtp", "lda", "doveadm"])
def test_mail_crypt_in_each_protocol(check: Check, protocol: str) -> None:
    off = "mail_plugins = acl" if VERSION == "2.3" else "mail_plugins {\n mail_crypt = no\n }"
    ((level, text),) = check(f"protocol {protocol} {{\n  {off}\n}}\n")
    assert level == ERROR
    assert text.startswith(f"Dovecot does not load mail_crypt in protocol {protocol}: ")


def test_protocols_that_do_not_run_are_ignored(check: Check) -> None:
    off = "mail_plugins = quota" if VERSION == "2.3" else "mail_plugins {\n mail_crypt = no\n }"
    assert check(f"protocols = imap lmtp\nprotocol pop3 {{\n  {off}\n}}\n") == []


@pytest.mark.skipif(VERSION != "2.3", reason="2.4 has a block for mail_plugins")
def test_names_in_a_file(check: Check, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("quota mail_crypt")
    setting = (
        f"protocol imap {{\n  mail_plugins = <{names}\n  mail_plugins = $mail_plugins acl\n}}\n"
    )
    assert check(setting) == []
    names.write_text("quota")
    assert [level for level, _ in check(setting)] == [ERROR]


def sieve_in(*protocols: str) -> str:
    plugins = {
        "2.3": "mail_plugins = $mail_plugins mail_crypt sieve",
        "2.4": "mail_plugins {\n sieve = yes\n }",
    }[VERSION]
    return "".join(f"protocol {protocol} {{\n  {plugins}\n}}\n" for protocol in protocols)


SITE_SCRIPT = {
    "2.3": "plugin {\n  sieve_before2 = /etc/s\n  sieve_global = /g\n}\n",
    "2.4": "sieve_script site {\n  path = /etc/s\n  type = after\n}\n",
}[VERSION]
NO_SITE_SCRIPT = {
    "2.3": "plugin {\n  sieve = file:~/sieve;active=~/.dovecot.sieve\n  sieve_before = \n}\n",
    "2.4": "sieve_script ham {\n  cause = copy\n  path = /etc/s\n  type = before\n}\n"
    "sieve_script own {\n  path = ~/sieve\n  type = personal\n}\n",
}[VERSION]


def test_quota_that_is_not_checked(check: Check) -> None:
    line = "mail_plugins = $mail_plugins quota"
    plugin = line if VERSION == "2.3" else "mail_plugins {\n quota = yes\n }"
    quota = f"protocol lmtp {{\n  {plugin}\n}}\n"
    ((level, text),) = check(quota)
    assert level == WARNING and "dovecot.quota_socket is not set" in text
    assert check(quota, sieve_in("lmtp"), sieve="always") == []


class TestSieve:
    def test_scripts_of_the_site(self, check: Check) -> None:
        ((level, text),) = check(sieve_in("lmtp"), SITE_SCRIPT)
        name = {"2.3": "(sieve_before2)", "2.4": "(sieve_script site)"}[VERSION]
        assert level == WARNING and name in text and "`delivery.sieve: always`" in text
        assert check(sieve_in("lmtp"), NO_SITE_SCRIPT) == []
        assert check(SITE_SCRIPT) == []

    def test_lda_alone(self, check: Check) -> None:
        ((level, text),) = check(sieve_in("lda"))
        assert level == WARNING and "sieve in protocol lda only" in text
        assert check(sieve_in("lda", "lmtp")) == []

    def test_sieve_always_needs_the_plugin(self, check: Check) -> None:
        assert check(sieve_in("lmtp"), SITE_SCRIPT, sieve="always") == []
        ((level, text),) = check(SITE_SCRIPT, sieve="always")
        assert level == ERROR and text.startswith("delivery.sieve is always, but Dovecot does not")
