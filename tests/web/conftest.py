# SPDX-License-Identifier: MIT
"""One site for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web.site import Site


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    with Site() as made:
        yield made
