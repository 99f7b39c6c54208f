# SPDX-License-Identifier: MIT
"""What check-config says of Dovecot's configuration: a program in doveconf's place answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mailseal import config as configuration
from mailseal.admin import dovecot_check

SITE_23 = "plugin {\n  sieve_before2 = /etc/s\n  sieve_global = /g\n}\n"
SITE_24 = "sieve_script site {\n  path = /etc/s\n  type = after\n}\n"
AT_COPY = "sieve_script ham {\n  cause = copy\n  path = /etc/s\n  type = before\n}\n"
PERSONAL = "plugin {\n  sieve = file:~/sieve;active=~/.dovecot.sieve\n  sieve_before = \n}\n"
LOADED = {"protocol=lmtp mail_plugins": "mail_crypt sieve"}
NOT_LOADED = {"protocol=lmtp mail_plugins": "mail_crypt = yes\nsieve = no\nimap_sieve = yes"}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: doveconf's answers by its arguments without -f and -h, and options, to warnings.

    The last argument alone is asked for too, for what is the same in all protocols.
    """

    def warnings(answers: dict[str, str], **delivery: str) -> list[str]:
        fixed = {"protocols": "protocols = imap", "mail_plugins": "mail_crypt"}
        for name, text in {**fixed, **answers}.items():
            (tmp_path / name.replace("/", "_")).write_text(text)
        program = tmp_path / "doveconf"
        program.write_text(
            "#!/bin/bash\n"
            "words=()\n"
            'for word; do [[ $word == -[fh] ]] || words+=("$word"); done\n'
            f"cd {tmp_path}\n"
            'cat "${words[*]}" 2>/dev/null || cat "${words[-1]}" 2>/dev/null || true\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        text = "\n".join(f"  {name}: {value}" for name, value in delivery.items())
        return dovecot_check.warnings(configuration.parse(f"delivery:\n{text}\n" if text else ""))

    return warnings


def test_nothing_to_say(said: Any) -> None:
    assert said({}) == []


def test_mail_crypt(said: Any) -> None:
    (text,) = said({"protocol=pop3 mail_plugins": "quota"})
    assert text.startswith("Dovecot does not load mail_crypt in protocol pop3: ")


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ({**LOADED, "plugin": SITE_23}, "(sieve_before2)"),
        ({**LOADED, "sieve_script": SITE_24 + AT_COPY}, "(sieve_script site)"),
        ({"protocol=lda mail_plugins": "sieve", "protocol=lda plugin": SITE_23}, "sieve_before2"),
        ({**LOADED, "sieve_script": AT_COPY, "plugin": PERSONAL}, None),
        ({**NOT_LOADED, "plugin": SITE_23, "sieve_script": SITE_24}, None),
        (LOADED, None),
    ],
)
def test_scripts_of_the_site(said: Any, answers: dict[str, str], named: str | None) -> None:
    found = said(answers)
    assert len(found) == (named is not None)
    if named is not None:
        assert found[0].startswith("Dovecot has Sieve scripts of the site (")
        assert named in found[0]
        assert "`delivery.sieve: always`" in found[0]


def test_sieve_always_wants_the_plugin(said: Any) -> None:
    assert said({**LOADED, "plugin": SITE_23}, sieve="always") == []
    assert said({**NOT_LOADED, "plugin": SITE_23}, sieve="always")[0].startswith(
        "delivery.sieve is always, but Dovecot does not load sieve"
    )


@pytest.mark.parametrize(
    ("answers", "same"),
    [
        ({"mail_location": "maildir:~/Maildir:INDEXCACHE=/run/cache/%u"}, True),
        ({"mail_location": "maildir:%h/Maildir"}, True),
        ({"mail_location": "mbox:~/mail:INBOX=/var/mail/%u"}, False),
        ({"mail_location": "maildir:~/Maildir:INBOX=~/In"}, False),
        ({"mail_location": "maildir:~/Maildir:LAYOUT=fs"}, False),
        ({"mail_location": "maildir:/m/%Ld/%n"}, True),  # nobody but Dovecot can tell
        (
            {
                "mail_location": "maildir:~/Maildir",
                "namespace": "namespace inbox {\n  inbox = yes\n  location = maildir:~/N\n}\n",
            },
            False,
        ),
        (
            {
                "mail_location": "maildir:~/Maildir",
                "namespace": "namespace old {\n  inbox = no\n  location = maildir:~/N\n}\n",
            },
            True,
        ),
        ({"mail_driver": "maildir", "mail_path": "%{home}/Maildir"}, True),
        ({"mail_driver": "maildir", "mail_path": "~/Maildir", "mailbox_list_layout": "fs"}, True),
        ({"mail_path": "~/Maildir", "mailbox_list_layout": "index"}, False),
        ({"mail_path": "~/Maildir", "mail_inbox_path": "/var/mail/%{user}"}, False),
        ({"mail_path": "~/Maildir", "mail_inbox_path": "~/Maildir"}, True),
        ({"mail_driver": "mbox", "mail_path": "~/mail"}, False),
    ],
)
def test_the_mail_location(said: Any, answers: dict[str, str], same: bool) -> None:
    found = said(answers)
    assert len(found) == (not same)
    assert all("delivery.maildir ~/Maildir" in text for text in found)


def test_our_location_may_follow(said: Any) -> None:
    answers = {"mail_location": "maildir:/m/%d/%n"}
    assert len(said(answers)) == 1
    assert said(answers, maildir="/m/%d/%n") == []
