# SPDX-License-Identifier: MIT
"""A user with a second private namespace turns encryption off: all mail is in clear, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mailseal import config as configuration
from mailseal.admin.conversion import Conversion
from mailseal.admin.mail_place import Places
from mailseal.admin.seal_jobs import Jobs
from mailseal.keys.public import PublicStore
from mailseal.mailbox.forms import Seal
from tests.e2e.busy import Mailbox
from tests.e2e.existing import is_sealed
from tests.e2e.mails import HEADERS
from tests.lab import Lab
from tests.lab.dovecot import installed_version, series
from tests.web.site import PASSWORD, Site, wait
from tests.web.tab import Tab

FOLDERS = ("INBOX", "Archive/2023")
_INBOX = "namespace inbox {\n  separator = /\n}\n"
_PLACES = {
    "2.3": ("location = maildir:~/archive", "location = mdbox:~/other"),
    "2.4": ("mail_path = ~/archive", "mail_driver = mdbox\n  mail_path = ~/other"),
}


def namespaces(*prefixes: str) -> str:
    places = dict(zip(("Archive", "Other"), _PLACES[series(installed_version())], strict=True))
    found = [
        f"namespace {one.lower()} {{\n  prefix = {one}/\n  separator = /\n  {places[one]}\n}}\n"
        for one in prefixes
    ]
    return "".join(found) + _INBOX


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(namespaces("Archive")) as made:
        made.sealer.start(until=[])
        yield made


def archive(lab: Lab, user: str) -> list[str]:
    """The files of the mails in the second namespace."""
    return [
        os.path.join(folder, name)
        for folder, _, names in os.walk(os.path.join(lab.home(user), "archive"))
        if os.path.basename(folder) in ("cur", "new")
        for name in names
    ]


def test_mail_of_both_namespaces_is_sealed_and_in_clear_again(site: Site) -> None:
    user = site.user(mails=0)
    with Mailbox(site.lab, user, PASSWORD, ()).login() as imap:
        imap.command(b'CREATE "Archive/2023"')
        for folder in FOLDERS:
            for number in range(30):
                imap.append(folder, HEADERS + b"%d\r\n" % number)
    box = Mailbox(site.lab, user, PASSWORD, FOLDERS)
    assert len(archive(site.lab, user)) == 30
    site.enroll(user, old_mail=b"1")
    wait(lambda: (site.state(user)["old_mail"] or {}).get("phase") == "done", "it is sealed")
    assert site.state(user)["old_mail"]["done"] == 60
    assert all(map(is_sealed, archive(site.lab, user))) and all(site.sealed(user))
    _never_goes_back(site, user)
    with Mailbox(site.lab, user, PASSWORD, ()).login() as imap:
        imap.append("Archive/2023", HEADERS + b"new\r\n")
    box = Mailbox(site.lab, user, PASSWORD, FOLDERS)
    tab = Tab(site.web_socket)
    tab.sign_in(user)
    tab.act("/turn-off", password=PASSWORD, clear="1")
    wait(lambda: not site.state(user)["enrolled"], "the user has left")
    files = archive(site.lab, user)
    assert len(files) == 31 and not any(map(is_sealed, files)) and not any(site.sealed(user))
    # The sealer records it after the keys are removed.
    wait(lambda: "61 mails are stored in clear" in tab.get().words, "the number is recorded")
    box.require_as_remembered()


def _never_goes_back(site: Site, user: str) -> None:
    """The numbers of the progress, over both Maildirs."""
    config = configuration.load(site.lab.config_path)
    key = PublicStore(config.public_dir).lookup(user)
    assert key is not None
    again = Conversion("sealing").messages(user, Places(config).of(user), Seal(key))
    told = [(message["done"], message["total"]) for message in again if "done" in message]
    assert told == sorted(told) and told[-1] == (60, 60), told


def test_keys_stay_if_another_namespace_may_have_sealed_mail(site: Site) -> None:
    """Only Dovecot can read mdbox; the page says that it does not work now."""
    user = site.user()
    site.enroll(user, old_mail=b"1")
    wait(lambda: all(site.sealed(user)), "it is sealed")
    site.lab.dovecot.stop()
    config = site.lab.dovecot.config
    with open(config, "a", encoding="utf-8") as stream:
        stream.write(namespaces("Other").removesuffix(_INBOX))
    site.lab.dovecot.start()
    site.ok("leave", user=user, password=PASSWORD)
    jobs = Jobs(configuration.load(site.lab.config_path).sealer_dir)
    wait(lambda: "Other/" in getattr(jobs.load(user), "problem", ""), "the sealer has tried")
    tab = Tab(site.web_socket)
    assert "This is not possible at the moment" in tab.sign_in(user).words
    assert site.state(user)["enrolled"] and all(site.sealed(user)) and site.reads(user)
    tab.act("/stay", password=PASSWORD)
    assert "Encryption is on" in tab.get().words and site.reads(user)
