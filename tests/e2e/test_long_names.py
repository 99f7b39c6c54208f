# SPDX-License-Identifier: MIT
"""User names too long for a plain file name: Lua finds their keys, checkpassword asks the agent."""

from __future__ import annotations

import pytest

from tests.e2e.keyless import CLEAR, DOORS, MAIL, SENDER, append, heads
from tests.lab import Lab, Refused
from tests.lab.smtp import send, send_lmtp

DOMAIN = ".".join(["x" * 62] * 3) + ".example.org"
SEALED, PLAIN = f"sealed@{DOMAIN}", f"plain@{DOMAIN}"
LUA = "behind-passwd-file"


def test_lua_needs_no_agent_for_mail_and_for_others_logins() -> None:
    with Lab({SEALED: "password"}, auth=LUA, plain_users={PLAIN: "password"}) as lab:
        lab.stop_agent()
        lab.restart_delivery()  # it forgets the results of lookups
        send(lab.smtp, SENDER, [SEALED, PLAIN], MAIL)
        lab.wait_delivered()
        append(lab, PLAIN)
        with pytest.raises(Refused, match="UNAVAILABLE"):
            append(lab, SEALED)
        lab.start_agent()
        append(lab, SEALED)
        assert_stored_once(lab)


@pytest.mark.skipif(len(DOORS) == 1, reason="Dovecot 2.4 has no checkpassword driver")
def test_without_the_agent_mail_waits_and_nothing_is_saved_in_clear() -> None:
    with Lab(
        {SEALED: "password"}, auth=f"{LUA}-checkpassword", plain_users={PLAIN: "password"}
    ) as lab:
        lab.stop_agent()
        lab.restart_delivery()  # it forgets the results of lookups
        for user in (SEALED, PLAIN):
            with pytest.raises(Refused):
                append(lab, user)
        assert "Authentication failed" not in lab.log_text()  # it is a temporary failure
        # A failed lookup says nothing about the recipient: no bounce, and nothing is stored.
        assert [send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] for user in (SEALED, PLAIN)] == [
            451,
            451,
        ]
        send(lab.smtp, SENDER, [SEALED, PLAIN], MAIL)
        lab.start_agent()
        lab.postfix.flush()
        lab.wait_delivered()
        for user in (SEALED, PLAIN):
            append(lab, user)
        assert_stored_once(lab)


def assert_stored_once(lab: Lab) -> None:
    """A mail that has arrived and one in Sent, sealed for one user and in clear for the other."""
    assert heads(lab, SEALED) == heads(lab, SEALED, "Sent") == {b"CRYPTED"}
    assert heads(lab, PLAIN) <= CLEAR and heads(lab, PLAIN, "Sent") == {b"From: <"}
    assert len(lab.stored(SEALED)) == len(lab.stored(PLAIN)) == 1
