# SPDX-License-Identifier: MIT
"""Requests that no browser sends: they end with an error, and change nothing."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest

from tests.web.site import PASSWORD, Site
from tests.web.tab import Tab

GET = b"GET /mailseal/ HTTP/1.1\r\nHost: mail.example.org\r\nConnection: close\r\n"
POST = b"POST /mailseal/sign-in HTTP/1.1\r\nHost: mail.example.org\r\nConnection: close\r\n"
END = b"\r\n"


@pytest.fixture
def tab(site: Site) -> Tab:
    """A user who is signed in."""
    tab = Tab(site.web_socket)
    tab.sign_in(site.user(mails=0))
    return tab


def answered(site: Site, request: bytes) -> list[int]:
    """The statuses of the answers."""
    said = b""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError):
        sock.settimeout(60)
        sock.connect(site.web_socket)
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)  # it may be refused before it is complete
        while part := sock.recv(65536):
            said += part
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (GET + b"Cookie: " + b"a" * 100_000 + END + END, [431]),
        (GET + b"X-A: a\0b" + END + END, [400]),
        (GET + b"X-Real-IP : 6.6.6.6" + END + END, [400]),
        (POST + b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc", [400]),
        (POST + b"Content-Length: -3\r\n\r\nabc", [400]),
        (POST + b"Content-Length: +3\r\n\r\nabc", [400]),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [501]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\n" + b"a" * 60_000, [413]),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", [403]),
        (POST + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5\r\n\r\n--b..",
         [403]),
        (b"TRACE" + GET[3:] + END, [405]),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400, 404]),
    ],
)  # fmt: skip
def test_it_is_refused(site: Site, tab: Tab, request_: bytes, statuses: list[int]) -> None:
    """`statuses`: of versions of waitress, which does not answer every line that is no HTTP."""
    said = answered(site, request_)
    assert not said or (len(said) == 1 and said[0] in statuses)
    assert "Encryption is off" in tab.get().words
    with open(site.lab.place.path("log", "web.log"), encoding="utf-8") as stream:
        assert "unexpected" not in stream.read()


def test_another_spelling_of_the_header_with_the_address(site: Site) -> None:
    """In WSGI, X_Real_IP has the same name; Apache passes it on."""
    user = site.user(mails=0)
    for name in ("X_Real_IP", "x-real_ip"):
        tab = Tab(site.web_socket, "203.0.113.61")
        form = tab.get().form("/mailseal/sign-in")
        fields = {**form, "user": user, "password": f"wrong {name}"}
        assert tab.send("/sign-in", fields, **{name: "203.0.113.62"}).status == 403
    log = site.lab.log_text()
    assert f"wrong password from 203.0.113.61: user=<{user}>" in log
    assert "203.0.113.62" not in log


def test_odd_fields_of_a_form(site: Site, tab: Tab) -> None:
    """Two values, invalid UTF-8, another charset: the form is refused or the password is wrong."""
    for body in ("password=x&password=" + PASSWORD, "password=%ff%fe", "password=%00", "password"):
        form = tab.get("/sessions").form("/mailseal/sessions")["form"]
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-16"}
        data = f"form={form}&{body}".encode()
        assert tab.ask("POST", "/mailseal/sessions", data, kind).status == 403, body
    assert "Encryption is off" in tab.get().words
