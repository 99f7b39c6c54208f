# SPDX-License-Identifier: MIT
"""check-config reports settings with which Dovecot writes parts of mails to other places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import dovecot_text_check
from mailseal.doveconf import Doveconf
from tests.lab.dovecot import installed_version, snippet

VERSION = installed_version()[:3]
BASE = {
    "2.3": "protocols = imap lmtp\nssl = no\nmail_location = maildir:~/Maildir\n",
    "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    "protocols = imap lmtp\nssl = no\nmail_driver = maildir\nmail_path = ~/Maildir\n",
}[VERSION]
SOCKET = "/run/mailseal/indexer.sock"

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Check these settings of Dovecot together with mailseal's; returns levels and texts."""

    def findings(text: str = "", *, search: bool = False, fts: bool = False) -> list[str]:
        parts = [BASE, snippet(installed_version(), "mailseal", {})]
        if fts:
            parts.append(snippet(installed_version(), "fts", {}))
        path = tmp_path / "dovecot.conf"
        path.write_text("".join([*parts, text]))
        yaml = tmp_path / "mailseal.yaml"
        yaml.write_text(f"agent:\n  indexer_socket: {SOCKET}\n" if search else "{}\n")
        found = dovecot_text_check.findings(
            configuration.load(str(yaml)), Doveconf(["doveconf", "-c", str(path)])
        )
        return [f"{finding.level}: {finding.text}" for finding in found]

    return findings


def test_our_own_settings_have_no_findings(check: Check) -> None:
    assert check() == []
    assert check(search=True, fts=True) == []


EVERYWHERE = [
    ("mail_temp_dir = /var/lib\n", "error: Dovecot's mail_temp_dir is /var/lib in protocol imap"),
    ("rawlog_dir = /tmp/raw\n", "error: Dovecot's rawlog_dir is /tmp/raw: complete mails"),
    (
        "deliver_log_format = "
        + {"2.3": "msgid=%m: %$", "2.4": "msgid=%{msgid}: %{message}"}[VERSION]
        + "\n",
        "warning: Dovecot's deliver_log_format in protocol lmtp",
    ),
    (
        {
            "2.3": "plugin {\n  mail_log_fields = uid box msgid size subject\n}\n",
            "2.4": "mail_log_fields = uid msgid subject\n",
        }[VERSION],
        "mail_log_fields writes msgid, subject of mails",
    ),
    (
        {
            "2.3": "event_exporter log {\n  format = json\n  transport = log\n"
            "  format_args = time-rfc3339\n}\n",
            "2.4": "event_exporter log {\n  driver = log\n  format = json\n}\n",
        }[VERSION],
        "warning: Dovecot exports events with event_exporter log",
    ),
]
ONLY_23 = [
    (
        "namespace v {\n  separator = /\n  prefix = Virtual/\n"
        "  location = virtual:/etc/dovecot/virtual:INDEX=~/virtual\n}\n",
        "prefix 'Virtual/' has virtual mailboxes",
    )
]


@pytest.mark.parametrize(
    ("text", "said"), EVERYWHERE + (ONLY_23 if VERSION == "2.3" else []), ids=lambda text: text[:20]
)
def test_what_is_written_elsewhere(check: Check, text: str, said: str) -> None:
    found = check(text)
    assert any(said in finding for finding in found), found


@pytest.mark.parametrize(
    "value",
    {"2.3": ["%$", "%$ %p", "%{delivery_time} %$"], "2.4": ["%{message}", "%{size} %{message}"]}[
        VERSION
    ],
)
def test_other_log_formats(check: Check, value: str) -> None:
    assert check(f"deliver_log_format = {value}\n") == []


WRONG = [
    ("service indexer-worker {\n  user = nobody\n}\n", "has user = nobody"),
    ("log_debug = category=auth-client\n", "error: Dovecot's log_debug or mail_debug is set"),
    (f"protocol imap {{\n  auth_socket_path = {SOCKET}\n}}\n", "in protocol imap is the agent's"),
    ("protocol indexer-worker {\n  auth_socket_path = auth-userdb\n}\n", "is different"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=lambda text: text[:20])
def test_the_indexer(check: Check, text: str, said: str) -> None:
    found = check(text, search=True, fts=True)
    assert any(said in finding for finding in found), found


def test_debugging_other_processes_is_permitted(check: Check) -> None:
    """fts.conf turns mail_debug off only for the indexer."""
    assert check("mail_debug = yes\n", search=True, fts=True) == []


def test_without_the_socket_the_indexer_has_no_keys(check: Check) -> None:
    (finding,) = check(fts=True)
    assert "agent.indexer_socket is not set" in finding
