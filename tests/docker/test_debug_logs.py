# SPDX-License-Identifier: MIT
"""Dovecot's debug logs contain no password and no usable key."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator

import pytest

from tests.docker.site import Site, password_of
from tests.docker.test_mail import a_mail, deliver, fresh_word, with_word
from tests.lab.imap import Refused

_DEBUG = {
    "2.3": "auth_debug = yes\nmail_debug = yes\nauth_verbose = yes\n",
    "2.4": "log_debug = category=auth or category=mail\nauth_verbose = yes\n",
}


@contextlib.contextmanager
def debugging(site: Site) -> Iterator[list[str]]:
    """All is logged inside the block; after it, the list contains Dovecot's lines."""
    lines: list[str] = []
    site.run("cat > /etc/dovecot/conf.d/99-test.conf", stdin=_DEBUG[site.version].encode())
    site.run("systemctl restart dovecot")
    since = site.run("date +@%s.%N").strip()
    try:
        yield lines
    finally:
        site.run("rm /etc/dovecot/conf.d/99-test.conf; systemctl restart dovecot")
        site.run("journalctl --sync")
        log = site.run(f"journalctl --no-pager -t dovecot -t mailseal-agent --since '{since}'")
        lines += log.replace("\\t", "\t").splitlines()


def log_in(site: Site) -> None:
    with site.login("alice") as imap:
        imap.select()
    with pytest.raises(Refused):
        site.login("alice", "quite a wrong one")


def assert_no_password(lines: list[str]) -> None:
    text = "\n".join(lines)
    for secret in (password_of("alice"), "quite a wrong one"):
        raw = secret.encode()
        for form in (secret, raw.hex(), base64.b64encode(raw).decode().rstrip("=")):
            assert form not in text


def assert_keys_hidden(lines: list[str]) -> None:
    """The one-time passwords are hidden; without them the wrapped keys cannot be used."""
    text = "\n".join(lines)
    shown = re.findall(r"private_key\S*_password=(.{1,8})", text)
    assert shown, "the debug log contains no wrapped key"
    assert set(shown) == {"<hidden>"}
    # 2.4 hides the wrapped key too, because the name of its block contains "pass".
    assert set(re.findall(r"crypt_private_key_file=(.{1,8})", text)) <= {"<hidden>"}
    for value in re.findall(r"mail_crypt_global_private_key\d?=(\S+)", text):
        if "<hidden>" not in value:
            assert ":2:aes-256-ctr:" in value or ":" not in value, value[:60]


def test_no_secrets_in_debug_logs(site: Site) -> None:
    with debugging(site) as lines:
        log_in(site)
    assert_no_password(lines)
    assert_keys_hidden(lines)
    assert not any("Received input" in line for line in lines)


def test_the_helper_of_2_3_shows_keys(sites: dict[str, Site]) -> None:
    """The same with the checkpassword program; Dovecot logs its complete answer."""
    site = sites["2.3"]
    word = fresh_word()
    to_helper = "sed -i s/auth-behind-passwd-file/auth-behind-passwd-file-checkpassword/"
    back = "sed -i s/auth-behind-passwd-file-checkpassword/auth-behind-passwd-file/"
    site.run(f"{to_helper} /etc/dovecot/conf.d/99-mailseal.conf")
    try:
        with debugging(site) as lines:
            log_in(site)
            deliver(site, "alice", a_mail(word))
            deliver(site, "dave", a_mail(word))  # relayed: the public key comes from the userdb
            with site.login("alice") as imap:
                with_word(imap.bodies(), word)
            with site.login("carol") as imap:
                imap.select()
            site.run("systemctl stop mailseal-agent")
            with pytest.raises(Refused, match="UNAVAILABLE"):
                site.login("alice")
            site.run("systemctl start mailseal-agent")
    finally:
        site.run(f"{back} /etc/dovecot/conf.d/99-mailseal.conf; systemctl restart dovecot")
        site.run("systemctl start mailseal-agent")
    assert_no_password(lines)
    # docs/install.md says so
    assert any(": Received input: " in line for line in lines)
    assert_keys_hidden([line for line in lines if ": Received input: " not in line])
