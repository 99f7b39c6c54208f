# SPDX-License-Identifier: MIT
"""Attacks on the page: cookies, forms from other sites, guesses, markup and headers in input."""

from __future__ import annotations

import html
import re
import urllib.parse

from tests.lab.process import logged
from tests.web.site import PASSWORD, Site, enrolled, in_the_first_pause
from tests.web.tab import POLICY, TICKED, Tab, code_on


def test_security_headers_of_every_answer(signed_in: Tab) -> None:
    for path in ("/", "/turn-on", "/statement", "/nothing", "/reset", "/api/v1/openapi.json"):
        page = signed_in.ask("GET", signed_in.prefix + path)
        assert page.headers["content-security-policy"] == POLICY, path
        assert page.headers["cache-control"] == "no-store", path
        assert page.headers["x-content-type-options"] == "nosniff", path
        assert page.headers["referrer-policy"] == "same-origin", path
        assert "server" not in page.headers and "x-powered-by" not in page.headers
        assert "<script" not in page.text and "style=" not in page.text
        assert not re.search(r"\son\w+=", page.text)


def test_the_cookie(site: Site, user: str) -> None:
    tab = Tab(site.web_socket)
    (cookie,) = tab.get().cookies
    assert cookie.startswith("__Host-mailseal=")
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        *("Secure", "HttpOnly", "Path=/", "SameSite=Strict")
    }
    before = tab.cookies["__Host-mailseal"]
    tab.sign_in(user)
    assert tab.cookies["__Host-mailseal"] != before, "a new one when somebody signs in"


def test_a_planted_cookie_does_not_sign_in(site: Site, user: str) -> None:
    """Fixation: the attacker knows the cookie that the victim had before."""
    victim, attacker = Tab(site.web_socket), Tab(site.web_socket)
    attacker.get()
    victim.cookies = dict(attacker.cookies)
    victim.sign_in(user)
    assert "Sign in" in attacker.get().words and user not in attacker.get().words
    for name in ("x" * 43, "", "../../etc/passwd", "a" * 4000):
        attacker.cookies = {"__Host-mailseal": name}
        assert user not in attacker.get().words


def test_after_signing_out_the_cookie_is_invalid(site: Site, signed_in: Tab, user: str) -> None:
    copy = Tab(site.web_socket)
    copy.cookies = dict(signed_in.cookies)
    assert user in copy.get().words
    signed_in.fill(signed_in.get(), "/sign-out")
    assert user not in copy.get().words
    assert copy.get("/statement").text.startswith("<!doctype html>")


def test_forms_from_other_sites_do_nothing(site: Site, signed_in: Tab, user: str) -> None:
    """CSRF: without the token, with another user's token, from another page."""
    good = signed_in.get("/turn-on").form("/mailseal/turn-on")
    fields = {**good, **TICKED, "password": PASSWORD}
    other = Tab(site.web_socket)
    other.sign_in(site.user(mails=0))
    foreign = other.get("/turn-on").form("/mailseal/turn-on")["form"]
    anonymous = Tab(site.web_socket).get().form("/mailseal/sign-in")["form"]
    elsewhere = signed_in.get("/sessions").form("/mailseal/sessions")["form"]
    for token in ("", "x", foreign, anonymous, elsewhere):
        assert signed_in.send("/turn-on", {**fields, "form": token}).status == 403
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert signed_in.send("/turn-on", fields, **headers).status == 403, headers
    # GET changes nothing.
    signed_in.get("/turn-on?" + urllib.parse.urlencode(fields))
    assert not enrolled(site, user)
    # From this page, the form is accepted.
    page = signed_in.send("/turn-on", fields, Origin="https://mail.example.org")
    assert code_on(page)


def test_a_form_is_accepted_once(site: Site, signed_in: Tab, user: str) -> None:
    """Replay: by the reload button, or by somebody who has seen the request."""
    site.enroll(user)
    form = signed_in.get("/app-passwords").form("/mailseal/app-passwords")
    fields = {**form, "password": PASSWORD, "label": "phone"}
    assert code_on(signed_in.send("/app-passwords", fields))
    again = signed_in.send("/app-passwords", fields)
    assert again.status == 403 and "sent already" in again.words
    assert sum(way["kind"] == "app" for way in site.state(user)["ways_in"]) == 1


def test_signing_in_for_somebody_else_needs_a_form_of_this_browser(site: Site, user: str) -> None:
    """Login CSRF: the victim would work in the attacker's account."""
    attacker, victim = Tab(site.web_socket), Tab(site.web_socket)
    token = attacker.get().form("/mailseal/sign-in")["form"]
    victim.get()
    page = victim.send("/sign-in", {"user": user, "password": PASSWORD, "form": token})
    assert page.status == 403 and user not in victim.get().words


def test_each_change_requires_the_password(site: Site, signed_in: Tab, user: str) -> None:
    page = signed_in.act("/turn-on", password="guess", **TICKED)
    assert page.status == 403 and "not right" in page.words
    site.enroll(user)
    for path, more in (
        ("/recovery-code", {}),
        ("/app-passwords", {"label": "x"}),
        ("/key", {}),
        ("/sessions", {}),
        ("/turn-off", {"clear": "1"}),
        ("/old-mail", {}),
        ("/stay", {}),
    ):
        page = signed_in.act(path, password=f"guess {path}", **more)
        assert page.status == 403 and "not right" in page.words, (path, page.words)
    assert [way["kind"] for way in site.state(user)["ways_in"]] == ["login", "recovery"]


def test_markup_in_names_and_labels_is_text(site: Site, signed_in: Tab, user: str) -> None:
    evil = "<img src=x onerror=alert(1)>\"'{{7*7}}"
    page = signed_in.fill(Tab(site.web_socket).get(), "/sign-in", user=evil, password="x")
    site.enroll(user)
    page = signed_in.act("/app-passwords", password=PASSWORD, label=evil)
    assert code_on(page)
    for shown in (page, signed_in.get("/app-passwords"), signed_in.get()):
        assert "<img" not in shown.text and html.escape(evil, quote=True)[:20] in shown.text
        assert "{{7*7}}" in shown.text
    tab = Tab(site.web_socket)
    page = tab.sign_in(evil, "x")
    assert "<img" not in page.text and page.status == 403
    assert "<img" not in signed_in.get("/?language=<img>").text


def test_input_cannot_inject_headers(site: Site, signed_in: Tab, user: str) -> None:
    site.enroll(user)
    evil = "x\r\nSet-Cookie: evil=1\r\n\r\n<h1>"
    for path, name in (("/app-passwords", "label"), ("/app-passwords/revoke", "slot")):
        form = signed_in.get("/app-passwords").form("/mailseal/app-passwords")
        page = signed_in.send(path, {**form, name: evil, "password": PASSWORD})
        assert "evil" not in page.headers.get("set-cookie", "")
    for path in (f"/app-passwords/revoke?slot={urllib.parse.quote(evil)}", "/?language=a%0d%0ab"):
        assert "evil" not in str(signed_in.get(path).headers)
    page = signed_in.act("/key", password=PASSWORD)
    assert page.headers["content-disposition"] == f'attachment; filename="mail-key-{user}.txt"'
    # The page makes files only of codes.
    form = signed_in.act("/recovery-code", password=PASSWORD).form("/mailseal/code.txt")
    assert signed_in.send("/code.txt", {**form, "code": "<script>"}).status == 403


def test_guesses_are_counted_together_with_imap(site: Site) -> None:
    def guess(user: str, password: str) -> str:
        return Tab(site.web_socket, "203.0.113.77").sign_in(user, password).words

    user, said = in_the_first_pause(site, guess)
    assert "not right" in said[0] and "too many wrong passwords" in said[-2]
    assert "too many wrong passwords" in said[-1]
    wanted = f"wrong password from 203.0.113.77: user=<{user}>"
    logged(site.lab, wanted)
    # The address in a header of the client is ignored: the web server sets this header.
    assert "guess 3" not in site.lab.log_text()
