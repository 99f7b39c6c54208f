# SPDX-License-Identifier: MIT
"""Wrong passwords, many at once: whoever has a session logs in beside them."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series

DOORS = {"2.3": ("mailseal-only", "mailseal-only-lua"), "2.4": ("mailseal-only",)}
# Fewer than the agent lets wait, more than the auth workers Dovecot has by itself (30).
GUESSES = 60


@pytest.mark.parametrize("auth", DOORS[series(installed_version())])
def test_a_login_with_a_session_waits_for_no_guess(auth: str) -> None:
    with Lab({ALICE: "password", BOB: "password"}, auth=auth, kdf="standard") as lab:
        with lab.login(ALICE):
            pass
        answered: list[float] = []

        def guess(number: int) -> None:
            with contextlib.suppress(Refused, OSError):
                Imap(lab.imap, BOB, f"wrong {number}")
            answered.append(time.monotonic())

        threads = [threading.Thread(target=guess, args=(number,)) for number in range(GUESSES)]
        for thread in threads:
            thread.start()
        time.sleep(1)  # every guess has got as far as it can
        began = time.monotonic()
        with lab.login(ALICE):
            pass
        took = time.monotonic() - began
        still_waiting = GUESSES - len(answered)
        for thread in threads:
            thread.join()
        # A guess takes 0.1 to 0.2 s of Argon2id.
        assert still_waiting > 30
        assert took < 1.5, f"{took:.1f} s"
