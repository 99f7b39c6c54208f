# SPDX-License-Identifier: MIT
"""Something ends in the middle of each form: a session, or the key agent."""

from __future__ import annotations

import pytest

from mailseal.web.app import VIEWS
from tests.web.site import PASSWORD, Site, wait
from tests.web.tab import Page, Tab

TICKED = dict.fromkeys(("forget", "keep", "clients", "clear"), "1")
TYPED = {"password": PASSWORD, "new": "new", "again": "new", "label": "phone", **TICKED}
WITHOUT_SESSION = ("/sign-in", "/reset")


@pytest.fixture(params=[True, False], ids=["on", "off"])
def user(site: Site, request: pytest.FixtureRequest) -> str:
    user = site.user(mails=0)
    if request.param:
        site.enroll(user)
        site.ok("app", user=user, password=PASSWORD, label="old phone")
    return user


@pytest.fixture
def tab(site: Site, user: str) -> Tab:
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    return tab


def shown(tab: Tab) -> dict[str, Page]:
    """Each form of a user who is signed in."""
    pages = {path: tab.get(path) for path in VIEWS if path not in WITHOUT_SESSION}
    apps = pages["/app-passwords"].text
    if "revoke?slot=" in apps:
        slot = apps.partition("revoke?slot=")[2][:3]
        pages["/app-passwords/revoke"] = tab.get(f"/app-passwords/revoke?slot={slot}")
    code = tab.act("/turn-on" if "/turn-on" in pages["/"].text else "/recovery-code", **TYPED)
    pages["/turn-on/confirm"] = pages["/recovery-code/confirm"] = pages["/code.txt"] = code
    found = {p: one for p, one in pages.items() if f'action="{tab.prefix}{p}"' in one.text}
    assert len(found) >= 6, sorted(found)
    return found


def state_of(site: Site, user: str) -> object:
    """What a form could have changed."""
    state = site.state(user)
    ways = [(way["id"], way["kind"]) for way in state.get("ways_in", ())]
    return state["enrolled"], state["leaving"], state["old_mail_wanted"], ways


def test_the_session_ends(site: Site, user: str, tab: Tab) -> None:
    pages = shown(tab)
    before = state_of(site, user)
    other = Tab(site.web_socket)
    other.cookies = dict(tab.cookies)
    other.fill(other.get(), "/sign-out")
    for path, page in pages.items():
        said = tab.fill(page, path, **TYPED)
        assert "Mail password" in said.words or said.status == 403, (path, said.words)
        assert user not in said.text and said.status in (200, 403)
    assert state_of(site, user) == before


def test_the_agent_restarts(site: Site, user: str, tab: Tab) -> None:
    pages = shown(tab)
    before = state_of(site, user)
    site.lab.restart_agent()
    for path, page in pages.items():
        said = tab.fill(page, path, **TYPED)
        file = path == "/code.txt" and said.headers["content-type"].startswith("text/plain")
        assert "Mail password" in said.words or said.status == 403 or file, (path, said.words)
    assert state_of(site, user) == before


def test_the_agent_is_down(site: Site, user: str, tab: Tab) -> None:
    pages = shown(tab)
    before = state_of(site, user)
    site.lab.stop_agent()
    try:
        for path, page in pages.items():
            if path in ("/code.txt", "/sign-out"):
                continue
            said = tab.fill(page, path, **TYPED)
            assert "does not work at the moment" in said.words, (path, said.words)
            assert said.status in (403, 503), path
        new = Tab(site.web_socket)
        for page in (new.sign_in(user), new.act("/reset", user=user, code="x", **TYPED)):
            assert "does not work at the moment" in page.words
    finally:
        site.lab.start_agent()
    assert state_of(site, user) == before


def test_a_changed_password_ends_the_sessions_of_other_browsers(site: Site) -> None:
    """Somebody else may have signed in with the old one."""
    user = site.user(mails=0)
    code = site.enroll(user)
    mine, other = Tab(site.web_socket), Tab(site.web_socket)
    mine.sign_in(user)
    other.sign_in(user)
    page = mine.act("/password", password=PASSWORD, new="second", again="second")
    assert "Your password has changed" in page.words
    assert user in mine.get().words and "Mail password" in other.get().words
    page = other.act("/reset", user=user, code=code, new="third", again="third")
    assert "The new password is set" in page.words
    assert "Mail password" in mine.get().words
    wait(lambda: site.reads(user, "third") == [], "the new password reads")


@pytest.mark.parametrize("name", ["100%u+日本<b>@example.org", f"{'ü' * 100}@x.org"])
def test_unusual_names(site: Site, name: str) -> None:
    """The whole way: sign in, turn on, read, and reset."""
    password, new = "pässword ☃", "neues ☃"
    site.user(name, password, mails=0)
    tab = Tab(site.web_socket)
    wait(lambda: "Encryption is off" in tab.sign_in(name, password).words, "Dovecot knows the user")
    code = tab.turn_on(password)
    for path in ("/", "/app-passwords", "/sessions", "/turn-off"):
        page = tab.get(path)
        assert page.status == 200 and "<b>" not in page.text
    assert name in tab.get("/statement").text
    said = tab.act("/key", password=password)
    assert said.headers["content-disposition"].isascii() and said.status == 200
    page = Tab(site.web_socket).act("/reset", user=name, code=code, new=new, again=new)
    assert "The new password is set" in page.words, page.words
    wait(lambda: site.reads(name, new) == [], "the new password reads")


def test_pages_for_enrolled_users_lead_others_to_the_overview(site: Site) -> None:
    """Their forms would say that the right password is wrong: there is no keyring."""
    tab = Tab(site.web_socket)
    tab.sign_in(site.user(mails=0))
    for path in ("/recovery-code", "/app-passwords", "/key", "/old-mail", "/stay", "/turn-off"):
        assert "Encryption is off" in tab.get(path).words, path


def test_no_address_of_the_request_is_in_a_redirect(site: Site) -> None:
    tab = Tab(site.web_socket)
    for path in ("/mailseal", "/mailseal//", "/mailseal/turn-on/", "//evil.example/mailseal/"):
        page = tab.ask("GET", path, headers={"Host": "evil.example"})
        assert page.status in (200, 404), path
        assert "evil.example" not in page.text + str(page.headers)
