# SPDX-License-Identifier: MIT
"""The units with systemd: reload, rotation of the log, an agent that hangs or dies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.docker.page import commands
from tests.docker.site import MAIL, Site
from tests.docker.test_mail import a_mail, deliver, fresh_word

UNITS = ("mailseal-agent", "mailseal-lmtp")
LOG = "/var/log/mailseal/mailseal.log"


def pid_of(site: Site, unit: str) -> str:
    return site.run(f"systemctl show -p MainPID --value {unit}").strip()


def test_reload_of_both(site: Site) -> None:
    """It works although root in the units cannot send signals to other users; sessions are kept."""
    with site.login("alice"):
        pass
    before = [pid_of(site, unit) for unit in UNITS]
    assert site.run(f"systemctl reload {' '.join(UNITS)}") == ""
    assert [pid_of(site, unit) for unit in UNITS] == before
    site.wait(lambda: "configuration reloaded" in site.log(), "mailseal-lmtp has reloaded")
    with site.login("alice"):
        pass
    unlocks = [line for line in site.log().splitlines() if "unlock: user=<alice" in line]
    assert "session=cached" in unlocks[-1]


@contextlib.contextmanager
def log_file(site: Site) -> Iterator[None]:
    """A log file as in docs/install.md, and back."""
    site.run("cp /etc/mailseal/mailseal.yaml /root/mailseal.yaml.kept")
    site.run(commands("do", site.version, ["log-file"]))
    try:
        yield
    finally:
        site.run(commands("undo", site.version, ["log-file"]))
        same = "cmp /etc/mailseal/mailseal.yaml /root/mailseal.yaml.kept"
        site.run(f"{same}; rm /root/mailseal.yaml.kept")


def test_one_log_file_for_both_that_is_rotated(site: Site) -> None:
    with log_file(site):
        for _ in range(2):
            deliver(site, "alice", a_mail(fresh_word()))
            with site.login("alice"):
                pass
            said = site.run(f"cat {LOG}")
            assert "action=sealed" in said
            assert "unlock: user=<alice" in said
            assert site.run(f"stat -c '%U %G %a' {LOG}") == "mailseal vmail 660\n"
            # As logrotate does with `create 0660 mailseal vmail`.
            site.run(f"mv {LOG} {LOG}.1; install -m 660 -o mailseal -g vmail /dev/null {LOG}")
            time.sleep(1)


def test_an_inbox_path_that_is_set_but_empty(sites: dict[str, Site]) -> None:
    """2.4: INBOX is then a folder of the Maildir.  mailseal-lmtp asks doveadm, under its unit."""
    site, conf = sites["2.4"], "/etc/dovecot/conf.d/90-site.conf"
    change = f"sed -i 's/^mail_inbox_path = .*/mail_inbox_path =/' {conf}"
    site.run(f"cp -p {conf} /root/90-site.conf; {change}")
    restart = "systemctl restart dovecot mailseal-lmtp"
    try:
        site.run(restart)
        word = fresh_word()
        deliver(site, "alice", a_mail(word))
        with site.login("alice") as imap:
            assert any(word.encode() in body for body in imap.bodies())
        assert word.encode() not in site.read(site.stored("alice", "INBOX")[-1])
    finally:
        site.run(f"mv /root/90-site.conf {conf}; {restart}; rm -rf {MAIL}/alice/Maildir/.INBOX")


@pytest.mark.parametrize("signal", ["STOP", "TERM", "KILL"])
def test_an_agent_that_hangs_or_dies_is_restarted(site: Site, signal: str) -> None:
    before = pid_of(site, "mailseal-agent")
    with site.login("alice"):
        pass
    site.run(f"kill -{signal} {before}")
    site.wait(
        lambda: (
            pid_of(site, "mailseal-agent") not in (before, "0")
            and site.status("systemctl is-active --quiet mailseal-agent") == 0
        ),
        "the agent is started anew",
        seconds=180,
    )
    with site.login("alice"):
        pass
