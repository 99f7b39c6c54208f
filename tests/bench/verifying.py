# SPDX-License-Identifier: MIT
"""mailseal verify: mails per second without and with keys, and memory, with two processes.

The mailbox has 20 folders.  Its mails have just been written, so they are read from memory, and
the disk does not matter.  verify runs as the owner of the mail, so they get an owner.
"""

from __future__ import annotations

import os
import resource
import time

from mailseal.admin.file_places import Files
from mailseal.admin.mail_place import Place
from mailseal.admin.verify_mail import Examination
from mailseal.admin.verify_result import Result
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox.examine import Expected
from mailseal.mailbox.maildir import create
from tests.lab.place import MAIL_UID, LabError
from tests.lab.place import Place as LabPlace

FOLDERS = 20
SMALL = 100_000
LARGE = 4_000
LARGE_SIZE = 10_000
JOBS = 2


def run() -> dict[str, dict[str, float]]:
    """Mails per second, CPU time for each mail, memory of the largest process so far."""
    key = PrivateKey.generate()
    expected = Expected(frozenset((key.key_id,)))
    small = _measure(key, expected, SMALL, 100)
    large = _measure(key, Expected(expected.key_ids, (key,)), LARGE, LARGE_SIZE)
    return {"without_keys": small, "with_keys": large}


def _measure(key: PrivateKey, expected: Expected, count: int, size: int) -> dict[str, float]:
    place = LabPlace.make()
    try:
        root = place.path("mail", "Maildir")
        _fill(root, key, count, size)
        result = Result("bench", tags=bool(expected.keys))
        owner = (MAIL_UID, MAIL_UID)
        before, began = os.times(), time.monotonic()
        Examination(result, Place(Files(root), place.path("mail"), owner), expected, JOBS).run([])
        seconds, after = time.monotonic() - began, os.times()
        if result.mails != count or result.counts:
            raise LabError(f"verify saw {result.mails} of {count} mails, found {result.counts}")
        used = sum(after[:4]) - sum(before[:4])
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return {
            "mails_a_second": count / seconds,
            "cpu_ms_a_mail": used / count * 1000,
            "mib_a_process": peak,
        }
    finally:
        place.remove()


def _fill(root: str, key: PrivateKey, count: int, size: int) -> None:
    one = dcrypt.seal(key.public, b"x" * size)
    at = one.index(dcrypt.inspect(one).records[0].wrapped)
    folders = [root, *(f"{root}/.f{number}" for number in range(1, FOLDERS))]
    for folder in folders:
        create(folder)
    for number in range(count):
        folder = folders[number % FOLDERS]
        path = f"{folder}/cur/{number}.M1P1.bench,S={size}:2,S"
        with open(path, "wb") as stream:
            if count > 10_000:
                # Without a key, copies of one sealed mail are enough: sealing takes 0.9 ms.
                stream.write(one[:at] + os.urandom(16) + one[at + 16 :])
            else:
                stream.write(dcrypt.seal(key.public, b"x" * size))
            os.fchown(stream.fileno(), MAIL_UID, MAIL_UID)
    for where, inside, _ in os.walk(root):
        for name in ("", *inside):
            os.chown(os.path.join(where, name), MAIL_UID, MAIL_UID)
