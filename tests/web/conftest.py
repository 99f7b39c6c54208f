# SPDX-License-Identifier: MIT
"""One site for all tests of the page; a new user without mail for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.web.site import Site
from tests.web.tab import Tab

# It takes minutes and needs Chromium: `make browser` runs it.
collect_ignore = [] if os.environ.get("MAILSEAL_BROWSER") else ["test_browser.py"]


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


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
