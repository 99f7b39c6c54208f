# SPDX-License-Identifier: MIT
"""mailseal-lmtp starts while the settings of Dovecot are not known, or must keep those it knows."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import subprocess

from tests.lab import ALICE, BOB, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"


def _lab() -> Lab:
    """Dovecot's settings, and not the userdb, say where mail is: in ~/Post."""
    lab = Lab({ALICE: "password"}, auth="behind-passwd-file", plain_users={BOB: "password"})
    if series(installed_version()) == "2.3":
        cache = f"{lab.place.quick}/cache/%u"
        lab.dovecot.write_config(f"mail_location = maildir:~/Post:INDEXCACHE={cache}\n")
    else:
        lab.dovecot.write_config("mail_driver = maildir\nmail_path = ~/Post\n")
    return lab


def _codes(lab: Lab, *users: str) -> list[int]:
    return [_code(lab, user) for user in users]


def _code(lab: Lab, user: str) -> int:
    """The reply.  An old worker, which ends after a reload, may still accept a client and close."""
    found: list[int] = []

    def replied() -> bool:
        with contextlib.suppress(smtplib.SMTPServerDisconnected, ConnectionError):
            found.append(send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0])
        return bool(found)

    wait_until(replied, "a worker replies")
    return found[0]


def _is_readable(lab: Lab, count: int) -> bool:
    with Imap(lab.imap, ALICE, "password") as imap:
        return [body.endswith(MAIL) for body in imap.bodies()] == [True] * count


def test_mail_waits_until_dovecots_settings_are_known() -> None:
    with _lab() as lab:
        link = os.path.join(os.path.dirname(lab.dovecot.userdb_socket), "dovecot.conf")
        target = os.readlink(link)
        lab.delivery.stop()
        os.unlink(link)
        lab.start_delivery()
        wait_until(lambda: "settings are not known yet" in lab.log_text(), "it is logged")
        # Those who are not enrolled notice nothing.
        assert _codes(lab, ALICE, BOB) == [451, 250]
        found = lab.mailseal("check-config")
        assert b"must be the link that Dovecot makes" in found.stderr, found.stderr
        lab.delivery.signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in lab.log_text(), "the reload")
        assert _codes(lab, ALICE, BOB) == [451, 250]
        os.symlink(target, link)
        wait_until(lambda: "settings are known now" in lab.log_text(), "they are known")
        wait_until(lambda: _codes(lab, ALICE) == [250], "the new workers")
        assert not os.path.exists(lab.maildir(ALICE))
        assert _is_readable(lab, 1)
        # The process that waited has ended: no process of mailseal-lmtp is root any more.
        wait_until(lambda: _as_root(lab) == [], "no process is root")

        # From the start of the machine on, in the wrong order.
        lab.delivery.stop()
        lab.dovecot.stop()
        if os.path.lexists(link):
            os.unlink(link)
        lab.start_delivery()
        assert _codes(lab, ALICE) == [451]
        lab.dovecot.start()
        wait_until(lambda: lab.log_text().count("settings are known now") == 2, "Dovecot")
        wait_until(lambda: _codes(lab, ALICE) == [250], "the new workers")
        assert not os.path.exists(lab.maildir(ALICE))
        assert _is_readable(lab, 2)


def test_nothing_is_left_if_it_stops_before_dovecot_starts() -> None:
    with _lab() as lab:
        lab.delivery.stop()
        os.unlink(os.path.join(os.path.dirname(lab.dovecot.userdb_socket), "dovecot.conf"))
        lab.start_delivery()
        wait_until(lambda: len(_as_root(lab)) == 1, "the other processes are not root any more")
        waiting = _as_root(lab)[0]
        assert waiting != lab.delivery.pid
        os.kill(lab.delivery.pid, signal.SIGKILL)
        wait_until(lambda: _uid(waiting) is None, "its end")


def test_a_reload_keeps_the_settings_that_only_root_can_read() -> None:
    with _lab() as lab:
        os.chmod(lab.dovecot.config, 0o600)
        lab.restart_delivery()
        assert _codes(lab, ALICE) == [250]
        lab.delivery.signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in lab.log_text(), "the reload")
        assert _codes(lab, ALICE) == [250]
        assert not os.path.exists(lab.maildir(ALICE))
        assert _is_readable(lab, 2)


def test_mailseal_deliver_without_the_daemon_and_without_the_settings() -> None:
    """The owner of the mail cannot read Dovecot's configuration."""
    with _lab() as lab:
        lab.delivery.stop()
        os.chmod(lab.dovecot.config, 0o600)
        assert _deliver(lab) == 75
        assert not os.path.exists(lab.maildir(ALICE))
        os.chmod(lab.dovecot.config, 0o644)
        assert _deliver(lab) == 0
        assert _is_readable(lab, 1)


def _deliver(lab: Lab) -> int:
    command = [f"{lab.hooks}/mailseal-deliver", "-c", lab.config_path, "-f", SENDER, ALICE]
    done = subprocess.run(command, input=MAIL, user=MAIL_UID, group=MAIL_UID, extra_groups=[])
    return done.returncode


def _as_root(lab: Lab) -> list[int]:
    """The processes of mailseal-lmtp that are root."""
    return [pid for pid in lab.delivery.pids() if _uid(pid) == 0]


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None
