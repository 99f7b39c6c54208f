# SPDX-License-Identifier: MIT
"""A new recovery code: until the user has typed a part of it, the older one is valid."""

from __future__ import annotations

import signal

import pytest

from tests.web.site import PASSWORD, Site, part
from tests.web.tab import Page, Tab, code_on, groups

FIELDS = {"password": PASSWORD}


@pytest.fixture
def user(site: Site) -> str:
    return site.user(mails=0)


@pytest.fixture
def old(site: Site, user: str) -> str:
    return site.enroll(user)


def valid(site: Site, user: str, code: str) -> bool:
    """Whether the code sets a password; it sets the present one."""
    return site.ask("recover", user=user, code=code, new=PASSWORD).status == "ok"


def kill_agent(site: Site) -> None:
    site.lab.agent.stop(signal.SIGKILL)
    site.lab.start_agent()


def kill_page(site: Site) -> None:
    site.web.stop(signal.SIGKILL)
    site.web.start(until=[site.web_socket])


def test_the_older_code_is_valid_until_the_new_one_was_typed_back(
    site: Site, user: str, old: str
) -> None:
    begun = site.ok("code_begin", user=user, **FIELDS)
    new = begun.text("code")
    assert valid(site, user, old) and not valid(site, user, new)
    assert site.refused("code_finish", user=user, typed="zzzz zzzz", **FIELDS) == "UsageError"
    assert valid(site, user, old) and not valid(site, user, new)
    site.ok("code_finish", user=user, typed=part(begun), **FIELDS)
    assert valid(site, user, new) and not valid(site, user, old)
    assert [way["kind"] for way in site.state(user)["ways_in"]] == ["login", "recovery"]
    assert site.refused("code_finish", user=user, typed=part(begun), **FIELDS) == "UsageError"
    assert valid(site, user, new)


def test_the_attempts_of_strangers_are_not_counted(site: Site, user: str, old: str) -> None:
    begun = site.ok("code_begin", user=user, **FIELDS)
    for _ in range(6):
        said = site.refused("code_finish", user=user, password="guess", typed="zzzz zzzz")
        assert said == "WrongPassword"
    site.ok("code_finish", user=user, typed=part(begun), **FIELDS)
    begun = site.ok("code_begin", user=user, **FIELDS)
    for _ in range(5):
        assert site.refused("code_finish", user=user, typed="zzzz zzzz", **FIELDS) == "UsageError"
    assert site.refused("code_finish", user=user, typed=part(begun), **FIELDS) == "UsageError"


def test_a_code_from_before_a_rekey_is_not_added(site: Site, user: str, old: str) -> None:
    """Its slot has the older master key, which does not open the keyring any more."""
    begun = site.ok("code_begin", user=user, **FIELDS)
    done = site.lab.mailseal("rekey", user, "--stdin", stdin=PASSWORD.encode() + b"\n")
    assert done.returncode == 0, done.stderr
    assert site.refused("code_finish", user=user, typed=part(begun), **FIELDS) == "UsageError"
    assert site.state(user)["ways_in"][0]["kind"] == "login"
    assert site.reads(user) == []


def test_an_app_password_made_meanwhile_stays(site: Site, user: str, old: str) -> None:
    begun = site.ok("code_begin", user=user, **FIELDS)
    app = site.ok("app", user=user, label="phone", **FIELDS).text("code")
    site.ok("code_finish", user=user, typed=part(begun), **FIELDS)
    assert site.reads(user, app) == []
    assert valid(site, user, begun.text("code"))


@pytest.mark.parametrize("kill", [kill_agent, kill_page])
def test_killed_between_any_two_steps(site: Site, user: str, old: str, kill: object) -> None:
    """One code is valid at each moment, and the user has seen it."""
    assert callable(kill)

    def first() -> tuple[Tab, Page, str]:
        tab = Tab(site.web_socket)
        tab.sign_in(user)
        page = tab.act("/recovery-code", password=PASSWORD)
        return tab, page, code_on(page)

    def lost(page: Page, new: str) -> None:
        assert page.status == 403 or "Mail password" in page.words, page.words
        assert valid(site, user, old) and not valid(site, user, new)

    # The answer with the code is lost, or the user leaves the page.
    tab, page, new = first()
    kill(site)
    lost(tab.fill(page, "/recovery-code/confirm"), new)
    tab, page, new = first()
    page = tab.fill(page, "/recovery-code/confirm")
    kill(site)
    typed = groups(page, new)
    lost(tab.fill(page, "/recovery-code/confirm", password=PASSWORD, **typed), new)
    # The last answer is lost: the user has typed the new code, so has kept it.
    tab, page, new = first()
    page = tab.fill(page, "/recovery-code/confirm")
    page = tab.fill(page, "/recovery-code/confirm", password=PASSWORD, **groups(page, new))
    assert "Your new recovery code is valid" in page.words
    kill(site)
    assert valid(site, user, new) and not valid(site, user, old)


def test_two_tabs_make_a_code(site: Site, user: str, old: str) -> None:
    """The page that was opened last is the one that counts; the other one changes nothing."""
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    one = tab.act("/recovery-code", password=PASSWORD)
    two = tab.act("/recovery-code", password=PASSWORD)
    page = tab.fill(one, "/recovery-code/confirm")
    page = tab.fill(page, "/recovery-code/confirm", password=PASSWORD, **groups(page, code_on(one)))
    assert "not the groups" in page.words and page.status == 403
    assert valid(site, user, old) and not valid(site, user, code_on(one))
    page = tab.fill(page, "/recovery-code/confirm", password=PASSWORD, **groups(page, code_on(two)))
    assert valid(site, user, code_on(two)) and not valid(site, user, old)


def test_the_page_says_which_code_is_valid(site: Site, user: str, old: str) -> None:
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    page = tab.act("/recovery-code", password="guess")
    assert page.status == 403 and "not right" in page.words
    page = tab.act("/recovery-code", password=PASSWORD)
    assert "your older code stays valid" in page.words
    # The file is made of this code; the form to continue is still there.
    saved = tab.fill(page, "/code.txt")
    assert code_on(page) in saved.text
    page = tab.fill(page, "/recovery-code/confirm")
    assert "Turn encryption on" not in page.words
    again = tab.get("/recovery-code/confirm")
    assert "Make a recovery code" in again.words
