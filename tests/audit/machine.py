# SPDX-License-Identifier: MIT
"""One audit: two disks, a lab on them, the day, the crash, and the search of everything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.audit import system_users
from tests.audit.day import ALICE, CONTROL, EARLIER, PASSWORD, SIEVE, USERS, Day
from tests.audit.disk import Disk
from tests.audit.result import Result, place_in_queue, place_of
from tests.audit.words import Hit, Owner, find, owners
from tests.lab import Lab, full_text
from tests.lab.dovecot import installed_version, series
from tests.lab.place import LabError

_SIEVE = {
    "2.3": """
protocol lmtp {
  mail_plugins = $mail_plugins sieve
}
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
""",
    "2.4": """
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
sieve_script personal {
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}
""",
}
# Replies of vacation go to another domain.
_POSTFIX = {
    "default_transport": "discard:",
    "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination",
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """The differences of an audit's lab from the documented configuration.

    encrypted_queue  whether queue and logs are in encrypted folders
    index            whether indexes are in encrypted folders on the disk; else as in install.md
    full_text        whether there is a full-text index, if its package is installed
    system_users     whether each user has an own uid, as in docs/system-users.md; without `index`
    dovecot          text in Dovecot's language, last; @DISK@ and @TMPFS@ are folders
    config           mailseal options
    patches          changes of mailseal's files: path, old text, new text
    day              for a shorter day
    """

    encrypted_queue: bool = True
    index: bool = True
    full_text: bool = True
    system_users: bool = False
    dovecot: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    patches: Sequence[tuple[str, str, str]] = ()
    day: Callable[[Lab, list[Disk], Mapping[str, Owner]], Day] = Day


def with_system_users(dovecot: str = "") -> Setup:
    """Without index folders and full-text search, which need one owner of all mail."""
    day = system_users.SystemDay
    return Setup(index=False, system_users=True, dovecot=dovecot, day=day)


def audit(setup: Setup, say: Callable[[str], None]) -> Result:
    """Run the audit.  Raises LabError."""
    whose = {owner.name: owner for owner in owners(USERS)}
    result = Result(installed_version(), setup.encrypted_queue)
    with _disks(setup.encrypted_queue) as (folder, store, queue):
        lab = _lab(folder, setup)
        disks = [store, queue]
        try:
            say("the servers start; the day begins")
            lab.start()
            setup.day(lab, disks, whose).live()
        finally:
            lab.kill()
            say("all is dead; searching logs and memory")
            result.full_text = _has_full_text(folder)
            _search_files(result, lab, list(whose.values()))
            lab.stop()
        queue.unmount()  # first, because it is mounted inside the other one
        store.unmount()
        for disk, place in ((store, place_of), (queue, place_in_queue)):
            say(f"searching {disk.image}")
            for hit, path in disk.words(list(whose.values())):
                result.add([(hit, path)], place(path))
            result.searched += os.stat(disk.image).st_blocks * 512
    return result


@contextlib.contextmanager
def _disks(encrypted_queue: bool) -> Iterator[tuple[str, Disk, Disk]]:
    """The lab's folder on the disk of the mail store; queue and logs are on another disk."""
    work = tempfile.mkdtemp(prefix="mailseal-audit-", dir="/tmp")
    os.chmod(work, 0o711)
    made: list[Disk] = []
    try:
        for name, megabytes in (("store", 256), ("queue", 256)):
            made.append(Disk.make(f"{work}/{name}.img", f"{work}/{name}", megabytes))
        store, queue = made
        folder = os.path.join(store.folder, "lab")
        os.mkdir(folder, 0o711)
        with open(os.path.join(folder, "lab.json"), "w", encoding="ascii") as stream:
            json.dump({"users": {}}, stream)
        for part in ("postfix/queue", "log"):
            queue.folder_for(os.path.join(folder, part), encrypted=encrypted_queue)
        yield folder, store, queue
    finally:
        for disk in made[::-1]:
            disk.unmount()
        shutil.rmtree(work)


def _lab(folder: str, setup: Setup) -> Lab:
    accounts = setup.system_users
    enrolled = (system_users.name_of(user) if accounts else user for user in (ALICE, SIEVE))
    lab = Lab(
        dict.fromkeys(enrolled, PASSWORD),
        auth=None if accounts else "behind-passwd-file",
        plain_users=dict.fromkeys((EARLIER, CONTROL), PASSWORD),
        postfix_extra={**_POSTFIX, **(system_users.POSTFIX if accounts else {})},
        postfix_page="mailbox-transport" if accounts else "virtual-transport",
        directory=folder,
    )
    options = {"index.folder": os.path.join(folder, "index")} if setup.index else {}
    searches = setup.index and setup.full_text and not full_text.missing(lab.dovecot.version)
    if searches:
        options |= full_text.options(lab.dovecot)
    lab.write_config({**options, **setup.config})
    on_disk = os.path.join(folder, "tmp")
    os.mkdir(on_disk)
    os.chmod(on_disk, 0o1777)
    for path, old, new in setup.patches:
        _patch(lab.place.path("code", path), old, new)
    text = system_users.prepare(lab) if accounts else ""
    text += _SIEVE[series(lab.dovecot.version)] + f"submission_host = 127.0.0.1:{lab.smtp[1]}\n"
    if searches:
        text += full_text.configuration(lab.dovecot)
    lab.dovecot.write_config(
        text + setup.dovecot.replace("@DISK@", on_disk).replace("@TMPFS@", lab.place.quick)
    )
    return lab


def _has_full_text(folder: str) -> bool:
    return any("postlist.glass" in names for _, _, names in os.walk(folder))


def _patch(path: str, old: str, new: str) -> None:
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    if old not in text:
        raise LabError(f"{path} has no {old!r} to replace")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text.replace(old, new))


def _search_files(result: Result, lab: Lab, whose: Sequence[Owner]) -> None:
    """The text of the logs, even if they are encrypted on the disk, and the tmpfs."""
    logs = {"dovecot": "log of Dovecot", "postfix": "log of Postfix"}
    for path in _files(lab.place.path("log")):
        program = os.path.basename(path).partition("-")[0].partition(".")[0]
        result.add(_in_file(path, whose), logs.get(program, "log of mailseal"))
    for path in _files(lab.place.quick):
        result.add(_in_file(path, whose), "memory (tmpfs)")


def _files(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def _in_file(path: str, whose: Sequence[Owner]) -> list[tuple[Hit, str]]:
    with open(path, "rb") as stream:
        return [(hit, path) for hit in find(stream.read(), whose)]
