# SPDX-License-Identifier: MIT
"""Sealing existing mail: mailseal seal, Dovecot, and a plain copy.

Dovecot: doveadm copy to a folder of a mailbox with mail_crypt.  Plain copy: cp and sync of the same
files.  Mails have sizes of 1 KB to 1 MB, most of them a few KB.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable

from mailseal.admin.conversion import Conversion
from mailseal.admin.file_places import Files
from mailseal.admin.mail_place import Place
from mailseal.crypto.dcrypt import is_sealed
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox.forms import Seal
from mailseal.mailbox.maildir import create
from tests.bench.delivery import settle
from tests.bench.peers import USER, DovecotPeer
from tests.lab.place import MAIL_UID, LabError

COUNT = 10_000


def run(crypt: DovecotPeer, key: PrivateKey, say: Callable[[str], None]) -> dict[str, float]:
    """Mails per second for each."""
    seconds = {
        "cp_and_sync": _timed(crypt, lambda: _copy(crypt)),
        "doveadm_copy": _timed(crypt, lambda: _dovecot(crypt)),
        "mailseal_seal": _timed(crypt, lambda: _seal(crypt, key)),
    }
    for name, took in seconds.items():
        say(f"sealing {COUNT} mails: {name} {took:.2f} s")
    return {name: COUNT / took for name, took in seconds.items()}


def _timed(crypt: DovecotPeer, work: Callable[[], None]) -> float:
    crypt.empty()
    _fill(f"{crypt.maildir}/.Clear")
    subprocess.run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", crypt.home], check=True)
    settle()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _fill(folder: str) -> None:
    create(os.path.dirname(folder))
    create(folder)
    chance = random.Random(1)
    text = b"x" * 63 + b"\n"
    for number in range(COUNT):
        size = min(max(int(chance.lognormvariate(9, 1.3)), 1000), 1 << 20)
        mail = (b"Subject: %d\n\n" % number + text * (size // 64 + 1))[:size]
        sizes = f"S={size},W={size + mail.count(10)}"
        name = f"{1_600_000_000 + number}.M1P1.bench,{sizes}:2,S"
        with open(f"{folder}/cur/{name}", "wb") as stream:
            stream.write(mail)


def _copy(crypt: DovecotPeer) -> None:
    target = f"{crypt.home}/copy"
    subprocess.run(["cp", "-a", f"{crypt.maildir}/.Clear", target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def _dovecot(crypt: DovecotPeer) -> None:
    doveadm = ["doveadm", "-c", crypt.dovecot.config]
    subprocess.run([*doveadm, "mailbox", "create", "-u", USER, "Sealed"], check=True)
    # A hard link would be in clear, like its mail.
    copy = [*doveadm, "-o", "maildir_copy_with_hardlinks=no", "copy", "-u", USER]
    subprocess.run([*copy, "Sealed", "mailbox", "Clear", "all"], check=True)
    _require_sealed(f"{crypt.maildir}/.Sealed")


def _seal(crypt: DovecotPeer, key: PrivateKey) -> None:
    place = Place(Files(crypt.maildir), crypt.home, (MAIL_UID, MAIL_UID))
    jobs = len(os.sched_getaffinity(0))
    entry = Conversion("sealing", jobs=jobs, quiet=True).of(USER, place, Seal(key.public))
    if entry["converted"] != COUNT:
        raise LabError(f"mailseal has sealed {entry['converted']} of {COUNT} mails")
    _require_sealed(f"{crypt.maildir}/.Clear")


def _require_sealed(folder: str) -> None:
    names = os.listdir(f"{folder}/cur")
    if len(names) != COUNT:
        raise LabError(f"{folder} has {len(names)} mails, not {COUNT}")
    for name in names[:100]:
        with open(f"{folder}/cur/{name}", "rb") as stream:
            if not is_sealed(stream.read(16)):
                raise LabError(f"{folder} has mail in clear")
    shutil.rmtree(folder)
