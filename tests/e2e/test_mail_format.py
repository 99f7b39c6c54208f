# SPDX-License-Identifier: MIT
"""Mail locations in Dovecot's settings: mailseal stores mail there, relays it, or defers it."""

from __future__ import annotations

import os

import pytest

from mailseal import config as configuration
from mailseal.admin.for_agent import Outside
from mailseal.errors import TemporaryError
from tests.lab import ALICE, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
LANGUAGE = series(installed_version())


def _lab(kind: str, path: str) -> Lab:
    """`path` is a location of 2.3.  The index cache is on tmpfs, as always."""
    made = Lab({ALICE: "password"}, auth="behind-passwd-file")
    if LANGUAGE == "2.3":
        text = f"mail_location = {kind}:{path}:INDEXCACHE={made.place.quick}/cache/%u\n"
    else:
        path = path.replace("%Ln", "%{user | username | lower}")
        text = f"mail_driver = {kind}\nmail_path = {path}\n"
    made.dovecot.write_config(text)
    return made


def _files(lab: Lab) -> dict[str, bytes]:
    found = {}
    for where, _, names in os.walk(lab.home(ALICE)):
        for name in names:
            with open(os.path.join(where, name), "rb") as stream:
                found[os.path.relpath(stream.name, lab.home(ALICE))] = stream.read()
    return found


def test_mail_in_another_format_is_relayed_and_can_be_read() -> None:
    with _lab("mdbox", "~/mdbox") as lab:
        assert send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0] == 250
        logged(lab, f"to=<{ALICE}>, action=relayed, keyid=")
        found = _files(lab)
        assert not any(name.startswith("Maildir") for name in found), found.keys()
        assert not any(b"tangerine" in content for content in found.values())
        with Imap(lab.imap, ALICE, "password") as imap:
            assert [body.endswith(MAIL) for body in imap.bodies()] == [True]


@pytest.mark.parametrize("path", ["~/Post", "~/../of-%Ln/Post"])
def test_another_maildir_is_that_of_dovecot(path: str) -> None:
    with _lab("maildir", path) as lab:
        assert send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0] == 250
        logged(lab, f"to=<{ALICE}>, action=sealed")
        assert not os.path.exists(lab.maildir(ALICE))
        with Imap(lab.imap, ALICE, "password") as imap:
            assert [body.endswith(MAIL) for body in imap.bodies()] == [True]


def test_mail_in_a_format_that_cannot_be_sealed_is_deferred() -> None:
    with _lab("mbox", "~/mail") as lab:
        assert send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0] == 451
        assert not any(b"tangerine" in content for content in _files(lab).values())
        logged(lab, "of Dovecot's settings, may turn sealing off")
        with pytest.raises(TemporaryError, match="format mbox"):  # the page enrolls nobody there
            Outside().require_sealable(configuration.load(lab.config_path), ALICE)


def test_an_inbox_path_that_is_set_but_empty() -> None:
    """Then INBOX is a folder of the Maildir in 2.4."""
    if LANGUAGE != "2.4":
        pytest.skip("Dovecot 2.3 has no mail_inbox_path")
    lab = Lab({ALICE: "password"}, auth="behind-passwd-file")
    lab.dovecot.write_config("mail_inbox_path =\n")
    with lab:
        assert send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0] == 250
        assert not any(b"tangerine" in content for content in _files(lab).values())
        with Imap(lab.imap, ALICE, "password") as imap:
            assert [body.endswith(MAIL) for body in imap.bodies()] == [True]
