# SPDX-License-Identifier: MIT
"""A user template, as on a mail host without Dovecot; sealing is checked over TCP."""

from __future__ import annotations

import os

import pytest

from tests.lab import ALICE, Lab
from tests.lab.place import MAIL_UID, free_ports
from tests.lab.process import logged
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
LISTENER = "service auth {\n  inet_listener mailseal-userdb {\n    port = PORT\n  }\n}\n"


@pytest.mark.parametrize("asked", [True, False], ids=["userdb by TCP", "no userdb"])
def test_a_user_of_the_template_is_relayed_only_if_dovecot_proves_it(asked: bool) -> None:
    (port,) = free_ports(1)
    made = Lab({ALICE: "password"}, dovecot_extra=LISTENER.replace("PORT", str(port)))
    made.write_config(
        {
            "delivery.userdb": "template",
            "delivery.home": made.place.path("mail", "%d", "%n"),
            "delivery.sieve": "always",
            "dovecot.userdb_socket": f"127.0.0.1:{port}" if asked else "/nowhere/userdb",
        }
    )
    with made as lab:
        os.makedirs(lab.home(ALICE))  # with a template, the home makes the user
        for path in (os.path.dirname(lab.home(ALICE)), lab.home(ALICE)):
            os.chown(path, MAIL_UID, MAIL_UID)
        code = send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0]
        assert code == (250 if asked else 451)
        contents = []
        for path in lab.stored(ALICE):
            with open(path, "rb") as stream:
                contents.append(stream.read(7))
        assert contents == [b"CRYPTED"] * asked
        logged(lab, "action=relayed, keyid=" if asked else "cannot ask Dovecot at")
