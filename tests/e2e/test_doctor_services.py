# SPDX-License-Identifier: MIT
# ruff: noqa: F401, F811 - fixtures of another module
"""Each proof of `mailseal doctor USER` fails if that one service is broken, and only then."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.e2e.sick import ALICE, PLAIN, Sick
from tests.e2e.test_doctor_proof import only, run, sick, whole
from tests.lab.smtp import send

Fault = Callable[[Sick], None]


def settings(text: str) -> Fault:
    """Other settings, with which Dovecot is restarted."""

    def make(sick: Sick) -> None:
        sick.dovecot(text)
        sick.lab.dovecot.restart()

    return make


def full_mailbox(sick: Sick) -> None:
    mail = b"Subject: large\r\n\r\n" + b"x" * 76 * 20000
    with sick.lab.login() as imap:
        imap.select()
    path = os.path.join(sick.lab.maildir(ALICE), "new", "1700000000.M1P1.lab,S=2000000,W=2000000")
    with open(path, "wb") as stream:
        stream.write(mail)
    about = os.stat(sick.lab.maildir(ALICE))
    os.chown(path, about.st_uid, about.st_gid)
    sick.afterwards(lambda: expunge(sick))


def expunge(sick: Sick) -> None:
    with sick.lab.login() as imap:
        imap.select()
        imap.command(rb"STORE 1:* +FLAGS.SILENT (\Deleted)")
        imap.command(b"EXPUNGE")


def no_sasl(sick: Sick) -> None:
    """Postfix cannot reach Dovecot's auth service."""
    before = sick.lab.postfix.postconf("-h", "smtpd_sasl_path").strip()
    change_sasl(sick, "/nowhere")
    sick.afterwards(lambda: change_sasl(sick, before))


def change_sasl(sick: Sick, path: str) -> None:
    sick.lab.postfix.postconf("-e", f"smtpd_sasl_path = {path}")
    sick.lab.postfix.stop()
    sick.lab.postfix.start()


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "pop3": (
        settings("service pop3 {\n  executable = /bin/false\n}"),
        "fail",
        "POP3: alice@example.org cannot log in and read a sealed mail",
    ),
    "managesieve": (
        settings("service managesieve {\n  executable = /bin/false\n}"),
        "fail",
        "ManageSieve: alice@example.org cannot log in at port",
    ),
    "submission": (no_sasl, "fail", "submission: alice@example.org cannot log in at port"),
    "quota": (full_mailbox, "warn", "full"),
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_service_that_is_broken(sick: Sick, check: str) -> None:
    make, level, words = FAULTS[check]
    assert run(sick, *only(check))[1][check]["level"] == "pass"
    make(sick)
    _, found = sick.doctor(ALICE, *only(check), stdin="password\n")
    wrong = [one for one in found if one["level"] != "pass"]
    assert [one["level"] for one in wrong] == [level], found
    assert words in wrong[0]["text"] and wrong[0]["remedy"]
    sick.cure()
    sick.lab.dovecot.restart()
    assert run(sick, *only(check))[1][check]["level"] == "pass"


def test_quota_status_that_does_not_answer(sick: Sick) -> None:
    """Mail would be deferred, so it is never a pass."""
    settings("service quota-status {\n  executable = /bin/false\n}")(sick)
    _, found = run(sick, *only("quota"))
    assert found["quota"]["level"] != "pass"
    sick.cure()
    sick.lab.dovecot.restart()
    assert run(sick, *only("quota"))[1]["quota"]["level"] == "pass"


def test_a_user_who_was_not_meant_to_be_enrolled(sick: Sick) -> None:
    _, found = sick.doctor("--plain-user", ALICE, *only("plain-user"))
    assert (found[0]["level"], "has a public key" in found[0]["text"]) == ("fail", True)
    _, found = sick.doctor("--plain-user", "nobody@example.org", *only("plain-user"))
    assert (found[0]["level"], "does not know" in found[0]["text"]) == ("warn", True)
    _, found = sick.doctor("--plain-user", PLAIN, *only("plain-user"))
    assert found[0]["level"] == "pass"
    send(sick.lab.smtp, "eve@example.net", [PLAIN], b"Subject: as before\r\n\r\n")
    sick.lab.wait_delivered()
