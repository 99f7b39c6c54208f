# SPDX-License-Identifier: MIT
"""mailseal-sealer knows the user's older key pairs, as `mailseal seal` does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab
from tests.lab.process import Server, wait_until

USER, SECRET = "sam@example.org", "password"
LINE = SECRET.encode() + b"\n"


@pytest.fixture
def lab() -> Iterator[Lab]:
    options = {"seal.existing": "at-enrollment"}
    with Lab(
        {}, auth="behind-passwd-file", plain_users={USER: SECRET}, config_extra=options
    ) as made:
        yield made


def existing(lab: Lab) -> dict[str, Any]:
    (entry,) = json.loads(lab.mailseal("status", USER, "--json").stdout)["users"]
    found: dict[str, Any] = entry.get("existing", {})
    return found


def test_only_mail_of_strangers_is_left(lab: Lab, sealer: Server) -> None:
    def append(text: bytes) -> None:
        with Imap(lab.imap, USER, SECRET) as imap:
            imap.append("INBOX", HEADERS + text)

    append(b"in clear\r\n")
    assert lab.mailseal("enroll", USER, stdin=LINE).returncode == 0
    append(b"sealed with the first pair\r\n")
    assert lab.mailseal("rotate", USER, stdin=LINE).returncode == 0
    model = os.stat(lab.stored(USER)[0])
    strange = f"{lab.maildir(USER)}/cur/1700000000.M1P1.host:2,"
    with open(strange, "wb") as stream:
        key = PrivateKey.generate("prime256v1").public
        stream.write(dcrypt.seal(key, b"Subject: strange\n\n"))
    os.chown(strange, model.st_uid, model.st_gid)
    sealer.start(until=[])
    wait_until(lambda: existing(lab).get("phase") == "done", "all mail was sealed", timeout=300)
    found = existing(lab)
    assert (found["done"], found["left"]) == (3, 1)
