# SPDX-License-Identifier: MIT
"""Enrollment, passwords, recovery codes and app passwords, and the errors of all commands."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest

from tests.unit.agent_process import HOOKS, AgentProcess
from tests.unit.commands.user import USER, code_of, opens


def test_enroll_warns_until_there_is_a_recovery_method(agent: AgentProcess) -> None:
    done = agent.run("enroll", "Alice@Example.org", stdin=b"pw\n")
    assert done.returncode == 0
    assert done.stdout.startswith(b"alice@example.org is enrolled")
    assert b"LOST MAIL" in done.stderr and b"recovery-code" in done.stderr
    assert "NO RECOVERY METHOD" in agent.log_text()
    assert b"LOST MAIL" in agent.run("status", USER).stdout
    code_of(agent, "recovery-code", USER)
    status = agent.run("status", USER).stdout
    assert b"LOST MAIL" not in status and b"recovery" in status


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "said"),
    [
        (["enroll", USER], b"other\n", 65, b"already enrolled"),
        (["enroll", "bob"], b"\n", 64, b"empty"),
        (["enroll", "bob"], b"", 64, b"missing"),
        (["enroll", "bob"], b"a\0b\n", 64, b"NUL"),
        (["enroll", "bob"], b"x" * 10_000_000, 64, b"too long"),
        (["enroll", "bo\tb"], b"pw\n", 64, b"control"),
        (["enroll", "b" * 255], b"pw\n", 64, b"254"),
        (["enroll", b"b\xff".decode("utf-8", "surrogateescape")], b"pw\n", 64, b"UTF-8"),
        (["passwd", USER], b"wrong\nnew\n", 77, b"wrong password"),
        (["passwd", USER], b"pw\n", 64, b"missing"),
        (["passwd", USER, "--then", "touch", "x"], b"wrong\nnew\n", 77, b"wrong password"),
        (["passwd", "nobody"], b"pw\nnew\n", 77, b"wrong password"),
        (["recover", USER], b"not a code\nnew\n", 77, b"not a recovery code"),
        (["recovery-code", USER], b"wrong\n", 77, b"wrong password"),
        (["app-password", USER, "x" * 101], b"pw\n", 64, b"label"),
        (["revoke", USER, "zzz"], b"", 64, b"no slot zzz"),
        (["rotate", USER], b"wrong\n", 77, b"wrong password"),
        (["status", "nobody"], b"", 67, b"not enrolled"),
        (["unenroll", "nobody"], b"", 67, b"not enrolled"),
        (["repair", "nobody"], b"", 67, b"not enrolled"),
        (["lock"], b"", 64, b"required"),
        (["frobnicate"], b"", 64, b"frobnicate"),
        ([], b"", 64, b"required"),
    ],
)
def test_errors(
    enrolled: AgentProcess, arguments: list[str], stdin: bytes, status: int, said: bytes
) -> None:
    done = enrolled.run(*arguments, stdin=stdin)
    assert done.returncode == status
    assert done.stdout == b""
    assert done.stderr.startswith(b"mailseal: error: ") and said in done.stderr
    assert b"Traceback" not in done.stderr
    assert opens(enrolled, b"pw")


def test_no_agent_is_temporary(enrolled: AgentProcess) -> None:
    enrolled.stop()
    done = enrolled.run("status")
    assert done.returncode == 75
    assert (
        b"mailseal: hint: is mailseal-agent running? see `systemctl status mailseal-agent`"
        in done.stderr
    )


def test_passwd_for_panels(enrolled: AgentProcess) -> None:
    done = enrolled.run("passwd", "--stdin", USER, stdin=b"pw\nnew \xff\r\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert not opens(enrolled, b"pw") and opens(enrolled, b"new \xff")


def test_passwords_that_end_with_nul(enrolled: AgentProcess) -> None:
    """As PostfixAdmin writes passwords; it keeps the pipe open until the command ends."""
    process = subprocess.Popen(
        [HOOKS / "mailseal", "-c", enrolled.config, "passwd", "--null", USER],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"pw\0new\0")
    process.stdin.flush()
    assert process.wait(120) == 0
    process.stdin.close()
    assert opens(enrolled, b"new") and not opens(enrolled, b"pw")


def test_on_a_terminal_a_new_password_is_asked_for_twice(agent: AgentProcess) -> None:
    def typed(*lines: bytes) -> int:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [HOOKS / "mailseal", "-c", agent.config, "enroll", USER],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),
        )
        os.close(slave)
        seen = b""
        for number, line in enumerate(lines, 1):
            while seen.count(b": ") < number:
                seen += os.read(master, 1024)
            os.write(master, line + b"\n")
        status = process.wait(120)
        assert not any(line in seen for line in lines), "passwords are not echoed"
        os.close(master)
        return status

    assert typed(b"one-thing", b"another") == 64
    assert agent.ask("status", user=USER.encode()).status == "error"
    assert typed(b"one-thing", b"one-thing") == 0
    assert opens(agent, b"one-thing")


def test_recover(enrolled: AgentProcess) -> None:
    code = code_of(enrolled, "recovery-code", USER)
    typed = code.upper().replace(b"-", b" ")
    assert enrolled.run("recover", USER, stdin=typed + b"\nnew\n").returncode == 0
    assert opens(enrolled, b"new") and not opens(enrolled, b"pw")


def test_app_passwords_are_listed_and_revoked_one_by_one(enrolled: AgentProcess) -> None:
    phone = code_of(enrolled, "app-password", USER, "phone")
    laptop = code_of(enrolled, "app-password", USER, "laptop")
    assert opens(enrolled, phone) and opens(enrolled, laptop)
    status = json.loads(enrolled.run("status", "--json", USER).stdout)
    slots = {slot["label"]: slot["id"] for slot in status["users"][0]["slots"]}
    assert enrolled.run("revoke", USER, slots["phone"]).stdout == b"app slot revoked (phone)\n"
    assert not opens(enrolled, phone) and opens(enrolled, laptop) and opens(enrolled, b"pw")
