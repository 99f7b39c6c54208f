# SPDX-License-Identifier: MIT
"""From Debian 12 to 13: mail that was sealed with Dovecot 2.3 is read with 2.4, unchanged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.site import MAIL, Site
from tests.docker.test_mail import a_mail, deliver, fresh_word, with_word

# Digest and name; Dovecot may change the folder (new or cur) and the flags after the colon.
_LISTING = (
    f"cd {MAIL}/bob && find . -type f -name '*,S=*' -exec sha256sum {{}} +"
    " | sed 's,  .*/,  ,; s,:2.*,,' | sort"
)


def copy(source: Site, target: Site, folder: str) -> None:
    """Copy a folder with numeric owners and times from one host to the other."""
    taken = subprocess.run(
        ["docker", "exec", source.container, "tar", "-C", "/", "-c", "--numeric-owner", folder],
        capture_output=True,
        check=True,
    ).stdout
    target.run("tar -C / -x --numeric-owner", stdin=taken)


@pytest.fixture
def moved(sites: dict[str, Site]) -> Iterator[tuple[Site, Site, str]]:
    """Move bob's mail and keyring from 2.3 to 2.4.  Returns a word in his last mail."""
    old, new = sites["2.3"], sites["2.4"]
    word = fresh_word()
    deliver(old, "bob", a_mail(word))
    with old.login("bob") as imap:
        imap.append("Sent", a_mail(word))
        imap.select()
        imap.command(rb"STORE 1 +FLAGS (\Flagged)")
    new.run(
        f"systemctl stop mailseal-agent; install -d -o vmail -g vmail {MAIL} {MAIL}/bob; "
        f"mv /var/lib/mailseal /var/lib/mailseal.kept; mv {MAIL}/bob {MAIL}/bob.kept"
    )
    copy(old, new, f"{MAIL}/bob".lstrip("/"))
    copy(old, new, "var/lib/mailseal")
    # The system user may have another uid there.
    new.run(
        "chown -R mailseal: /var/lib/mailseal; chown root: /var/lib/mailseal; "
        "systemctl start mailseal-agent"
    )
    yield old, new, word
    new.run(
        "systemctl stop mailseal-agent; rm -r /var/lib/mailseal; "
        f"mv /var/lib/mailseal.kept /var/lib/mailseal; rm -r {MAIL}/bob; "
        f"mv {MAIL}/bob.kept {MAIL}/bob; "
        "systemctl start mailseal-agent"
    )


def test_mail_sealed_under_2_3_is_read_under_2_4(moved: tuple[Site, Site, str]) -> None:
    old, new, word = moved
    files = old.run(_LISTING)
    assert word not in files and files
    with old.login("bob") as imap:
        before = {folder: imap.bodies(folder) for folder in ("INBOX", "Sent")}
        imap.select()
        uids = imap.command(b"FETCH 1:* (UID FLAGS RFC822.SIZE)")[:-1]
    with new.login("bob") as imap:
        assert {folder: imap.bodies(folder) for folder in ("INBOX", "Sent")} == before
        imap.select()
        assert imap.command(b"FETCH 1:* (UID FLAGS RFC822.SIZE)")[:-1] == uids
    # No byte was changed.
    assert new.run(_LISTING) == files
    after = fresh_word()
    deliver(new, "bob", a_mail(after))
    with new.login("bob") as imap:
        bodies = imap.bodies()
    with_word(bodies, after)
    with_word(bodies, word)
    assert new.files_with(f"-e {word} -e {after}", MAIL) == []
