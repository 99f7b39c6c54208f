# SPDX-License-Identifier: MIT
"""One site for all tests of the page."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.web.site import Site

# It takes minutes and needs Chromium: `make browser` runs it.
collect_ignore = [] if os.environ.get("MAILSEAL_BROWSER") else ["test_browser.py"]


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    with Site() as made:
        yield made
