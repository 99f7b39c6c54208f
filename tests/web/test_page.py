# SPDX-License-Identifier: MIT
"""The page with the real program, agent and Dovecot: its steps, two tabs, kill -9, settings."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

from tests.web.site import PASSWORD, Site, enrolled, wait
from tests.web.tab import POLICY, TICKED, Tab, code_on, groups


def test_no_page_fails_in_any_state(site: Site, signed_in: Tab, user: str) -> None:
    from mailseal.web.app import VIEWS

    for on in (False, True):
        if on:
            site.enroll(user)
        for path in VIEWS:
            if path != "/sign-out":
                page = signed_in.get(path)
                assert page.status == 200, (on, path, page.text)
                page = signed_in.send(path, {"form": "x", "password": PASSWORD})
                assert page.status in (200, 403), (on, path, page.text)


def test_each_consequence_must_be_confirmed(site: Site, signed_in: Tab, user: str) -> None:
    for left_out in TICKED:
        ticked = {name: "1" for name in TICKED if name != left_out}
        page = signed_in.act("/turn-on", password=PASSWORD, **ticked)
        assert page.status == 403 and "tick all boxes" in page.words
    assert not enrolled(site, user)


def test_turned_on_with_a_code_that_works(site: Site, signed_in: Tab, user: str) -> None:
    code = signed_in.turn_on()
    assert enrolled(site, user)
    assert site.reads(user) == []
    new = "after the reset"
    other = Tab(site.web_socket)
    page = other.act("/reset", user=user, code=code.upper(), new=new, again="other")
    assert "passwords differ" in page.words
    page = other.act("/reset", user=user, code=f"{code[:-1]}x", new=new, again=new)
    assert "not right" in page.words
    page = other.act("/reset", user=user, code=code.upper(), new=new, again=new)
    assert "The new password is set" in page.words
    wait(lambda: site.reads(user, new) == [], "the new password reads")
    assert site.reads(user) is None


def test_two_tabs(site: Site, signed_in: Tab, user: str) -> None:
    """The second tab gets a message; nothing is done twice."""
    first = signed_in.act("/turn-on", password=PASSWORD, **TICKED)
    second = signed_in.act("/turn-on", password=PASSWORD, **TICKED)
    one = signed_in.fill(first, "/turn-on/confirm")
    two = signed_in.fill(second, "/turn-on/confirm")
    page = signed_in.fill(one, "/turn-on/confirm", password=PASSWORD, **groups(one, code_on(first)))
    assert "not the groups" in page.words and not enrolled(site, user)
    page = signed_in.fill(
        two, "/turn-on/confirm", password=PASSWORD, **groups(two, code_on(second))
    )
    assert "Encryption is on" in page.words
    # A third tab still shows the first form.
    third = signed_in.get("/app-passwords")
    gone = signed_in.fill(third, "/app-passwords", password=PASSWORD, label="x")
    assert code_on(gone)


def test_the_page_is_killed_between_any_two_steps(site: Site, user: str) -> None:
    """The user can always log in, and encryption is either on or off."""

    def restart(tab: Tab) -> None:
        site.web.stop(signal.SIGKILL)
        site.web.start(until=[site.web_socket])
        assert "Sign in" in tab.get().words
        assert "Encryption is" in tab.sign_in(user).words

    tab = Tab(site.web_socket)
    tab.sign_in(user)
    restart(tab)
    first = tab.act("/turn-on", password=PASSWORD, **TICKED)
    assert code_on(first)
    restart(tab)
    assert not enrolled(site, user) and site.reads(user) == []
    page = tab.fill(tab.act("/turn-on", password=PASSWORD, **TICKED), "/turn-on/confirm")
    restart(tab)
    assert not enrolled(site, user) and site.reads(user) == []
    # The old form is refused now; after a new start it works.
    late = tab.send("/turn-on/confirm", page.form("/mailseal/turn-on/confirm"))
    assert late.status == 403
    code = tab.turn_on()
    restart(tab)
    assert enrolled(site, user) and site.reads(user) == []
    assert "Recovery code" in tab.get().words
    site.ok("recover", user=user, code=code, new=PASSWORD)


def test_after_a_restart_of_the_agent_users_sign_in_again(site: Site, signed_in: Tab) -> None:
    site.lab.restart_agent()
    assert "Mail password" in signed_in.get().words
    site.lab.stop_agent()
    try:
        page = signed_in.sign_in("user1@example.org")
        assert page.status == 403 and "does not work at the moment" in page.words
    finally:
        site.lab.start_agent()


def test_ending_all_sessions(site: Site, signed_in: Tab, user: str) -> None:
    other = Tab(site.web_socket)
    other.sign_in(user)
    page = signed_in.act("/sessions", password=PASSWORD)
    assert "All sessions have ended" in page.words
    for tab in (signed_in, other):
        assert "Mail password" in tab.get().words


def test_german_and_a_chosen_language(site: Site) -> None:
    tab = Tab(site.web_socket, **{"Accept-Language": "fr, de-AT;q=0.8, en;q=0.5"})
    assert "Verschlüsselung deiner Mails" in tab.get().words
    assert 'lang="de"' in tab.get().text
    assert "Encryption of your mail" in tab.get("/?language=en").words
    assert "Encryption of your mail" in tab.get().words, "it is remembered"


def test_a_second_factor_in_front(site: Site, user: str) -> None:
    """Only the user whom the web server names can sign in, and stay signed in."""
    site.configure_web(**{"web.user_header": "X-Remote-User"})
    try:
        for named, status in ((None, 403), ("", 403), ("other@example.org", 403), (user, 200)):
            headers = {} if named is None else {"X-Remote-User": named}
            tab = Tab(site.web_socket, **headers)
            assert tab.sign_in(user).status == status, named
        assert user in tab.get().words
        tab.headers["X-Remote-User"] = "other@example.org"
        assert user not in tab.get().words
        body = json.dumps({"user": user, "password": PASSWORD}).encode()
        kind = {"Content-Type": "application/json"}
        assert tab.ask("POST", "/mailseal/api/v1/state", body, kind).status == 403
    finally:
        site.configure_web()


def test_a_theme(site: Site) -> None:
    folder = Path(site.lab.place.path("theme"))
    folder.mkdir()
    (folder / "theme.css").write_text(":root { --accent: #123456; }")
    (folder / "logo.svg").write_text(
        '<svg viewBox="0 0 9 9" role="img"><path d="M1 1h7v7z"/></svg>'
    )
    site.configure_web(**{"web.theme": str(folder)})
    try:
        tab = Tab(site.web_socket)
        page = tab.get()
        assert "M1 1h7v7z" in page.text and page.headers["content-security-policy"] == POLICY
        style = re.search(r'href="(/mailseal/style.css[^"]*)"', page.text)
        assert style is not None and "#123456" in tab.ask("GET", style[1]).text
    finally:
        site.configure_web()
    assert "M1 1h7v7z" not in Tab(site.web_socket).get().text
