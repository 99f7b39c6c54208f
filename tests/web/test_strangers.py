# SPDX-License-Identifier: MIT
"""Who does not know a password cannot find out on the page who is enrolled, or who exists."""

from __future__ import annotations

import json

import pytest

from mailseal.keys import codes
from tests.web.site import PASSWORD, Site
from tests.web.tab import Tab

KIND = {"Content-Type": "application/json"}
ALL = {"typed": "zzzz zzzz", "label": "phone", "slot": "zzz", "new": "new", "old_mail": "1"}
# Dovecot's auth process closes the connection for a longer line.
MORE = {"/reset": (codes.make("recovery", "zzz"),), "/state": ("", "a\0b", "x" * 15000)}


@pytest.fixture
def users(site: Site) -> list[str]:
    """Enrolled, not enrolled, and unknown."""
    on, off = site.user(mails=0), site.user(mails=0)
    site.enroll(on)
    return [on, off, f"no-{on}"]


# tests/unit/test_strangers.py does this with each verb of the agent; these have code of their own.
PATHS = ["/state", "/password", "/reset", "/enroll/begin", "/enroll/finish", "/stay", "/leave"]


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_secret_has_one_answer(site: Site, users: list[str], path: str) -> None:
    said: dict[str, set[tuple[int, str]]] = {}
    for number, user in enumerate(users if path == "/state" else users[:2]):
        # Not from the address of another test: wrong passwords count for an address, too.
        tab = Tab(site.web_socket, f"198.18.{number}.{PATHS.index(path)}")
        for secret in ("guess", *MORE.get(path, ())):
            proof = "code" if path == "/reset" else "password"
            fields = {"user": user, proof: secret, **ALL}
            page = tab.ask("POST", f"/mailseal/api/v1{path}", json.dumps(fields).encode(), KIND)
            said.setdefault(secret, set()).add((page.status, page.text))
            assert user not in page.text
    for secret, answers in said.items():
        assert len(answers) == 1, (path, secret, answers)
        ((status, text),) = answers
        assert status == 401 and json.loads(text)["error"] == "WrongPassword"


def test_the_pages_have_one_answer(site: Site, users: list[str]) -> None:
    code = codes.make("recovery", "0a1")
    signing_in, resetting = set(), set()
    for number, user in enumerate(users):
        tab = Tab(site.web_socket, f"198.19.0.{number}")
        page = tab.sign_in(user, "guess at the page")
        assert user in page.text
        signing_in.add((page.status, page.words))
        page = tab.act("/reset", user=user, code=code, new="new", again="new")
        resetting.add((page.status, page.words))
    assert len(signing_in) == 1 and len(resetting) == 1, (signing_in, resetting)
    assert signing_in.pop()[0] == resetting.pop()[0] == 403


def test_with_the_right_password_the_answer_is_true(site: Site, users: list[str]) -> None:
    on, off, _ = users
    tab = Tab(site.web_socket, "198.18.77.1")
    for user, path, status in (
        (on, "/enroll/begin", 409),
        (on, "/enroll/finish", 409),
        (off, "/old-mail", 409),
        (off, "/stay", 409),
        (off, "/state", 200),
        (on, "/state", 200),
    ):
        body = json.dumps({"user": user, "password": PASSWORD, **ALL}).encode()
        assert tab.ask("POST", f"/mailseal/api/v1{path}", body, KIND).status == status, path
