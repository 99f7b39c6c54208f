# SPDX-License-Identifier: MIT
"""The commands of docs/several-hosts.md on a whole system: into PostgreSQL, and back.

`make soak-hosts` runs it.
"""

from __future__ import annotations

from tests.docker.page import commands
from tests.docker.site import Site
from tests.docker.test_mail import MAGIC, a_mail, deliver, fresh_word, with_word

PAGE = "several-hosts.md"


def check(site: Site) -> None:
    """Mail for both kinds of users, and a login."""
    word = fresh_word()
    mail = a_mail(word)
    deliver(site, "alice", mail)
    assert site.read(site.stored("alice")[-1]).startswith(MAGIC)
    deliver(site, "carol", mail)
    assert word.encode() in site.read(site.stored("carol")[-1])
    with site.login("alice") as session:
        assert with_word(session.bodies(), word).endswith(mail)


def test_into_a_database_and_back(site: Site) -> None:
    site.run("apt-get update -q")  # the images have no lists of packages
    site.run(commands("do", site.version, ["database", "move"], PAGE))
    try:
        check(site)
        name = site.run("hostname").strip()
        assert site.run("mailseal hosts").startswith(f"{name}: ")
        site.run("systemctl restart mailseal-replica mailseal-agent")
        check(site)
        assert site.run("systemctl is-active mailseal-replica mailseal-agent") == "active\n" * 2
        # The database is down: mail for an enrolled user is sealed, mail for the other is deferred.
        site.run("systemctl stop postgresql")
        deliver(site, "alice", a_mail(fresh_word()))
        site.run("sleep 32")
        before = len(site.stored("carol"))
        site.run("printf 'Subject: waits\\n\\nx\\n' | sendmail carol@example.org")
        site.wait(lambda: "the replica of the public keys is not current" in site.log(), "waits")
        site.run("systemctl start postgresql")
        site.wait(lambda: "the copy is current again" in site.log(), "current again")
        site.run("postqueue -f")
        site.wait(lambda: len(site.stored("carol")) == before + 1, "carol has the mail")
        check(site)
    finally:
        site.run(commands("undo", site.version, ["move"], PAGE))
    check(site)
