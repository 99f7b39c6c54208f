# SPDX-License-Identifier: MIT
"""Large and slow requests, and the web servers in front of the page."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.process import logged
from tests.web.fronts import APACHE, Front
from tests.web.site import Site, wait
from tests.web.tab import Page, Tab


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


def test_a_slow_request_is_cut_off_and_others_are_served(site: Site, user: str) -> None:
    site.configure_web(**{"web.request_timeout": "2s"})
    try:
        _is_cut_off(site)
        assert "Encryption is off" in Tab(site.web_socket).sign_in(user).words
    finally:
        site.configure_web()


def _is_cut_off(site: Site) -> None:
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
    logged(site.lab, f"wrong password from 127.0.0.1: user=<{user}>")
    assert "198.51.100.99" not in site.lab.log_text()
    # Apache may have begun to pass it on when the body arrives: then mailseal-web refuses it, and
    # Apache says 502 if it could not send the rest.
    assert ask("POST", "/mailseal/sign-in", b"x" * 40000, **kind).status in (413, 502)
    wait(lambda: ask("GET", "/mailseal/style.css").status == 200)
