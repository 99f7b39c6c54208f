# SPDX-License-Identifier: MIT
"""When a session of the page ends, and which forms of other tabs stay valid."""

from __future__ import annotations

import pytest

from mailseal.web.sessions import WebSessions
from tests.web.site import Site, wait
from tests.web.tab import Tab


@pytest.fixture
def user(site: Site) -> str:
    return site.user(mails=0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_looking_by_itself_is_no_use() -> None:
    clock = Clock()
    sessions = WebSessions(idle=60, absolute=600, clock=clock)
    cookie = sessions.start("anna", "token")
    for _ in range(11):
        clock.now += 5
        assert sessions.find(cookie, used=False) is not None
    clock.now += 5
    assert sessions.find(cookie, used=False) is None
    cookie = sessions.start("anna", "token")
    for _ in range(11):
        clock.now += 50
        assert sessions.find(cookie) is not None
    clock.now += 50
    assert sessions.find(cookie) is None, "the absolute time"


def test_the_progress_does_not_keep_a_session_open(site: Site, user: str) -> None:
    """The sealer does not run here, so the work goes on and the page loads itself again."""
    site.enroll(user, old_mail=b"1")
    site.configure_web(**{"web.idle_timeout": "6s"})
    try:
        tab = Tab(site.web_socket)
        page = tab.sign_in(user)
        seconds, _, where = page.headers["refresh"].partition("; url=")
        assert int(seconds) < 60
        again = where.removeprefix(tab.prefix)
        wait(lambda: "Mail password" in tab.get(again).words, "the user is signed out")
        page = tab.get(again)
        assert "You were signed out" in page.words and "refresh" not in page.headers
        assert "You were signed out" not in tab.get().words
        assert site.state(user)["old_mail_wanted"], "the work goes on"
        # After signing in, the page is the same.
        assert "refresh" in tab.fill(page, "/sign-in", user=user, password="password").headers
    finally:
        site.configure_web()


def test_the_progress_in_one_tab_leaves_the_form_of_another_valid(site: Site, user: str) -> None:
    """64 forms are open at once; each load had one to sign out."""
    site.enroll(user)
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    form = tab.get("/app-passwords")
    for _ in range(70):
        page = tab.get("/?auto=1")
    assert tab.fill(form, "/app-passwords", password="password", label="x").status == 200
    tab.fill(page, "/sign-out")
    assert "Mail password" in tab.get().words
    # The other tab still shows the page.
    assert "Mail password" in tab.fill(page, "/sign-out").words
