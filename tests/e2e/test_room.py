# SPDX-License-Identifier: MIT
"""As many key pairs as `rotate` permits log in at the real Dovecot, and the oldest still opens."""

from __future__ import annotations

import json

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3
from tests.lab.dovecot import installed_version, series
from tests.lab.smtp import send

PASSWORD = b"password\n"
OLDEST = HEADERS + b"sealed to the oldest key\r\n"
# 2.4 has but one way to ask the agent: Lua.
WAYS = {"2.3": ("mailseal-only", "mailseal-only-lua"), "2.4": ("mailseal-only",)}


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
@pytest.mark.parametrize("auth", WAYS[series(installed_version())])
def test_the_largest_permitted_number_of_pairs(auth: str, curve: str) -> None:
    with Lab(auth=auth, config_extra={"keys.curve": curve}) as lab:
        send(lab.smtp, "eve@example.net", [ALICE], OLDEST)
        lab.wait_delivered()
        room = json.loads(lab.mailseal("status", ALICE, "--json").stdout)["users"][0]["room"]
        assert room >= 10
        for _ in range(room):
            done = lab.mailseal("rotate", ALICE, stdin=PASSWORD)
            assert done.returncode == 0, done.stderr
        assert b"0 more key pairs fit" in lab.mailseal("status", ALICE).stdout
        with Imap(lab.imap, ALICE, "password") as imap:
            assert imap.bodies()[0].endswith(b"sealed to the oldest key\r\n")
            imap.append("Sent", HEADERS)
        with Pop3(lab.pop3, ALICE, "password") as pop3:
            assert pop3.mail(1).endswith(b"sealed to the oldest key\r\n")
        done = lab.mailseal("rotate", ALICE, stdin=PASSWORD)
        assert done.returncode == 64
        assert b"do not fit" in done.stderr and b"drop-key" in done.stderr
        assert "sent us too long line" not in lab.log_text()
