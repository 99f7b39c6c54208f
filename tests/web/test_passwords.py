# SPDX-License-Identifier: MIT
"""The page sets a password in the user database and in the keyring."""

from __future__ import annotations

import http.client
import os
import threading
from pathlib import Path

import pytest

from tests.web.site import PASSWORD, Site, part, wait
from tests.web.tab import Tab


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
