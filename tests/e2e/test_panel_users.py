# SPDX-License-Identifier: MIT
"""A panel with its own uid changes passwords behind a real passwd-file; checked with IMAP."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab, Refused

PANEL = 60605
USER = "carol@example.org"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(
        {USER: "password"},
        auth="behind-passwd-file",
        plain_users={"plain@example.org": "password"},
        config_extra={"agent.panel_users": [PANEL]},
    ) as made:
        yield made


def panel(lab: Lab, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the mailseal command as the panel's user, without sudo and root."""
    return subprocess.run(
        ["/usr/bin/python3", "-I", f"{lab.hooks}/mailseal", "-c", lab.config_path, *arguments],
        user=PANEL,
        group=PANEL,
        extra_groups=[],
        input=stdin,
        capture_output=True,
        text=True,
        cwd="/",
    )


def opens(lab: Lab, password: str) -> bool:
    """Whether IMAP accepts this password; a refusal must not be a temporary failure."""
    try:
        with Imap(lab.imap, USER, password) as imap:
            imap.bodies()
    except Refused as exc:
        assert "AUTHENTICATIONFAILED" in str(exc)
        return False
    return True


def set_hash(lab: Lab, password: str) -> None:
    """Change the panel's database, here the passwd-file."""
    time.sleep(1.1)  # Dovecot checks the time of the file once per second
    lab.users[USER] = password
    lab.dovecot.write_users({**lab.users, **lab.options.plain_users})


def test_a_change_in_two_steps_never_loses_the_mail(lab: Lab) -> None:
    begun = panel(lab, "passwd", USER, "--stdin", "--keep-old", stdin="password\nnext\n")
    assert begun.returncode == 0, begun.stderr
    assert opens(lab, "password")
    set_hash(lab, "next")
    assert opens(lab, "next") and not opens(lab, "password")
    # the login has ended the change already
    assert panel(lab, "passwd", USER, "--commit", begun.stdout.strip()).returncode == 0
    assert panel(lab, "passwd", USER, "--undo", begun.stdout.strip()).returncode == 65
    assert opens(lab, "next")


@pytest.mark.parametrize("took_effect", [True, False])
def test_the_answer_of_the_database_was_lost(lab: Lab, took_effect: bool) -> None:
    """An unknown outcome: the password in the database opens the mail, old or new."""
    was = lab.users[USER]
    new = f"after {was}"
    done = panel(lab, "passwd", USER, "--stdin", "--then", "/bin/false", stdin=f"{was}\n{new}\n")
    assert done.returncode == 75 and "both open the keyring" in done.stderr
    if took_effect:
        set_hash(lab, new)
    assert opens(lab, lab.users[USER])
    if not took_effect:
        change = next(
            line.rpartition("--undo ")[2].rstrip("`\n")
            for line in lab.mailseal("status", USER).stdout.decode().splitlines()
            if "both passwords" in line
        )
        assert panel(lab, "passwd", USER, "--undo", change).returncode == 0
        assert opens(lab, was)


def test_a_user_who_is_not_enrolled_is_detected_before_any_change(lab: Lab) -> None:
    assert panel(lab, "status", "plain@example.org").returncode == 67
    assert panel(lab, "status", USER).returncode == 0


def test_the_panel_may_do_nothing_else(lab: Lab) -> None:
    for command in (["unenroll", USER], ["lock", "--all"], ["backup", "/tmp/x"], ["status"]):
        done = panel(lab, *command)
        assert done.returncode in (64, 77), command
    assert panel(lab, "enroll", "plain@example.org", "--stdin", stdin="password\n").returncode == 77
    assert opens(lab, lab.users[USER])


def test_recover_changes_both_or_reports_the_missing_step(lab: Lab) -> None:
    was = lab.users[USER]
    code = panel(lab, "recovery-code", USER, "--stdin", stdin=f"{was}\n").stdout
    done = panel(lab, "recover", USER, "--stdin", stdin=f"{code}found again\n")
    assert done.returncode == 0 and "only the keyring has the new password" in done.stderr
    with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
        Imap(lab.imap, USER, was)
    set_hash(lab, "found again")
    assert opens(lab, "found again")
