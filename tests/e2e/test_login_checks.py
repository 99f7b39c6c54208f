# SPDX-License-Identifier: MIT
"""verify.at_login: after a login the tags of all mail are checked; status shows the result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import ALICE, BOB, Imap, Lab
from tests.lab.process import Server, logged, wait_until
from tests.lab.smtp import send

SENDER = "eve@example.net"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab({ALICE: "password", BOB: "password"}, config_extra={"verify.at_login": "1h"}) as made:
        yield made


def checked(lab: Lab, user: str) -> dict[str, Any] | None:
    (entry,) = json.loads(lab.mailseal("status", user, "--json").stdout)["users"]
    found: dict[str, Any] | None = entry.get("checked")
    return found


def wait(what: Callable[[], object]) -> None:
    wait_until(what, "the mail is checked", timeout=300)


def test_the_tags_of_who_logs_in_are_checked(lab: Lab, sealer: Server) -> None:
    for user in (ALICE, BOB):
        for number in range(12):
            send(lab.smtp, SENDER, [user], HEADERS + b"mail %d\r\n" % number)
    lab.wait_delivered()
    sealer.start(until=[])
    with Imap(lab.imap, ALICE, "password"):
        wait(lambda: checked(lab, ALICE))
    found = checked(lab, ALICE)
    assert found is not None
    assert (found["mails"], found["counts"]) == (12, {})
    said = lab.mailseal("status", ALICE).stdout.decode()
    assert "12 mails checked with the keys on" in said and "no problems" in said
    assert checked(lab, BOB) is None  # he has no session
    path = lab.stored(BOB)[3]
    with open(path, "r+b") as stream:
        stream.seek(-25, os.SEEK_END)
        byte = stream.read(1)
        stream.seek(-25, os.SEEK_END)
        stream.write(bytes([byte[0] ^ 1]))
    with Imap(lab.imap, BOB, "password"):
        wait(lambda: checked(lab, BOB))
    found = checked(lab, BOB)
    assert found is not None and found["counts"] == {"changed": 1}
    said = lab.mailseal("status", BOB).stdout.decode()
    assert "WARNING: 12 mails checked" in said and "1 changed" in said
    logged(lab, f"user=<{BOB}>, mails=12, checked with the keys, changed=1")
    logged(lab, os.path.basename(path).partition(",")[0])
    # At the next login the check is not old enough.
    when = checked(lab, ALICE)
    lab.mailseal("lock", ALICE)
    with Imap(lab.imap, ALICE, "password"):
        time.sleep(6)
    assert checked(lab, ALICE) == when
    assert lab.log_text().count(f"user=<{ALICE}>, mails=12, checked") == 1
