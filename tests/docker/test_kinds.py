# SPDX-License-Identifier: MIT
"""Other kinds of servers: users in SQL with other names and paths, and system users.

Each is set up with the commands on its page, one after the other on the same host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docker.conftest import SUITES
from tests.docker.page import STEPS, SYSTEM_USERS, commands
from tests.docker.site import CommandFailed, Site
from tests.docker.test_mail import MAGIC, SENDER, a_mail, fresh_word, with_word
from tests.lab.imap import Imap, Refused
from tests.lab.smtp import send

_UNTIL_DOVECOT = STEPS[: STEPS.index("dovecot")]


@pytest.fixture(scope="module", params=list(SUITES))
def host(request: pytest.FixtureRequest, hosts: dict[str, Site]) -> Site:
    """A mail server without mailseal, of each version."""
    return hosts["kinds" + request.param.replace(".", "")]


def page_of_sql(what: str, version: str, *steps: str) -> str:
    """The commands of docs/install.md, adapted to this site as a postmaster would."""
    text = commands(what, version, steps)
    for shown, here in (
        ("MAIL_USER=vmail MAIL_GROUP=vmail", "MAIL_USER=mailowner MAIL_GROUP=mailgrp"),
        ("  user: vmail\n", "  user: mailowner\n  maildir: /srv/mail/%d/%n/box\n"),
        ("/var/mail/vhosts", "/srv/mail"),
    ):
        text = text.replace(shown, here)
    return text


@pytest.fixture(scope="class")
def sql(host: Site) -> Iterator[Site]:
    """Users in SQLite; mailseal is installed up to step 4."""
    host.run("bash -eu /usr/local/share/stack/sql")
    host.run(page_of_sql("do", host.version, *_UNTIL_DOVECOT))
    yield host
    host.run(page_of_sql("undo", host.version, *STEPS))


def arrives(site: Site, address: str) -> str:
    """Send a mail with Postfix and wait for it; returns a word in it."""
    word = fresh_word()
    send(site.smtp, SENDER, [address], a_mail(word))
    site.wait_delivered()
    return word


def sealed_by_the_owner(sql: Site) -> None:
    """Enrolls alice of stack/sql: her mail is sealed by the owner of the store, and read."""
    sql.enroll("alice")
    word = arrives(sql, "alice@example.org")
    (path,) = sql.run("find /srv/mail/example.org/alice/box/new -type f").splitlines()
    assert sql.read(path).startswith(MAGIC)
    assert sql.run(f"stat -c '%U %G' '{path}'").split() == ["mailowner", "mailgrp"]
    with sql.login("alice") as imap:
        with_word(imap.bodies(), word)
    assert not on_disk(sql, word, "/srv/mail /var/mail")


def on_disk(site: Site, word: str, folder: str) -> bool:
    return site.files_with(word, folder) != []


class TestSql:
    """In order: step 5 wrong, step 5 right, then step 6."""

    def test_an_old_passdb_before_mailseal_prevents_the_restart(self, sql: Site) -> None:
        """The commands for another kind of site: an error, and Dovecot is not restarted."""
        text = page_of_sql("do", sql.version, "dovecot-sql")
        if sql.version == "2.3":
            text = text.replace("auth-sql", "auth-passwdfile")
        else:
            text = text.replace("auth-behind-sql", "auth-behind-passwd-file")
        before = sql.run("systemctl show -p MainPID --value dovecot")
        with pytest.raises(CommandFailed, match="sql comes before mailseal"):
            sql.run(text)
        assert sql.run("systemctl show -p MainPID --value dovecot") == before
        with sql.login("alice") as imap:
            imap.select()
        sql.run(
            "cd /etc/dovecot/conf.d; rm 99-mailseal.conf; test ! -e 10-auth.conf.before-mailseal"
            " || mv 10-auth.conf.before-mailseal 10-auth.conf"
        )

    def test_mail_flows_between_step_5_and_step_6(self, sql: Site) -> None:
        before = sql.run("stat -c '%a %U' /run/dovecot/lmtp /run/dovecot/auth-userdb")
        sql.run(page_of_sql("do", sql.version, "dovecot-sql"))
        sql.run("mailseal check-config")
        word = arrives(sql, "carol@example.org")
        assert on_disk(sql, word, "/srv/mail/example.org/carol/box/new")
        assert sql.run("stat -c '%a %U' /run/dovecot/lmtp /run/dovecot/auth-userdb") == before

    def test_sealed_by_the_owner_of_the_store(self, sql: Site) -> None:
        sql.run(page_of_sql("do", sql.version, "postfix", "old-caches"))
        sealed_by_the_owner(sql)

    def test_what_a_login_saves_is_sealed(self, sql: Site) -> None:
        word = fresh_word()
        with sql.login("alice") as imap:
            imap.append("Sent", a_mail(word))
            with_word(imap.bodies("Sent"), word)
        assert not on_disk(sql, word, "/srv/mail /var/mail")

    def test_nothing_changes_for_users_who_are_not_enrolled(self, sql: Site) -> None:
        word = arrives(sql, "carol@example.org")
        assert on_disk(sql, word, "/srv/mail/example.org/carol/box")
        with sql.login("carol") as imap:
            with_word(imap.bodies(), word)
            imap.append("Sent", a_mail(word))
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            sql.login("carol", "wrong")


def page_of_users(what: str, version: str, *steps: str) -> str:
    return commands(what, version, steps, "system-users.md")


@pytest.fixture(scope="class")
def users(host: Site) -> Iterator[Site]:
    """Alice, carol and mallory have accounts; docs/system-users.md is done except Postfix."""
    host.run(f"bash -eu /usr/local/share/stack/system-users {SUITES[host.version]}")
    before = SYSTEM_USERS.index("postfix")
    host.run(page_of_users("do", host.version, *SYSTEM_USERS[:before]))
    yield host
    host.run(page_of_users("undo", host.version, *SYSTEM_USERS))
    assert host.status("test -e /etc/dovecot/mailseal-cache.conf -o -e /run/mailseal") != 0


def as_mallory(site: Site, command: str) -> int:
    """Exit status of a shell command that mallory runs."""
    return site.status(f"runuser -u mallory -- sh -c '{command}'")


class TestSystemUsers:
    """In order, as a postmaster does it."""

    def test_mail_for_dovecot_lda_waits_for_the_last_step(self, users: Site) -> None:
        """Run by a user, dovecot-lda does no userdb lookup, so it cannot save; no mail is lost."""
        word = fresh_word()
        send(users.smtp, SENDER, ["carol@mail.example.org"], a_mail(word))
        deferred = re.compile(r"to=<carol@mail\.example\.org>.*status=deferred")
        users.wait(lambda: deferred.search(users.log()), "the mail is deferred")
        users.run(page_of_users("do", users.version, "postfix"))
        users.wait_flushed()
        assert on_disk(users, word, "/home/carol/Maildir/new")

    def test_mail_is_sealed_under_the_name_of_the_account(self, users: Site) -> None:
        users.run("mailseal check-config")
        users.run("mailseal enroll alice --stdin", stdin=b"alice's password\n")
        for address in ("alice@mail.example.org", "Alice@mail.example.org", "alice@localhost"):
            word = arrives(users, address)
            assert not on_disk(users, word, "/home /var/mail"), address
            with Imap(users.imap, "alice", "alice's password") as imap:
                with_word(imap.bodies(), word)
        newest = users.run("ls -t /home/alice/Maildir/*/*,S=*").splitlines()[0]
        assert users.read(newest).startswith(MAGIC)
        assert users.run(f"stat -c '%U %a' '{newest}'").split() == ["alice", "600"]

    def test_what_a_login_saves_is_sealed(self, users: Site) -> None:
        word = fresh_word()
        with Imap(users.imap, "alice", "alice's password") as imap:
            imap.append("Sent", a_mail(word))
            with_word(imap.bodies("Sent"), word)
        assert not on_disk(users, word, "/home /var/mail")

    def test_nothing_changes_for_users_who_are_not_enrolled(self, users: Site) -> None:
        word = arrives(users, "carol@mail.example.org")
        assert on_disk(users, word, "/home/carol/Maildir/new")
        with Imap(users.imap, "carol", "carol's password") as imap:
            with_word(imap.bodies(), word)
            imap.append("Sent", a_mail(word))

    def test_unknown_users_bounce(self, users: Site) -> None:
        send(users.smtp, SENDER, ["alice@mail.example.org"], a_mail(fresh_word()))
        with pytest.raises(Exception, match="550"):
            send(users.smtp, SENDER, ["nobody-here@mail.example.org"], a_mail("x"))
        users.wait_delivered()

    def test_the_cache_is_in_memory_with_a_folder_for_each_user(self, users: Site) -> None:
        """It contains the subject; carol has one, and alice too."""
        for name in ("alice", "carol"):
            with Imap(users.imap, name, f"{name}'s password") as imap:
                imap.select()
                imap.command(b"FETCH 1:* (ENVELOPE)")
            folder = users.run(f"find /run/mailseal/cache -maxdepth 2 -name {name}").strip()
            assert users.run(f"stat -c '%U %a' {folder}").split() == [name, "700"]
            assert users.run(f"stat -f -c %T {folder}").strip() == "tmpfs"
            assert on_disk(users, "tangerine", folder)

    def test_a_local_user_finds_no_cache(self, users: Site) -> None:
        """Not in a listing, a configuration, or the process of her own session."""
        secret = users.run("ls /run/mailseal/cache").strip()
        assert len(secret) == 32
        assert as_mallory(users, "ls /run/mailseal/cache") != 0
        assert as_mallory(users, "mkdir /run/mailseal/cache/mallory") != 0
        assert as_mallory(users, "ls /run/mailseal/tmp") != 0
        files = "/etc /run /usr/local /var/lib"
        assert as_mallory(users, f"grep -rqs {secret} {files}") != 0
        assert users.status(f"grep -rqs {secret} /etc") == 0  # shows that the search works
        assert as_mallory(users, f"doveconf 2>&1 | grep -q {secret}") != 0
        assert as_mallory(users, f'find / -path "*{secret}*" 2>&1 | grep -q {secret}') != 0
        with Imap(users.imap, "mallory", "mallory's password") as imap:
            imap.select()
            (pid,) = users.run("pgrep -u mallory imap").split()
            for name in ("maps", "environ"):
                assert as_mallory(users, f"cat /proc/{pid}/{name}") != 0
            assert as_mallory(users, f"ls /proc/{pid}/fd") != 0

    def test_a_user_who_knows_the_folder_cannot_read_others(self, users: Site) -> None:
        secret = users.run("ls /run/mailseal/cache").strip()
        folder = f"/run/mailseal/cache/{secret}"
        assert as_mallory(users, f"ls {folder}") != 0
        for name in ("alice", "carol"):
            assert as_mallory(users, f"ls {folder}/{name}") != 0
            assert as_mallory(users, f"mv {folder}/{name} {folder}/away") != 0
