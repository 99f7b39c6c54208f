# SPDX-License-Identifier: MIT
"""docs/leaving.md on running servers: all mail is in clear, and nothing changes for clients."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docker.page import commands
from tests.docker.site import MAIL, Site, password_of
from tests.docker.test_install import assert_as_before
from tests.docker.test_mail import a_mail, deliver, fresh_word
from tests.lab.imap import Imap

PAGE = "leaving.md"
FOLDERS = ("INBOX", "Sent", "Work")
SEALED = rf"find {MAIL} -type f -path '*/[cn][ue][rw]/*' -exec grep -lP '\ACRYPTED\x03\x07' {{}} +"


@pytest.fixture
def left(site: Site) -> Iterator[Site]:
    """A site with many kinds of mail; afterwards mailseal is installed again, with its users."""
    for name in ("alice", "bob", "dave"):
        site.enroll(name)
        deliver(site, name, a_mail(fresh_word()))
    for name in ("alice", "bob"):
        _live(site, name)
    # Files of Dovecot from before mailseal.
    site.run(f"echo old > {MAIL}/alice/Maildir/.Work/dovecot.index.cache")
    yield site
    site.run(
        f"if cd /var/mail/still-sealed; then cp -a . {MAIL}/..; fi; "
        "rm -rf /var/mail/still-sealed /root/mailseal-keyrings.backup"
    )
    site.install()
    for name in ("alice", "bob", "dave"):
        site.enroll(name)


def _live(site: Site, name: str) -> None:
    with site.login(name) as imap:
        # Before anything is saved.  Then Debian's Dovecot 2.4 starts its indexer, which may open a
        # folder that is only half made, and make the rest: CREATE says ALREADYEXISTS, also without
        # mailseal, twice in 1,000 times.
        listed = b"".join(imap.command(b'LIST "" "*"'))
        for folder in FOLDERS[1:]:
            if folder.encode() not in listed:
                imap.command(b"CREATE " + folder.encode())
        for folder in FOLDERS[1:]:
            imap.append(folder, a_mail(fresh_word()))
        imap.append("Work", a_mail(fresh_word()) + b"0123456789\r\n" * 20_000)
        imap.select()
        imap.command(rb"STORE 1 +FLAGS (\Seen \Flagged harvest)")
        imap.command(b"COPY 1 Work")
        imap.command(b"COPY 1 INBOX")
    deliver(site, name, a_mail(fresh_word()))


def _record(site: Site, name: str) -> dict[str, list[bytes]]:
    """All data that a client stores about the mailbox, with the mails."""
    with site.login(name) as imap:
        for folder in FOLDERS:  # a mail is \Recent only once
            imap.select(folder)
        return {folder: _folder(imap, folder) for folder in FOLDERS}


def _folder(imap: Imap, folder: str) -> list[bytes]:
    opened = imap.command(b"SELECT " + folder.encode())
    kept = [line for line in opened if re.search(rb"EXISTS|UIDVALIDITY|UIDNEXT|^\* FLAGS", line)]
    what = b"(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])"
    return kept + imap.command(b"FETCH 1:* " + what)[:-1]


def test_leaving(left: Site) -> None:
    site = left
    before = {name: _record(site, name) for name in ("alice", "bob")}
    assert site.run(SEALED) != ""
    site.run(commands("do", site.version, ["keep-keyrings"], PAGE))
    for name in ("alice", "bob"):
        script = commands("do", site.version, ["one-user"], PAGE).replace("alice", name)
        site.run(script, stdin=password_of(name).encode() + b"\n")
        assert _record(site, name) == before[name]
    # not for dave: the output has his name and the number of his mails
    said = site.run(commands("do", site.version, ["who-is-left"], PAGE))
    assert re.search(r"dave@example\.org: ([1-9]\d*) mails, \1 of them sealed", said), said
    assert "alice" not in said
    kept = len(site.run(SEALED).splitlines())
    site.run(commands("do", site.version, ["set-aside"], PAGE))
    assert len(site.run(SEALED.replace(MAIL, "/var/mail/still-sealed")).splitlines()) == kept > 0
    site.run(commands("undo", site.version))
    site.run(commands("do", site.version, ["caches"], PAGE))
    assert site.run(f"find {MAIL} -name dovecot.index.cache") == ""
    assert site.run(f"{SEALED} || true") == ""
    for name in ("alice", "bob"):
        assert _record(site, name) == before[name]
    with site.login("dave") as imap:
        assert imap.bodies() == []
    assert_as_before(site)
