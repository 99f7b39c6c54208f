# SPDX-License-Identifier: MIT
"""The checks of `mailseal doctor`: names, texts, page, and the commands in remedies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mailseal.admin.doctor import check as checks
from mailseal.admin.doctor import listeners, logins
from mailseal.admin.doctor.check import Check, NotUsed, Outcome, failed, passed
from mailseal.admin.doctor.registry import CHECKS
from mailseal.doveconf import parse
from mailseal.errors import TemporaryError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()
# Of packages that a mail server has, but not each machine that runs the tests.
_ELSEWHERE = {"systemctl", "journalctl", "timedatectl", "systemd-tmpfiles", "mailseal"}


def test_the_page_lists_all_checks_and_no_others() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M)
    assert listed == [one.name for one in CHECKS]
    before, _, after = PAGE.partition("## Proofs with a user")
    for one in CHECKS:
        assert f"| `{one.name}` |" in (after if one.of_user else before)


def test_names_are_given_once() -> None:
    names = [one.name for one in CHECKS]
    assert len(set(names)) == len(names)


def _commands() -> Iterator[str]:
    for path in (ROOT / "lib/mailseal/admin/doctor").glob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        yield from re.findall(r"(?:run|and) `([a-z][\w-]*) ", text)


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_a_remedy_names_commands_that_exist(command: str) -> None:
    assert command in _ELSEWHERE or shutil.which(command, path="/usr/sbin:/usr/bin:/sbin:/bin")


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.name)
def test_each_check_has_a_sentence_and_a_remedy(one: Check) -> None:
    assert one.proves and not one.proves.endswith(".")
    assert "`" in one.remedy, "a command or a setting"


def _run(*outcomes: Outcome, error: Exception | None = None) -> list[tuple[str, str, str]]:
    def run(_: Any) -> Iterator[Outcome]:
        yield from outcomes
        if error is not None:
            raise error

    check = Check("name", "all is well", "usual remedy", run)
    return [(r.level, r.text, r.remedy) for r in checks.results(check, cast(Any, None))]


def test_results_of_a_check() -> None:
    assert _run() == [("pass", "all is well", "")]
    assert _run(failed("bad"), passed("good")) == [
        ("fail", "bad", "usual remedy"),
        ("pass", "good", ""),
    ]
    assert _run(failed("bad", "own remedy")) == [("fail", "bad", "own remedy")]
    assert _run(error=NotUsed()) == []


def test_a_check_that_cannot_be_done_is_a_warning() -> None:
    """Never a pass."""
    assert _run(error=TemporaryError("no answer", hint="wait")) == [
        ("warn", "not checked: no answer", "wait")
    ]
    assert _run(error=PermissionError(13, "Permission denied")) == [
        ("warn", "not checked: [Errno 13] Permission denied", "usual remedy")
    ]


class _Site:
    """Settings as text, in the form of doveconf."""

    def __init__(self, text: str, series: str) -> None:
        self.series = series
        self.protocols = ["imap"]
        self._settings = parse(text)

    def dovecot(self, _protocol: str = "") -> Any:
        return self._settings


_IMAP = "service imap-login {\n  inet_listener imap {\n%s  }\n  inet_listener imaps {\n%s  }\n}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "listen = *, ::\nssl = yes\n"
            + _IMAP % ("    port = 143\n    ssl = no\n", "    port = 993\n    ssl = yes\n"),
            [("127.0.0.1", 143, False, False), ("127.0.0.1", 993, True, False)],
        ),
        # 2.4 prints no defaults of listeners
        (
            "listen = 127.0.0.1\nssl = no\n" + _IMAP % ("", ""),
            [("127.0.0.1", 143, False, True)],
        ),
        (
            "listen = *\nssl = yes\n"
            + _IMAP % ("    port = 0\n", "    port = 993\n    address = 192.0.2.1\n"),
            [("192.0.2.1", 993, True, False)],
        ),
        ("listen = ::1\nssl = yes\n" + _IMAP % ("    haproxy = yes\n", "    port = 0\n"), []),
    ],
)
def test_ports(text: str, expected: list[tuple[str, int, bool, bool]]) -> None:
    site = cast(Any, _Site(text, "2.4"))
    found = [(one.host, one.port, one.tls, one.is_local) for one in listeners.of(site, "imap")]
    assert found == expected


@pytest.mark.parametrize(
    ("series", "setting", "is_open"),
    [
        ("2.3", "ssl = yes\ndisable_plaintext_auth = no\n", True),
        ("2.3", "ssl = yes\ndisable_plaintext_auth = yes\n", False),
        ("2.3", "ssl = required\ndisable_plaintext_auth = no\n", False),
        ("2.4", "ssl = yes\nauth_allow_cleartext = yes\n", True),
        ("2.4", "ssl = yes\nauth_allow_cleartext = no\n", False),
    ],
)
def test_passwords_without_tls(series: str, setting: str, is_open: bool) -> None:
    (check,) = (one for one in logins.CHECKS if one.name == "login-encryption")
    site = cast(Any, _Site(f"listen = *\n{setting}" + _IMAP % ("", ""), series))
    assert bool(list(check.run(site))) == is_open
