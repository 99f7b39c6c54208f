# SPDX-License-Identifier: MIT
"""mailseal finds the locks that Dovecot uses, or knows that there is none for all processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mailseal import config
from mailseal.admin.mail_place import Place, Places
from mailseal.mailbox.folders import Folder, walk
from tests.e2e.existing import run
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID

USER, SECRET = "alice@example.org", "password"
LANGUAGE = series(installed_version())
_INBOX = "namespace inbox {\n  separator = /\n}\n"
ELSEWHERE = {
    "2.3": "mail_location = maildir:~/Maildir:INDEX=~/idx/main:CONTROL=~/ctl/main\n"
    "namespace archive {\n  prefix = Archive/\n  separator = /\n"
    "  location = maildir:~/archive:INDEX=~/idx/archive:CONTROL=~/ctl/archive\n}\n" + _INBOX,
    "2.4": "namespace archive {\n  prefix = Archive/\n  separator = /\n  mail_path = ~/archive\n"
    "  mail_index_path = ~/idx/archive\n  mail_control_path = ~/ctl/archive\n}\n"
    "namespace inbox {\n  separator = /\n"
    "  mail_index_path = ~/idx/main\n  mail_control_path = ~/ctl/main\n}\n",
}


def _main(index: str, more: str = "") -> str:
    if LANGUAGE == "2.3":
        return f"mail_location = maildir:~/Maildir:INDEX={index}\n{more}"
    return f"mail_index_path = {index}\n{more}"


def _shared(index_23: str, index_24: str) -> str:
    where = {
        "2.3": f"location = maildir:%%h/Maildir:{index_23}",
        "2.4": f"mail_path = %{{owner_home}}/Maildir\n  {index_24}",
    }[LANGUAGE]
    prefix = {"2.3": "shared/%%u/", "2.4": "shared/$user/"}[LANGUAGE]
    start = "namespace shared {\n  type = shared\n  separator = /\n"
    return f"{start}  prefix = {prefix}\n  {where}\n}}\n{_INBOX}"


WITHOUT_LOCK = {
    "in memory": _main("MEMORY"),
    "unknown": _main("/idx/%2Nu" if LANGUAGE == "2.3" else "/idx/%{user | sha1}"),
    "dotlock": "lock_method = dotlock\n",
    "readers have an own one": _shared(
        "INDEX=~/shared/%%u", "mail_index_path = ~/of/%{owner_user}"
    ),
    "readers have another one": _shared("INDEX=/idx/%%u", "mail_index_path = /idx/%{owner_user}"),
    "readers have none": _shared("INDEX=MEMORY", "mail_index_path = MEMORY"),
}
WITH_LOCK = {
    "one for all": "",
    "readers have own flags": _shared("INDEXPVT=~/s/%%u", "mail_index_private_path = ~/s"),
    "readers use the owner's": _main("/idx/%u" if LANGUAGE == "2.3" else "/idx/%{user}")
    + _shared("INDEX=/idx/%%u", "mail_index_path = /idx/%{owner_user}"),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab({USER: SECRET}, dovecot_extra=ELSEWHERE[LANGUAGE]) as made:
        yield made


def place_of(lab: Lab) -> Place:
    return Places(config.load(lab.config_path)).of(USER)


def test_the_files_are_those_that_dovecot_uses(lab: Lab) -> None:
    with Imap(lab.imap, USER, SECRET) as imap:
        for made in (b"Work", b"Archive/2023"):
            imap.command(b'CREATE "%s"' % made)
        for name in ("INBOX", "Work", "Archive/2023"):
            imap.append(name, HEADERS)
            imap.select(name)
    place = place_of(lab)
    home = lab.home(USER)
    assert set(place.maildirs) == {f"{home}/Maildir", f"{home}/archive"}
    seen: list[str] = []
    for root in place.maildirs:
        for folder in walk(root):
            assert isinstance(folder, Folder)
            if not list(folder.mails()):
                continue
            locks = place.elsewhere(root).locks(folder, root)
            assert len(locks.index_logs) == 1
            assert all(map(os.path.isfile, locks.index_logs)), locks
            assert os.path.isfile(locks.uid_list), locks
            seen.append(folder.name)
    assert sorted(seen) == ["2023", "INBOX", "Work"]
    # Old caches there contain subjects, too.
    caches = [f"{home}/idx/{folder}/dovecot.index.cache" for folder in ("archive/.2023", "main")]
    for cache in caches:
        with open(cache, "wb") as stream:
            stream.write(b"subject")
        os.chown(cache, MAIL_UID, MAIL_UID)
    run(lab, "seal", USER)
    assert [cache for cache in caches if os.path.exists(cache)] == []


@pytest.mark.parametrize("case", WITHOUT_LOCK)
def test_an_index_that_has_no_lock_for_all_is_not_locked(lab: Lab, case: str) -> None:
    """Although the Maildir has an index, for example an old one."""
    lab.dovecot.write_config(WITHOUT_LOCK[case])
    assert place_of(lab).elsewhere(lab.maildir(USER)).indexes == ()


@pytest.mark.parametrize("case", WITH_LOCK)
def test_an_index_that_all_use_is_locked(lab: Lab, case: str) -> None:
    lab.dovecot.write_config(WITH_LOCK[case])
    index = f"/idx/{USER}" if "/idx" in WITH_LOCK[case] else lab.maildir(USER)
    assert place_of(lab).elsewhere(lab.maildir(USER)).indexes == (index,)
