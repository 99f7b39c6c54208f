# SPDX-License-Identifier: MIT
"""Many logins at the same time, wrong or stuck: others log in beside them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from tests.e2e.test_lua import edit
from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.process import suspend

DOORS = {"2.3": ("mailseal-only", "mailseal-only-checkpassword"), "2.4": ("mailseal-only",)}
# Fewer than may wait in the agent.
GUESSES = 60
# Dovecot's default.  With only these workers, a login would wait for the wrong passwords.
AUTH_WORKERS = 30
PLAIN = "plain@example.org"
# More than there are auth workers.
STUCK = 110
# One process for all, so that the crowd waits for the agent and not for a login process.
ONE_PROCESS = {
    "2.3": "service imap-login {\n  service_count = 0\n}\n",
    "2.4": "service imap-login {\n  restart_request_count = unlimited\n}\n",
}[series(installed_version())]


@pytest.mark.parametrize("auth", DOORS[series(installed_version())])
def test_a_login_with_a_session_does_not_wait_for_wrong_passwords(auth: str) -> None:
    with Lab({ALICE: "password", BOB: "password"}, auth=auth, kdf="standard") as lab:
        with lab.login(ALICE):
            pass
        together = threading.Barrier(GUESSES + 1)
        answered: list[int] = []

        def guess(number: int) -> None:
            with Imap(lab.imap) as imap:
                together.wait(60)
                with contextlib.suppress(Refused):
                    # Each for another user: so many wrong passwords for one user would be delayed.
                    imap.login(f"user{number}@example.org", "wrong")
                answered.append(number)

        threads = [threading.Thread(target=guess, args=(number,)) for number in range(GUESSES)]
        for thread in threads:
            thread.start()
        with Imap(lab.imap) as imap:
            together.wait(60)
            time.sleep(0.5)  # all wrong passwords are in progress or waiting
            imap.login(ALICE, "password")
            before_us = len(answered)
        for thread in threads:
            thread.join()
        assert len(answered) == GUESSES
        assert before_us < AUTH_WORKERS


def test_an_agent_that_hangs_is_noticed_by_enrolled_users_only() -> None:
    """It must not hold all auth workers: the others log in while the first one waits."""
    users = {PLAIN: "password"}
    made = Lab(auth="behind-passwd-file", plain_users=users, dovecot_extra=ONE_PROCESS)
    # The first login must wait until all others have begun.  Dovecot's auth waits for 60 s.
    edit(made, "local timeout = 30", "local timeout = 55")
    with made as lab:
        with lab.login():  # Dovecot 2.4's auth learns the limit of workers from its first one
            pass
        assert crowd(lab, STUCK) == ["ok"] * STUCK
        suspend(lab.agent.pid)
        stopped = threading.Event()
        first: list[str] = []
        waits = threading.Thread(target=lambda: first.extend(crowd(lab, 1)))
        many = threading.Thread(target=crowd, args=(lab, STUCK, stopped))
        try:
            waits.start()
            time.sleep(0.5)  # it has an auth worker
            many.start()
            assert stopped.wait(60)
            time.sleep(0.5)  # the others have theirs, or wait for one
            with Imap(lab.imap, PLAIN, "password") as imap:
                imap.append("Sent", b"Subject: x\r\n\r\nx\r\n")
            assert first == []
        finally:
            os.kill(lab.agent.pid, signal.SIGCONT)
            waits.join()
            many.join()
        assert first == ["ok"]


def crowd(lab: Lab, size: int, begun: threading.Event | None = None) -> list[str]:
    """So many logins of alice at the same moment; the answers."""
    together = threading.Barrier(size)
    answers: list[str] = []

    def one() -> None:
        with Imap(lab.imap) as imap:
            together.wait(60)
            if begun is not None:
                begun.set()
            try:
                imap.login(ALICE, "password")
                answers.append("ok")
            except Refused as exc:
                answers.append(str(exc))

    threads = [threading.Thread(target=one) for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
