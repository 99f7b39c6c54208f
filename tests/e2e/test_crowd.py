# SPDX-License-Identifier: MIT
"""Many wrong passwords at the same time: users with a session can still log in."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series

DOORS = {"2.3": ("mailseal-only", "mailseal-only-checkpassword"), "2.4": ("mailseal-only",)}
# Fewer than may wait in the agent.
GUESSES = 60
# Dovecot's default.  With only these workers, a login would wait for the wrong passwords.
AUTH_WORKERS = 30


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
