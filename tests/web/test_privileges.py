# SPDX-License-Identifier: MIT
"""mailseal-web forbids itself new privileges, but not if web.password_command may be sudo."""

from __future__ import annotations

import os

import pytest

from tests.web.site import PASSWORD, Site
from tests.web.tab import Tab

ASK = """#!/bin/sh
grep -q '^NoNewPrivs:.0$' /proc/self/status || exit 77
"""


def test_the_password_command_may_get_new_privileges(site: Site) -> None:
    """With PR_SET_NO_NEW_PRIVS, sudo refuses to run."""
    command = site.lab.place.path("ask-privileges")
    with open(command, "w", encoding="utf-8") as stream:
        stream.write(ASK)
    os.chmod(command, 0o755)
    user = site.user(mails=0)
    tab = Tab(site.web_socket)
    site.configure_web(**{"web.password_command": [command]})
    try:
        tab.sign_in(user)
        page = tab.act("/password", password=PASSWORD, new="new", again="new")
        assert "Your password has changed" in page.words
    finally:
        site.configure_web()


@pytest.mark.parametrize(("command", "forbidden"), [([], "1"), (["/bin/true"], "0")])
def test_without_a_command_they_are_forbidden(
    site: Site, command: list[str], forbidden: str
) -> None:
    site.configure_web(**{"web.password_command": command})
    try:
        with open(f"/proc/{site.web.pid}/status", encoding="utf-8") as stream:
            assert f"NoNewPrivs:\t{forbidden}" in stream.read()
    finally:
        site.configure_web()
