# SPDX-License-Identifier: MIT
"""Rate limits with Dovecot: wrong passwords are delayed, but not logins from known addresses."""

from __future__ import annotations

import math
import re
import threading
import time

import pytest

from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series

DOORS = {"2.3": ("mailseal-only", "mailseal-only-checkpassword"), "2.4": ("mailseal-only",)}
FREE = 5
HOME, STRANGER = "127.0.0.1", "127.0.0.2"
WRONG, TEMPORARY = "AUTHENTICATIONFAILED", "UNAVAILABLE"


def answer(lab: Lab, password: str, source: str, user: str = ALICE) -> str:
    """The code of the server's reply to a login; "" for success."""
    try:
        with Imap(lab.imap, user, password, source=source):
            return ""
    except Refused as exc:
        (code,) = re.findall(r"\[([A-Z]+)\]", str(exc)) or [str(exc)]
        return str(code)


@pytest.mark.parametrize("auth", DOORS[series(installed_version())])
def test_wrong_passwords_from_elsewhere_do_not_affect_known_addresses(auth: str) -> None:
    options = {"login.wrong_per_user": FREE, "login.wrong_pause": "1h"}
    users = {ALICE: "password", BOB: "password"}
    with Lab(users, auth=auth, config_extra=options) as lab:
        assert answer(lab, "password", HOME) == ""
        answers: list[str] = []

        def guess(number: int) -> None:
            answers.append(answer(lab, f"guess {number}", STRANGER))

        began = time.monotonic()
        threads = [threading.Thread(target=guess, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers) == {WRONG, TEMPORARY}
        # The pause is 1 s, 2 s, 4 s, …: so many of them have ended.
        pauses = int(math.log2(time.monotonic() - began + 1))
        assert answers.count(WRONG) <= FREE + max(pauses, 2)
        for _ in range(3):
            lock(lab)
            answer(lab, f"guess {len(answers)}", STRANGER)
            assert answer(lab, "password", HOME) == ""
        assert answer(lab, "wrong", HOME) == WRONG
        assert answer(lab, "password", HOME) == ""
        # Passwords during a pause are not checked, so they are not called wrong.
        said = ""
        for number in range(200):
            lock(lab)
            guess(100 + number)
            said = answer(lab, "password", f"127.0.1.{number + 1}")
            assert said in ("", TEMPORARY)
            if said:
                break
        assert said == TEMPORARY
        assert answer(lab, "password", STRANGER, BOB) == ""
        assert answer(lab, "password", HOME) == ""
        assert answer(lab, "password", STRANGER) == "", "the session knows that it is right"
        log = lab.log_text()
        assert re.search(rf"\]: wrong password from {STRANGER}: user=<{ALICE}>$", log, re.M)


def lock(lab: Lab) -> None:
    assert lab.mailseal("lock", "--all").returncode == 0
