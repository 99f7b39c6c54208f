# SPDX-License-Identifier: MIT
"""Logins with a password that another passdb has accepted, and the policy for them."""

from __future__ import annotations

import logging

import pytest

from mailseal.login.policy import Policy
from mailseal.login.vault import SETTLE_AFTER
from tests.unit.verbs.world import USER, World


class TestBehindAnotherPassdb:
    """--behind-passdb: another passdb has accepted the password."""

    def test_not_enrolled_is_unknown_at_no_cost(self, world: World) -> None:
        assert world.login(b"pw", behind=b"1") == "unknown"
        assert world.derivations == 0

    def test_a_password_that_only_the_passdb_knows_is_temporary(
        self, enrolled: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        status, fields = enrolled.ask("unlock", user=USER, password=b"changed", behind=b"1")
        assert status == "temporary"
        assert b"mailseal rewrap alice@example.org" in fields["reason"]
        assert "mailseal rewrap alice@example.org" in caplog.text

    def test_pop3_without_the_key_is_refused(self, enrolled: World) -> None:
        changed = {"user": USER, "behind": b"1", "service": b"pop3"}
        assert enrolled.status_of("unlock", **changed, password=b"changed") == "temporary"
        assert enrolled.status_of("unlock", **changed, password=b"m", master=b"r") == "temporary"
        looked = enrolled.status_of("lookup", user=USER, service=b"pop3", master=b"root")
        assert looked == "temporary"
        assert enrolled.status_of("unlock", **changed, password=b"pw") == "ok"

    def test_rewrap_with_the_previous_password(self, enrolled: World) -> None:
        assert enrolled.status_of("rewrap", user=USER, secret=b"pw", new=b"changed") == "ok"
        assert enrolled.login(b"changed", behind=b"1") == "ok"

    def test_rewrap_with_a_recovery_code(self, enrolled: World) -> None:
        code = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
        assert enrolled.status_of("rewrap", user=USER, secret=code, new=b"changed") == "ok"
        assert enrolled.login(b"changed", behind=b"1") == "ok"

    def test_a_master_user_gets_no_key(
        self, enrolled: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            status, fields = enrolled.ask(
                "unlock", user=USER, password=b"master pw", behind=b"1", master=b"root"
            )
        assert status == "ok" and not any("private" in name for name in fields)
        assert "no key: master user <root>" in caplog.text
        assert enrolled.derivations == 0

    def test_in_an_open_change_both_passwords_work_until_a_login(self, enrolled: World) -> None:
        change = {"user": USER, "old": b"pw", "new": b"new"}
        assert enrolled.status_of("passwd", **change, keep_old=b"1") == "ok"
        assert enrolled.login(b"pw") == enrolled.login(b"new") == "ok"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"new") == "ok", "the panel has not changed the hash yet"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"new", behind=b"1") == "ok"
        assert (enrolled.login(b"pw"), enrolled.login(b"new")) == ("wrong", "ok")

    def test_the_old_password_decides_after_a_while_whatever_is_cached(
        self, enrolled: World
    ) -> None:
        clock = [1e6]
        enrolled.vault._clock = lambda: clock[0]
        enrolled.ask("passwd", user=USER, old=b"pw", new=b"new", keep_old=b"1")
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        clock[0] += SETTLE_AFTER
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        assert enrolled.login(b"new") == "wrong"
        enrolled.derivations = 0
        assert enrolled.login(b"pw", behind=b"1") == "ok" and enrolled.derivations == 0

    @pytest.mark.parametrize(("verb", "works"), [("commit", b"new"), ("undo", b"pw")])
    def test_staged_change_commit_and_undo(self, enrolled: World, verb: str, works: bytes) -> None:
        change = {"user": USER, "old": b"pw", "new": b"new"}
        begun = enrolled.ask("passwd", **change, keep_old=b"1")[1]["change"]
        assert enrolled.status_of(verb, user=USER, change=begun) == "ok"
        for password in (b"pw", b"new"):
            assert enrolled.login(password) == ("ok" if password == works else "wrong")

    @pytest.mark.parametrize("policy", [Policy(keyless=frozenset({"submission"}))])
    def test_no_key_is_derived_for_submission(self, enrolled: World) -> None:
        status, fields = enrolled.ask(
            "unlock", user=USER, password=b"whatever", behind=b"1", service=b"submission"
        )
        assert status == "ok" and not any("private" in name for name in fields)
        assert enrolled.derivations == 0
        assert enrolled.login(b"pw", behind=b"1", service=b"imap") == "ok"

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    def test_enrollment_at_the_first_login(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert world.login(b"pw") == "wrong", "only behind a passdb that has checked the password"
        assert world.login(b"pw", behind=b"1") == "ok"
        assert world.login(b"pw") == "ok"
        assert "NO RECOVERY METHOD" in caplog.text

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    @pytest.mark.parametrize("mechanism", [b"XOAUTH2", b"OAUTHBEARER", b"GSSAPI", b""])
    def test_no_enrollment_with_what_may_be_no_password(
        self, world: World, mechanism: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert world.login(b"a token", behind=b"1", mechanism=mechanism) == "unknown"
        assert world.vault.store.revision(USER.decode()) is None
        assert "not enrolled at login" in caplog.text

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    def test_no_enrollment_for_a_master_user(self, world: World) -> None:
        assert world.login(b"pw", behind=b"1", master=b"root") == "unknown"
        assert world.vault.store.revision(USER.decode()) is None

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            (Policy(enroll_at_login=True, enroll_for=("@example.org",)), "ok"),
            (Policy(enroll_at_login=True, enroll_for=("alice@example.org",)), "ok"),
            (Policy(enroll_at_login=True, enroll_for=("@example.com", "bob@x")), "unknown"),
            (Policy(enroll_at_login=False, enroll_for=("@example.org",)), "unknown"),
        ],
    )
    def test_enrollment_for_some(self, world: World, expected: str) -> None:
        assert world.login(b"pw", behind=b"1") == expected
