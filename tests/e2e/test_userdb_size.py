# SPDX-License-Identifier: MIT
"""A user database that returns long fields: keys are not made if a login could become too long."""

from __future__ import annotations

import pytest

from mailseal import config as configuration
from mailseal.admin.for_agent import Outside
from mailseal.errors import TemporaryError
from mailseal.login.mailcrypt_fields import RESERVE
from tests.lab import ALICE, Lab

NEW = "new@example.org"
PASSWORD = b"password\n"


def test_the_fields_of_the_userdb_are_measured() -> None:
    with Lab(auth="behind-passwd-file", plain_users={NEW: "password"}) as lab:
        users = {**lab.users, **lab.options.plain_users}
        config = configuration.load(lab.config_path)

        def returns(size: int) -> None:
            lab.dovecot.write_users(users, dict.fromkeys(users, f"userdb_note={'x' * size}"))

        returns(RESERVE - 100)
        for user, command in ((ALICE, "rotate"), (ALICE, "rekey"), (NEW, "enroll")):
            done = lab.mailseal(command, user, "--stdin", stdin=PASSWORD)
            assert done.returncode == 75, done
            assert b"hint: `doveadm user" in done.stderr and b"bytes for" in done.stderr
        with pytest.raises(TemporaryError, match="bytes for"):  # by the page
            Outside().require_sealable(config, NEW)
        returns(RESERVE - 600)
        for user, command in ((ALICE, "rotate"), (ALICE, "rekey"), (NEW, "enroll")):
            done = lab.mailseal(command, user, "--stdin", stdin=PASSWORD)
            assert done.returncode == 0, done
        # Without Dovecot nothing can be measured.
        lab.dovecot.stop()
        assert lab.mailseal("rotate", ALICE, "--stdin", stdin=PASSWORD).returncode == 0
