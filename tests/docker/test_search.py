# SPDX-License-Identifier: MIT
"""docs/index-privacy.md and docs/search.md on running servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.native import LOOP_DEVICES
from tests.docker.page import commands
from tests.docker.site import MAIL, Site
from tests.docker.test_mail import a_mail, deliver, fresh_word

INDEX = "/var/lib/mailseal/index/alice@example.org"
_FILES = "/etc/fstab /etc/mailseal/mailseal.yaml /etc/dovecot/conf.d/99-mailseal.conf"
_FULL_TEXT = r"\( -name 'xapian*' -o -name 'fts-flatcurve' \)"


def _steps(site: Site, page: str, *steps: str) -> str:
    return commands("do", site.version, steps, page)


@pytest.fixture
def searching(site: Site) -> Iterator[Site]:
    """A site with both pages done; afterwards it is as before.

    Debian 13's package turns full-text search on for everybody, so there are indexes already.
    """
    old = f"$(find {MAIL}/alice {_FULL_TEXT} -prune)"
    words = f"grep -rali tangerine /dev/null {old} || true"
    assert site.run(words) == "", "the indexer has no keys of enrolled users"
    site.run(f"find {MAIL} {_FULL_TEXT} -prune -exec rm -r {{}} +")
    site.run(f"{LOOP_DEVICES}; mkdir /root/before; cp -a {_FILES} /root/before")
    try:
        site.run(_steps(site, "index-privacy.md", "volume"))
        # /proc/sys cannot be changed in a container.
        site.run(_steps(site, "index-privacy.md", "index").replace("sysctl --system\n", ""))
        if site.version == "2.3":
            site.run(_steps(site, "index-privacy.md", "dovecot-index"))
        site.run(_steps(site, "search.md", "search-dovecot", "search"))
        yield site
    finally:
        back = "".join(
            f"cp -a /root/before/{path.rpartition('/')[2]} {path}\n" for path in _FILES.split()
        )
        site.run(
            f"{back}rm -r /root/before\nmailseal lock --all\n"
            "systemctl restart mailseal-agent dovecot\nsystemctl daemon-reload\n"
            "umount /var/lib/mailseal/index\nrm /var/lib/mailseal-index.img\n"
            "rmdir /var/lib/mailseal/index"
        )


def test_a_search_in_sealed_mail(searching: Site) -> None:
    site, word = searching, fresh_word()
    deliver(site, "alice", a_mail(word))
    with site.login("alice") as imap:
        assert imap.select()
        site.wait(lambda: site.run(f"find {INDEX} {_FULL_TEXT} || true"), "the mail is indexed")
        (found,) = [
            line
            for line in imap.command(b'SEARCH BODY "%s"' % word.encode())
            if line.startswith(b"* SEARCH")
        ]
        assert len(found.split()) == 3, found
        status = site.run("mailseal status alice@example.org")
        assert f"index: encrypted and open, {INDEX}" in status, status
    assert site.run(f"find {MAIL} {_FULL_TEXT}") == "", "no index in clear"
    site.run("mailseal lock alice@example.org")
    assert site.status(f"touch {INDEX}/x") != 0, "the folder is locked"
    assert "index: encrypted and locked" in site.run("mailseal status alice@example.org")
