# SPDX-License-Identifier: MIT
"""Attacks on the page, with the real program, agent and Dovecot."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.place import REPOSITORY
from tests.web.fronts import APACHE, Front
from tests.web.site import PASSWORD, Site, part, wait
from tests.web.tab import Page, Tab, code_on, groups

TICKED = {"forget": "1", "keep": "1", "clients": "1"}
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"


@pytest.fixture
def tab(site: Site) -> Tab:
    return Tab(site.web_socket)


@pytest.fixture
def user(site: Site) -> str:
    return site.user(mails=0)


@pytest.fixture
def signed_in(tab: Tab, user: str) -> Tab:
    assert "Encryption is off" in tab.sign_in(user).words
    return tab


def enrolled(site: Site, user: str) -> bool:
    return site.lab.mailseal("status", user).returncode == 0


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


def test_only_the_postmaster_sets_passwords(site: Site, user: str) -> None:
    """The password is set in the user database; with the code, the keyring gets it too."""
    code = site.enroll(user)
    site.configure_web(**{"web.password_command": []})
    try:
        tab = Tab(site.web_socket)
        tab.sign_in(user)
        assert "Change the password" not in tab.get().words
        site.set_password(user, "from the postmaster")
        wait(lambda: site.reads(user, PASSWORD) is None, "Dovecot uses the new file")
        wrong = {"new": "mistyped", "again": "mistyped"}
        page = Tab(site.web_socket).act("/reset", user=user, code=code, **wrong)
        assert page.status == 403 and "not right" in page.words
        site.ok("own_keys", user=user, password=PASSWORD)  # the slot is still there
        new = {"new": "from the postmaster", "again": "from the postmaster"}
        page = Tab(site.web_socket).act("/reset", user=user, code=code, **new)
        assert "The new password is set" in page.words
        assert site.reads(user, "from the postmaster") == []
    finally:
        site.configure_web()


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("new", "status", "holds"),
    [
        ("a good one", 200, True),
        ("refuse", 403, False),
        ("unknown", 403, True),
        ("kill before", 0, False),
        ("kill after", 0, True),
    ],
)
def test_changing_the_password(
    site: Site, user: str, new: str, status: int, holds: bool, on: bool
) -> None:
    """Whatever fails in between, the password of the user database decrypts the mail."""
    if on:
        site.enroll(user)
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    page = tab.act("/password", password="guess", new=new, again=new)
    assert page.status == 403 and "not right" in page.words
    if status:
        page = tab.act("/password", password=PASSWORD, new=new, again=new)
        assert page.status == status, page.words
        if new == "refuse":
            assert "The old one stays valid" in page.words
    else:
        with pytest.raises((http.client.HTTPException, OSError)):
            tab.act("/password", password=PASSWORD, new=new, again=new)
        site.web.stop()
        site.web.start(until=[site.web_socket])
    there, gone = (new, PASSWORD) if holds else (PASSWORD, new)
    wait(lambda: site.reads(user, there) == [], "the password of the user database reads")
    assert site.reads(user, gone) is None
    assert site.state(user, there)["enrolled"] is on


def test_enrolled_in_another_tab_while_the_password_changes(site: Site, user: str) -> None:
    """The password command runs for a moment; the keyring that is made meanwhile has the old one.

    The second tab has shown its form before.
    """
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    begun = site.ok("enroll_begin", user=user, password=PASSWORD)
    gate = site.lab.place.path("wait-here")
    Path(gate).touch()
    os.chmod(gate, 0o666)
    changing = threading.Thread(
        target=tab.act, args=("/password",), kwargs={"password": PASSWORD, **both("wait a moment")}
    )
    changing.start()
    try:
        wait(lambda: Path(gate).read_text() == "seen", "the command runs")
        site.ok("enroll_finish", user=user, password=PASSWORD, typed=part(begun))
    finally:
        os.unlink(gate)
        changing.join()
    site.ok("own_keys", user=user, password="wait a moment")
    wait(lambda: site.reads(user, "wait a moment") == [], "the new password reads")


def both(new: str) -> dict[str, str]:
    """A new password, typed twice."""
    return {"new": new, "again": new}


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


def test_guesses_are_counted_together_with_imap(site: Site, user: str) -> None:
    tab = Tab(site.web_socket, "203.0.113.77")
    site.enroll(user)
    said = [tab.sign_in(user, f"guess {number}").words for number in range(12)]
    assert "not right" in said[0] and "too many wrong passwords" in said[-1]
    assert "too many wrong passwords" in tab.sign_in(user, PASSWORD).words
    wanted = f"wrong password from 203.0.113.77: user=<{user}>"
    assert wanted in site.lab.log_text()
    # The address in a header of the client is ignored: the web server sets this header.
    assert "guess 3" not in site.lab.log_text()


def test_large_and_slow_requests(site: Site, signed_in: Tab) -> None:
    # Refused before all of it is read: the connection may be closed during sending.
    with contextlib.suppress(ConnectionError):
        assert signed_in.send("/turn-on", {"form": "x" * 20000}).status == 413
    page = signed_in.ask("GET", "/mailseal/", headers={"X-Long": "x" * 20000})
    assert page.status == 431
    deep = b"[" * 15000
    page = signed_in.ask(
        "POST", "/mailseal/api/v1/state", deep, {"Content-Type": "application/json"}
    )
    assert page.status == 400
    # A slow request is cut off; meanwhile others are served.
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(site.web_socket)
        slow.sendall(b"POST /mailseal/sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        began, cut = time.monotonic(), False
        slow.settimeout(1)
        while not cut and time.monotonic() - began < 60:
            try:
                slow.sendall(b"a")
                cut = slow.recv(1000) == b""
            except TimeoutError:
                continue
            except OSError:
                cut = True
        assert cut
    assert signed_in.get().status == 200


def test_many_slow_requests_do_not_block_others(site: Site, signed_in: Tab) -> None:
    held = []
    for _ in range(150):
        one = socket.socket(socket.AF_UNIX)
        one.connect(site.web_socket)
        one.sendall(b"GET /mailseal/ HTTP/1.1\r\nX: ")
        held.append(one)
    assert "Encryption is off" in signed_in.get().words
    for one in held:
        one.close()


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


def test_the_api_does_the_same(site: Site, user: str) -> None:
    tab = Tab(site.web_socket)

    def call(path: str, status: int = 200, **fields: object) -> dict[str, Any]:
        body = json.dumps({"user": user, **fields}).encode()
        kind = {"Content-Type": "application/json"}
        page = tab.ask("POST", f"/mailseal/api/v1{path}", body, kind)
        assert page.status == status, (path, page.text)
        assert not page.cookies or "__Host-mailseal=" in page.cookies[0]
        found: dict[str, Any] = json.loads(page.text)
        return found

    assert call("/state", password=PASSWORD)["enrolled"] is False
    assert call("/state", 401, password="guess")["error"] == "WrongPassword"
    assert call("/state", 400)["error"] == "UsageError"
    assert call("/state", 400, password=["x"])["error"] == "UsageError"
    begun = call("/enroll/begin", password=PASSWORD)
    asked = begun["asked"].split()
    typed = " ".join(begun["code"].split("-")[int(n) - 1] for n in asked)
    call("/enroll/finish", 400, password=PASSWORD, typed="x y")
    assert call("/enroll/finish", password=PASSWORD, typed=typed)["key_id"]
    call("/enroll/begin", 409, password=PASSWORD)
    app = call("/app-passwords", password=PASSWORD, label="phone")
    assert site.reads(user, app["code"]) == []
    call("/app-passwords/revoke", password=PASSWORD, slot=app["slot"])
    assert site.reads(user, app["code"]) is None
    assert call("/recovery-code", password=PASSWORD)["code"]
    assert call("/keys", password=PASSWORD)["keys"]
    call("/sessions/end", password=PASSWORD)
    call("/leave", password=PASSWORD)
    call("/stay", password=PASSWORD)
    # Another site can send this content type, and no other, without a preflight request.
    form = {"Content-Type": "text/plain"}
    body = json.dumps({"user": user, "password": PASSWORD}).encode()
    assert tab.ask("POST", "/mailseal/api/v1/state", body, form).status == 400


def test_the_api_is_described() -> None:
    from mailseal.web.api import CALLS

    described = json.loads(Path(REPOSITORY, "lib/mailseal/web/openapi.json").read_text())
    paths = {
        path.removeprefix("/mailseal/api/v1"): about for path, about in described["paths"].items()
    }
    assert set(paths) == {"/state", "/password", "/reset", *CALLS}
    for path, call in CALLS.items():
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) == {"user", *call.takes}, path
        assert set(schema["properties"]) == {"user", *call.takes, *call.optional}, path
        given = paths[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(given.get("properties", {})) == set(call.gives), path


@pytest.fixture(params=["nginx", "apache"])
def front(site: Site, request: pytest.FixtureRequest) -> Iterator[Front]:
    if request.param == "apache" and not Path(APACHE).exists():
        pytest.skip("to test this, install: apache2-bin")
    with Front(site, request.param) as made:
        yield made


def test_behind_a_web_server(site: Site, front: Front, user: str) -> None:
    """The shipped snippets: TLS, the client's address, the size of a request."""
    import http.client
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Page:
        connection = http.client.HTTPSConnection("127.0.0.1", front.port, context=context)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Page(answer.status, answer.getheaders(), answer.read())

    assert ask("GET", "/mailseal").status == 301
    page = ask("GET", "/mailseal/")
    cookie = page.cookies[0].partition(";")[0]
    fields = {**page.form("/mailseal/sign-in"), "user": user, "password": "a wrong one"}
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
    kind |= {"X-Real-IP": "198.51.100.99", "Origin": f"https://127.0.0.1:{front.port}"}
    body = urllib.parse.urlencode(fields).encode()
    assert "not right" in ask("POST", "/mailseal/sign-in", body, **kind).words
    assert f"wrong password from 127.0.0.1: user=<{user}>" in site.lab.log_text()
    assert "198.51.100.99" not in site.lab.log_text()
    assert ask("POST", "/mailseal/sign-in", b"x" * 40000, **kind).status == 413
    wait(lambda: ask("GET", "/mailseal/style.css").status == 200)
