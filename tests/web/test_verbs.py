# SPDX-License-Identifier: MIT
"""Users enroll themselves and leave, through the agent; Dovecot checks their passwords."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import Any

import pytest

from mailseal import config as configuration
from mailseal.admin.seal_jobs import UNSEALING, Job, Jobs
from mailseal.crypto.eckeys import PrivateKey
from mailseal.login.client import AgentClient
from tests.e2e.mails import HEADERS
from tests.lab import Imap
from tests.lab.process import logged
from tests.lab.smtp import send
from tests.web.site import PASSWORD, Site, in_the_first_pause, part, wait


@pytest.fixture
def user(site: Site) -> str:
    return site.user()


def test_nothing_is_stored_before_the_code_was_typed_back(site: Site, user: str) -> None:
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    assert site.refused("enroll_finish", user=user, password=PASSWORD, typed="0000 0000") == (
        "UsageError"
    )
    assert site.state(user)["enrolled"] is False
    assert site.lab.mailseal("status", user).returncode == 67
    site.ok("enroll_finish", user=user, password=PASSWORD, typed=part(begun))
    state = site.state(user)
    assert state["enrolled"] and state["second_way"] and not state["problem"]
    assert [way["kind"] for way in state["ways_in"]] == ["login", "recovery"]
    # The code opens the keyring, and new mail is sealed.
    site.ok("recover", user=user, code=begun.text("code"), new=PASSWORD)
    send(site.lab.smtp, "eve@example.net", [user], HEADERS + b"new\r\n")
    site.lab.wait_delivered()
    assert sorted(site.sealed(user)) == [False, True]
    assert len(site.reads(user) or ()) == 2


@pytest.mark.parametrize("typed", [lambda code: code.upper(), lambda code: code.replace("0", "O")])
def test_variants_of_typing_the_code(site: Site, user: str, typed: Any) -> None:
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    site.ok("enroll_finish", user=user, password=PASSWORD, typed=typed(part(begun)))


def test_a_user_who_is_not_enrolled_is_checked_by_dovecot(site: Site, user: str) -> None:
    assert site.refused("sign_in", user=user, password="guess") == "WrongPassword"
    assert site.refused("enroll_begin", user=user, password="guess") == "WrongPassword"
    assert site.refused("sign_in", user="nobody@example.org", password="x") == "WrongPassword"
    site.ok("enroll_begin", user=user, password=PASSWORD)
    site.lab.dovecot.stop()
    try:
        assert site.refused("sign_in", user=user, password=PASSWORD) == "TemporaryError"
    finally:
        site.lab.dovecot.start()


def test_a_password_changed_in_between_prevents_enrollment(site: Site, user: str) -> None:
    """Otherwise the keyring would have another password than the login."""
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    site.set_password(user, "another")
    fields = {"user": user, "typed": part(begun)}
    assert site.refused("enroll_finish", password=PASSWORD, **fields) == "WrongPassword"
    assert site.refused("enroll_finish", password="another", **fields) == "WrongPassword"
    assert site.state(user, "another")["enrolled"] is False
    site.enroll(user, "another")
    assert site.reads(user, "another") is not None


def test_after_five_wrong_codes_enrollment_starts_again(site: Site, user: str) -> None:
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    fields = {"user": user, "password": PASSWORD}
    for _ in range(5):
        assert site.refused("enroll_finish", typed="zzzz zzzz", **fields) == "UsageError"
    assert site.refused("enroll_finish", typed=part(begun), **fields) == "UsageError"
    assert site.state(user)["enrolled"] is False


def test_a_second_enrollment_makes_the_first_code_invalid(site: Site, user: str) -> None:
    first = site.ok("enroll_begin", user=user, password=PASSWORD)
    second = site.ok("enroll_begin", user=user, password=PASSWORD)
    fields = {"user": user, "password": PASSWORD}
    assert site.refused("enroll_finish", typed=part(first), **fields) == "UsageError"
    site.ok("enroll_finish", typed=part(second), **fields)
    assert site.refused("recover", user=user, code=first.text("code"), new="x") == "WrongPassword"
    assert site.refused("enroll_begin", **fields) == "AlreadyEnrolled"


def test_the_agent_is_killed_between_any_two_steps(site: Site, user: str) -> None:
    """Users can always log in, and no mail is in clear that should be sealed."""
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    site.lab.agent.stop(signal.SIGKILL)
    site.lab.start_agent()
    fields = {"user": user, "password": PASSWORD}
    assert site.refused("enroll_finish", typed=part(begun), **fields) == "UsageError"
    assert site.state(user)["enrolled"] is False and site.reads(user)
    code = site.enroll(user)
    site.lab.agent.stop(signal.SIGKILL)
    site.lab.start_agent()
    assert site.reads(user) and site.state(user)["second_way"]
    site.ok("recover", user=user, code=code, new=PASSWORD)


def test_a_token_shows_the_state_and_nothing_else(site: Site, user: str) -> None:
    token = site.ok("sign_in", user=user, password=PASSWORD).text("token")
    site.enroll(user)
    assert json.loads(site.ok("state", user=user, token=token).fields["state"])["enrolled"]
    other = site.user()
    assert site.refused("state", user=other, token=token) == "NotPermitted"
    assert site.refused("state", user=user, token=token[:-1] + "x") == "NotPermitted"
    for verb in ("seal_old", "leave", "stay", "end_sessions", "own_keys", "app", "recovery"):
        assert site.refused(verb, user=user, token=token, label="x") == "UsageError"
    site.ok("end_sessions", user=user, password=PASSWORD)
    assert site.refused("state", user=user, token=token) == "NotPermitted"


def test_every_change_requires_the_password(site: Site, user: str) -> None:
    site.enroll(user)
    sealer = ("chores", "kicked", "leave_keys", "leave_done", "leave_failed")
    for verb in (*sealer, "enroll", "unenroll", "export", "lock"):
        assert site.ask(verb, user=user, password=PASSWORD).status == "denied"
    for verb in ("seal_old", "leave", "stay", "end_sessions", "own_keys"):
        assert site.refused(verb, user=user, password="guess") == "WrongPassword"
    app = site.ok("app", user=user, password=PASSWORD, label="phone").text("code")
    assert site.refused("reset", user=user, secret="guess", new="new") == "WrongPassword"
    # Secrets that only decrypt mail cannot change anything.
    assert site.refused("own_keys", user=user, password=app) == "WrongPassword"
    assert site.refused("leave", user=user, password=app) == "WrongPassword"


def test_the_last_use_of_an_app_password(site: Site, user: str) -> None:
    site.enroll(user)
    app = site.ok("app", user=user, password=PASSWORD, label="phone").text("code")
    way = next(way for way in site.state(user)["ways_in"] if way["kind"] == "app")
    assert (way["label"], way["used"]) == ("phone", None)
    assert site.reads(user, app)
    site.lab.restart_agent()
    way = next(way for way in site.state(user)["ways_in"] if way["kind"] == "app")
    assert way["used"] is not None and way["used"] % 86400 == 0


def test_exported_keys_decrypt_the_mail(site: Site, user: str) -> None:
    site.enroll(user)
    lines = site.ok("own_keys", user=user, password=PASSWORD).text("keys").split("\n")
    key_id = site.state(user)["key_id"]
    assert PrivateKey.parse(lines[0]).public.key_id.hex() == key_id


def test_guesses_at_imap_and_at_the_page_are_counted_together(site: Site) -> None:
    """The right password must wait too, also from another address: as in IMAP, per user."""

    def guess(user: str, password: str) -> str:
        remote = "203.0.113.5" if password == PASSWORD else "198.51.100.7"
        return site.ask("sign_in", user=user, password=password, remote=remote).text("class")

    user, said = in_the_first_pause(site, guess)
    assert set(said[:-1]) == {"WrongPassword", "TooManyGuesses"}
    assert said[-1] == "TooManyGuesses"
    log = site.lab.log_text()
    assert f"wrong password from 198.51.100.7: user=<{user}>" in log
    # Many users from one address.
    other = "203.0.113.99"
    seen = []
    for number in range(32):
        name = f"nobody{number}@example.org"
        seen.append(site.refused("sign_in", user=name, password="x", remote=other))
    assert "TooManyGuesses" in seen


def test_guesses_at_logins_also_delay_the_page(site: Site) -> None:
    """Guesses that Dovecot passes on from IMAP clients, if the keyring checks passwords."""
    remote = "198.51.100.40"

    def guess(user: str, password: str) -> str:
        if password == PASSWORD:
            return site.ask("sign_in", user=user, password=password, remote=remote).text("class")
        with AgentClient(site.lab.agent_socket, 60) as agent:
            fields = {"user": user.encode(), "password": password.encode()}
            return agent.request("unlock", service=b"imap", remote=remote.encode(), **fields).status

    _, said = in_the_first_pause(site, guess)
    assert said[-1] == "TooManyGuesses"


def test_old_mail_is_sealed_on_request_and_in_clear_after_leaving(site: Site) -> None:
    user, bystander = site.user(mails=30), site.user(mails=2)
    site.enroll(bystander)
    site.sealer.start(until=[])
    try:
        site.enroll(user, old_mail=b"1")
        wait(lambda: (site.state(user)["old_mail"] or {}).get("phase") == "done", "it is sealed")
        assert all(site.sealed(user)) and len(site.sealed(user)) == 30
        assert site.sealed(bystander) == [False, False] and not site.state(bystander)["old_mail"]
        before = site.reads(user)
        assert site.state(user)["service_runs"]
        with Imap(site.lab.imap, user, PASSWORD) as open_session:
            assert len(open_session.bodies()) == 30
            site.ok("leave", user=user, password=PASSWORD)
            wait(lambda: not site.state(user)["enrolled"], "the user has left")
        assert not any(site.sealed(user)) and site.reads(user) == before
        wait(lambda: site.state(user)["old_mail"]["phase"] == "off", "the end is recorded")
        assert not site.state(user)["leaving"]
        # Start again.
        site.enroll(user, old_mail=b"1")
        wait(lambda: all(site.sealed(user)), "it is sealed again")
        assert site.reads(user) == before
    finally:
        site.sealer.stop()


def test_killed_while_a_user_leaves_who_then_stays(site: Site) -> None:
    user = site.user(mails=3)
    site.enroll(user, old_mail=b"1")
    site.ok("leave", user=user, password=PASSWORD)
    assert site.state(user)["leaving"] is True
    # The agent ends: the keys are lost, the user must ask again, nothing else has changed.
    site.lab.agent.stop(signal.SIGKILL)
    site.lab.start_agent()
    state = site.state(user)
    assert state["enrolled"] and not state["leaving"]
    site.ok("leave", user=user, password=PASSWORD)
    site.ok("stay", user=user, password=PASSWORD)
    assert not site.state(user)["leaving"]
    # Killed in step 2: mail is deferred and logins fail.  If the user stays, this ends.
    done = site.lab.mailseal("status", user)
    assert done.returncode == 0
    site.lab.agent.stop(signal.SIGTERM)
    site.lab.start_agent()
    site.ok("leave", user=user, password=PASSWORD)
    assert _as_root(site, "suspend", user) == "ok"
    assert site.reads(user) is None
    site.ok("stay", user=user, password=PASSWORD)
    assert site.reads(user)
    # The service is too late to remove the keys: the user has cancelled.
    assert _as_root(site, "leave_done", user) == "error"
    assert site.reads(user) and site.state(user)["enrolled"]


def test_mail_that_cannot_be_in_clear_ends_the_request_before_anything_waits(site: Site) -> None:
    """Otherwise the user would be suspended with each try, for a day."""
    user, other = site.user(mails=2), site.user(mails=0)
    site.enroll(user)
    site.enroll(other)
    send(site.lab.smtp, "eve@example.net", [other], HEADERS + b"new\r\n")
    site.lab.wait_delivered()
    (foreign,), mine = site.lab.stored(other), site.lab.stored(user)[0]
    copy = os.path.join(os.path.dirname(mine), f"9{os.path.basename(foreign)}")
    shutil.copy(foreign, copy)
    os.chown(copy, os.stat(mine).st_uid, os.stat(mine).st_gid)
    site.sealer.start(until=[])
    try:
        site.ok("leave", user=user, password=PASSWORD)
        wait(lambda: not site.state(user)["leaving"], "the request is dropped")
        state = site.state(user)
        assert state["enrolled"] and not state["problem"]
        assert (state["old_mail"]["phase"], state["old_mail"]["left"]) == ("unsealing", 1)
        assert f"suspend: user=<{user}>" not in site.lab.log_text()
        os.unlink(copy)
        site.ok("leave", user=user, password=PASSWORD)
        wait(lambda: not site.state(user)["enrolled"], "the user has left")
        logged(site.lab, f"suspend: user=<{user}>")
    finally:
        site.sealer.stop()


def test_suspended_when_the_machine_restarts(site: Site) -> None:
    """The suspension is on disk, the request was in memory."""
    user, bystander = site.user(), site.user()
    jobs = Jobs(configuration.load(site.lab.config_path).sealer_dir)
    for name in (user, bystander):
        site.enroll(name)
        assert _as_root(site, "suspend", name) == "ok"
    jobs.save(Job(user, phase=UNSEALING))
    site.sealer.start(until=[])
    try:
        wait(lambda: site.reads(user), "the user can log in")
        assert site.reads(bystander) is None, "an administrator has suspended this user"
    finally:
        site.sealer.stop()


def _as_root(site: Site, verb: str, user: str) -> str:
    with AgentClient(site.lab.agent_socket, 60) as agent:
        return agent.request(verb, user=user.encode()).status


def test_no_key_of_a_leaving_user_is_on_disk(site: Site) -> None:
    user = site.user()
    site.enroll(user)
    line = site.ok("own_keys", user=user, password=PASSWORD).text("keys")
    site.ok("leave", user=user, password=PASSWORD)
    for folder, _, names in os.walk(site.lab.place.path("state")):
        for name in names:
            with open(os.path.join(folder, name), "rb") as stream:
                assert line.encode() not in stream.read()
    assert line not in site.lab.log_text()
    site.ok("stay", user=user, password=PASSWORD)
