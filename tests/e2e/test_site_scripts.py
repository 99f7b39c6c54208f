# SPDX-License-Identifier: MIT
"""Mail that only Dovecot can store: Sieve scripts of the site, a separate INBOX, other formats."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID
from tests.lab.process import logged
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
APART = "apart@example.org"
BOXED = "boxed@example.org"
NESTED = "nested@example.org"
HAM = b"Subject: tangerine\r\nFrom: eve@example.net\r\n\r\nin the cellar\r\n"
SPAM = b"X-Spam-Flag: YES\r\n" + HAM
SCRIPT = """\
require ["fileinto", "mailbox"];
if header "X-Spam-Flag" "YES" { fileinto :create "Spam"; stop; }
"""

_DOVECOT = {}
_DOVECOT["2.3"] = """
protocol lmtp {
  mail_plugins = $mail_plugins sieve
}
plugin {
  sieve_before = SCRIPT
}
"""
_DOVECOT["2.4"] = """
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
sieve_script site {
  type = before
  path = SCRIPT
}
"""
_FIELDS = {
    "2.3": {
        APART: "userdb_mail=maildir:~/Maildir:INBOX=~/Apart",
        BOXED: "userdb_mail=mdbox:~/mdbox:INDEXCACHE=QUICK/cache/%u",
        NESTED: "userdb_mail=maildir:~/Maildir:LAYOUT=fs",
    },
    "2.4": {
        APART: "userdb_mail_inbox_path=~/Apart",
        BOXED: "userdb_mail_driver=mdbox userdb_mail_path=~/mdbox",
        NESTED: "userdb_mail_path=~/Maildir userdb_mailbox_list_layout=fs",
    },
}


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    """Dovecot sorts spam for all users; mailseal's configuration does not mention it."""
    language = series(installed_version())
    made = Lab(
        dict.fromkeys((ALICE, APART, BOXED, NESTED), "password"),
        auth="behind-passwd-file",
        plain_users={PLAIN: "password"},
    )
    script = made.place.path("sieve", "spam.sieve")
    made.dovecot.write_config(_DOVECOT[language].replace("SCRIPT", script))
    made.dovecot.write_users(
        dict.fromkeys((ALICE, APART, BOXED, NESTED, PLAIN), "password"),
        {user: text.replace("QUICK", made.place.quick) for user, text in _FIELDS[language].items()},
    )
    os.mkdir(os.path.dirname(script))
    with open(script, "w", encoding="ascii") as stream:
        stream.write(SCRIPT)
    os.chown(
        os.path.dirname(script), MAIL_UID, MAIL_UID
    )  # Dovecot writes the compiled script there
    with made:
        yield made


def configured(site: Lab, **delivery: str) -> None:
    site.write_config({f"delivery.{name}": value for name, value in delivery.items()})
    site.restart_delivery()


def check_config(site: Lab) -> str:
    """The warnings of check-config for the lab's Dovecot."""
    doveconf = site.place.path("bin", "doveconf")
    if not os.path.exists(doveconf):
        os.mkdir(os.path.dirname(doveconf))
        with open(doveconf, "w", encoding="ascii") as stream:
            stream.write(f'#!/bin/sh\nexec /usr/bin/doveconf -c {site.dovecot.config} "$@"\n')
        os.chmod(doveconf, 0o755)
    done = subprocess.run(
        [os.path.join(site.hooks, "mailseal"), "-c", site.config_path, "check-config"],
        capture_output=True,
        text=True,
        env={"PATH": f"{os.path.dirname(doveconf)}:/usr/bin:/bin"},
    )
    assert done.returncode == (1 if done.stderr else 0), done.stderr
    return done.stderr


def first_bytes(paths: list[str]) -> list[bytes]:
    found = []
    for path in paths:
        with open(path, "rb") as stream:
            found.append(stream.read(7))
    return found


def test_check_config_warns_and_the_option_helps(site: Lab) -> None:
    said = check_config(site)
    assert re.fullmatch(
        r"mailseal: warning: Dovecot has Sieve scripts for all users "
        r"\((sieve_before|sieve_script site)\): .*`delivery.sieve: always`.*\n",
        said,
    ), said
    configured(site, sieve="always")
    assert check_config(site) == ""


def test_the_script_sorts_spam_of_an_enrolled_user_and_it_is_sealed(site: Lab) -> None:
    configured(site, sieve="always")
    send(site.smtp, SENDER, [ALICE, PLAIN], SPAM)
    send(site.smtp, SENDER, [ALICE], HAM)
    site.wait_delivered()
    assert first_bytes(site.stored(ALICE, "Spam")) == [b"CRYPTED"]
    assert first_bytes(site.stored(ALICE)) == [b"CRYPTED"]
    assert first_bytes(site.stored(PLAIN, "Spam")) == [b"Return-"]
    with site.login() as imap:
        assert [b"\r\nX-Spam-Flag: YES\r\n" in body for body in imap.bodies("Spam")] == [True]
        assert [body.endswith(HAM[-17:]) for body in imap.bodies()] == [True]
    assert re.search(
        rf"to=<{ALICE}>, action=relayed, keyid=[0-9a-f]{{16}}, .*\(sieve for all; ", site.log_text()
    )
    assert "Error" not in site.dovecot.log_text()


def test_a_relay_needs_no_agent(site: Lab) -> None:
    configured(site, sieve="always")
    before = site.stored(ALICE, "Spam")
    site.stop_agent()
    try:
        assert send_lmtp(site.lmtp, SENDER, [ALICE], SPAM)[0][0] == 250
    finally:
        site.start_agent()
    assert first_bytes(site.stored(ALICE, "Spam")[len(before) :]) == [b"CRYPTED"]


def test_a_separate_inbox_gets_sealed_mail(site: Lab) -> None:
    configured(site)
    assert send_lmtp(site.lmtp, SENDER, [APART], HAM)[0][0] == 250
    logged(site, f"to=<{APART}>, action=relayed")
    (name,) = os.listdir(os.path.join(site.home(APART), "Apart", "new"))
    assert first_bytes([os.path.join(site.home(APART), "Apart", "new", name)]) == [b"CRYPTED"]
    assert site.stored(APART) == []
    with Imap(site.imap, APART, "password") as imap:
        assert [body.endswith(HAM) for body in imap.bodies()] == [True]


def test_another_format_is_sealed_by_dovecot(site: Lab) -> None:
    configured(site)
    assert send_lmtp(site.lmtp, SENDER, [BOXED], HAM)[0][0] == 250
    logged(site, f"to=<{BOXED}>, action=relayed")
    files = [
        os.path.join(where, name)
        for where, _, names in os.walk(os.path.join(site.home(BOXED), "mdbox"))
        for name in names
    ]
    assert any(os.path.basename(path).startswith("m.") for path in files)
    for path in files:
        with open(path, "rb") as stream:
            content = stream.read()
        assert b"tangerine" not in content, path
        assert b"cellar" not in content, path
    with Imap(site.imap, BOXED, "password") as imap:
        assert [body.endswith(HAM) for body in imap.bodies()] == [True]


def test_folders_on_the_file_system_get_their_mail(site: Lab) -> None:
    configured(site)
    with Imap(site.imap, NESTED, "password") as imap:
        imap.command(b"CREATE Lists/age")
    for address in (NESTED, NESTED.replace("@", "+Lists.age@")):
        assert send_lmtp(site.lmtp, SENDER, [address], HAM)[0][0] == 250
        logged(site, f"to=<{address}>, action=sealed")
    with Imap(site.imap, NESTED, "password") as imap:
        for folder in ("INBOX", "Lists/age"):
            assert [body.endswith(HAM) for body in imap.bodies(folder)] == [True]


@pytest.mark.parametrize("user", [NESTED, ALICE])
def test_no_folder_has_the_name_of_a_file_of_dovecot(site: Lab, user: str) -> None:
    """Such mail is stored in INBOX, and Dovecot can still open the mailbox."""
    configured(site, detail_folder="create")
    with Imap(site.imap, user, "password") as imap:
        before = len(imap.bodies())
    local = user.partition("@")[0]
    names = ["dovecot-uidlist", "Dovecot-keywords", "dovecot.index.log", "a/dovecot-uidlist/b"]
    names += ["maildirfolder", "maildirsize", "subscriptions", "subscriptions.lock"]
    with open(os.path.join(site.maildir(user), "taken"), "wb"):  # a file of another program
        names += ["taken", "taken/deeper", "tmp", "x.cur"] if user == NESTED else []
    for name in names:
        reply = send_lmtp(site.lmtp, SENDER, [f"{local}+{name}@example.org"], HAM)[0]
        assert reply[0] == 250, (name, reply)
    assert send_lmtp(site.lmtp, SENDER, [f"{local}+fine.too@example.org"], HAM)[0][0] == 250
    os.unlink(os.path.join(site.maildir(user), "taken"))
    with Imap(site.imap, user, "password") as imap:
        assert len(imap.bodies()) == before + len(names)
        separator = "/" if user == NESTED else "."
        assert [body.endswith(HAM) for body in imap.bodies(f"fine{separator}too")] == [True]
