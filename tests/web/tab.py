# SPDX-License-Identifier: MIT
"""A browser's tab without a browser: HTTP on the page's unix socket, cookies, forms."""

from __future__ import annotations

import http.client
import re
import socket
import urllib.parse
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

HOST = "mail.example.org"

TICKED = {"forget": "1", "keep": "1", "clients": "1"}
"""The boxes of the form that turns encryption on."""

POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"
"""The Content-Security-Policy of every answer."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__(HOST, timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Page:
    """An answer."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.cookies = [value for name, value in headers if name.lower() == "set-cookie"]
        self.body = body
        self.text = body.decode("utf-8", "replace")

    @property
    def words(self) -> str:
        """The visible text of the page."""
        parser = _Words()
        parser.feed(self.text)
        return " ".join("".join(parser.found).split())

    def form(self, action: str) -> dict[str, str]:
        """The fields of the form for this address, with their initial values."""
        parser = _Forms()
        parser.feed(self.text)
        assert action in parser.found, (action, sorted(parser.found), self.status, self.words)
        return parser.found[action]


class Tab:
    """Keeps cookies and follows redirects."""

    def __init__(self, path: str, address: str = "192.0.2.1", **headers: str) -> None:
        self.path = path
        self.cookies: dict[str, str] = {}
        self.headers = {"X-Real-IP": address, **headers}
        self.prefix = "/mailseal"

    def ask(
        self, method: str, where: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Page:
        """One request; redirects are not followed."""
        connection = _Connection(self.path)
        sent = {"Host": HOST, **self.headers, **(headers or {})}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, where, body or None, sent)
        answer = connection.getresponse()
        page = Page(answer.status, answer.getheaders(), answer.read())
        connection.close()
        for cookie in page.cookies:
            name, _, rest = cookie.partition("=")
            self.cookies[name] = rest.partition(";")[0]
        return page

    def get(self, path: str = "/", **headers: str) -> Page:
        """Get a page; redirects are followed."""
        return self._followed(self.ask("GET", self.prefix + path, headers=headers))

    def send(self, path: str, fields: Mapping[str, Any], **headers: str) -> Page:
        """Send these fields."""
        data = urllib.parse.urlencode(fields).encode()
        more = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self._followed(self.ask("POST", self.prefix + path, data, more))

    def fill(self, page: Page, path: str, **fields: str) -> Page:
        """Fill in the form on a page that is sent to `path`, and send it."""
        return self.send(path, {**page.form(self.prefix + path), **fields})

    def act(self, path: str, **fields: str) -> Page:
        """Load a page with a form that is sent to the same address; fill it in and send it."""
        return self.fill(self.get(path), path, **fields)

    def sign_in(self, user: str, password: str = "password") -> Page:
        return self.fill(self.get(), "/sign-in", user=user, password=password)

    def _followed(self, page: Page) -> Page:
        while page.status in (302, 303):
            page = self.ask("GET", page.headers["location"])
        return page

    def turn_on(self, password: str = "password", **more: str) -> str:
        """Enroll in three steps; returns the recovery code."""
        ticked = {**TICKED, **more}
        page = self.act("/turn-on", password=password, **ticked)
        code = code_on(page)
        page = self.fill(page, "/turn-on/confirm")
        page = self.fill(page, "/turn-on/confirm", password=password, **groups(page, code))
        assert "Encryption is on" in page.words, page.words
        return code


def code_on(page: Page) -> str:
    """The recovery code that a page shows."""
    match = re.search(r"(?:[0-9a-z]{4}-){7}[0-9a-z]{4}", page.words.replace(" - ", "-"))
    assert match is not None, page.words
    return match[0]


def groups(page: Page, code: str) -> dict[str, str]:
    """The groups of the code that the page asks for."""
    asked = re.findall(r'name="group(\d)"', page.text)
    assert len(asked) == 2, page.words
    return {f"group{number}": code.split("-")[int(number) - 1] for number in asked}


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("p", "h1", "h2", "li", "label", "button", "dt", "dd"):
            self.found.append(" ")

    def handle_data(self, data: str) -> None:
        self.found.append(data)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._fields = self.found[values["action"]] = {}
        elif tag == "input" and "name" in values:
            kind = values.get("type", "text")
            if kind != "checkbox" or "checked" in values:
                self._fields[values["name"]] = values.get("value", "")
