# SPDX-License-Identifier: MIT
"""The other pages in docs/stacks, in the same way: `make test-stacks`."""

from __future__ import annotations

from tests.docker.test_stacks import Running, Stack, follow, of_stacks, running

__all__ = ["running"]

MODOBOA = Stack("modoboa", "2.4", "modoboa.md", "/srv/vmail", spam=b"X-Spam-Status: Yes")
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
    MODOBOA,
)


@of_stacks(STACKS)
def test_page(running: Running) -> None:
    follow(running)


@of_stacks((MODOBOA,))
def test_no_script_gets_the_keys(running: Running) -> None:
    """Modoboa's script sets the time of the last login, and does not run any more."""
    site = running.site

    def last_logins() -> list[str]:
        return site.run("mariadb -N modoboa -e 'SELECT last_login FROM core_user'").split("\n")

    old = running.receive("alice", "carol")
    running.reads("alice", old)
    assert [when == "NULL" for when in last_logins()[:2]] == [False, True]
    site.run("mariadb modoboa -e 'UPDATE core_user SET last_login = NULL'")
    running.install()
    site.enroll("alice")
    for name in ("alice", "carol"):
        running.reads(name, running.receive(name))
    assert last_logins()[:2] == ["NULL", "NULL"]
