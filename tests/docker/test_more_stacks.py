# SPDX-License-Identifier: MIT
"""The other pages in docs/stacks, in the same way: `make test-stacks`."""

from __future__ import annotations

from tests.docker.test_stacks import Running, Stack, follow, of_stacks, running

__all__ = ["running"]

STACKS = (
    Stack("iredmail", "2.4", "iredmail.md", "/var/vmail", spam=b"X-Spam-Flag: YES"),
    Stack(
        "mailinabox",
        "2.3",
        "mailinabox.md",
        "/home/user-data/mail",
        junk="Spam",
        spam=b"X-Spam-Status: Yes",
    ),
)


@of_stacks(STACKS)
def test_page(running: Running) -> None:
    follow(running)
