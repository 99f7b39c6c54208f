# SPDX-License-Identifier: MIT
"""dovecot-conf does not replace a site's mail location, formats, listeners and owners."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.search import search_folder
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
BOXED = "boxed@example.org"
MAIL = b"Subject: tangerine\r\nFrom: eve@example.net\r\nMessage-ID: <1@x>\r\n\r\nin the cellar\r\n"

# Dovecot's listeners with settings of the site, and sdbox for one user of each kind.
_SITE = """
service lmtp {
  unix_listener lmtp {
    mode = 0600
    user = nobody
  }
}
service auth {
  unix_listener auth-userdb {
    mode = 0600
    user = nobody
  }
}
"""
_SDBOX = {
    "2.3": "userdb_mail=sdbox:~/sdbox:INDEXCACHE=QUICK/cache/%u",
    "2.4": "userdb_mail_driver=sdbox userdb_mail_path=~/sdbox",
}


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    """Alice and boxed are enrolled, plain is not; boxed and plain have sdbox."""
    made = Lab(
        dict.fromkeys((ALICE, BOXED), "password"),
        auth="behind-passwd-file",
        plain_users={PLAIN: "password"},
        dovecot_extra=_SITE,
    )
    fields = _SDBOX[series(installed_version())].replace("QUICK", made.place.quick)
    made.dovecot.write_users(
        dict.fromkeys((ALICE, BOXED, PLAIN), "password"), {PLAIN: fields, BOXED: fields}
    )
    with made:
        yield made


@pytest.mark.parametrize("user", [PLAIN, BOXED])
def test_sdbox_is_delivered_by_dovecot(site: Lab, user: str) -> None:
    """For users of both kinds; a subject is on the disk only for those who are not enrolled."""
    assert send_lmtp(site.lmtp, SENDER, [user], MAIL)[0][0] == 250
    with Imap(site.imap, user, "password") as imap:
        assert [body.endswith(MAIL) for body in imap.bodies()] == [True]
    hits = search_folder(site.home(user), ["tangerine"])
    assert bool(hits) == (user == PLAIN)
    log = site.dovecot.log_text()
    assert "Panic" not in log
    assert "Error: " not in log


def test_the_listeners_of_the_site_are_not_changed(site: Lab) -> None:
    for name in ("lmtp", "auth-userdb"):
        path = os.path.join(site.dovecot.wanted.base_dir, name)
        found = os.stat(path)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 65534), name


def test_the_mail_location_of_the_site_is_not_changed(site: Lab) -> None:
    """Only the location of the index cache is added to it."""
    if series(installed_version()) == "2.4":
        assert site.dovecot.settings("mail_path") == "~/Maildir"
        assert site.dovecot.settings("mail_index_path") == ""
        return
    cache = site.place.quick_path("cache")
    for protocol in ("imap", "lmtp", "lda"):
        asked = ("-f", f"protocol={protocol}")
        assert site.dovecot.settings("mail_location", *asked) == (
            f"maildir:~/Maildir:INDEXCACHE={cache}/%u%{{userdb:mailseal_index}}"
        )


def test_a_check_before_a_restart_looks_at_no_socket(site: Lab) -> None:
    """Otherwise a socket with a wrong owner would prevent the restart that corrects it."""
    os.chmod(site.dovecot.lmtp_socket, 0o600)
    try:
        assert b"has no access to" in site.mailseal("check-config").stderr
        assert b"has no access to" not in site.mailseal("check-config", "--no-sockets").stderr
    finally:
        os.chmod(site.dovecot.lmtp_socket, 0o666)
