# SPDX-License-Identifier: MIT
"""What is on disk after a power failure: each step of a conversion waits for those before it.

kill -9 does not show this, because the kernel still has everything: here the order is compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox import convert, whole
from mailseal.mailbox.forms import Form, Reseal, Seal, Unseal

KEY, OLD = PrivateKey.generate(), PrivateKey.generate()
FORMS: dict[str, tuple[Form, PrivateKey | None]] = {
    "seal": (Seal(KEY.public), None),
    "unseal": (Unseal([KEY]), KEY),
    "reseal": (Reseal(KEY.public, [OLD]), OLD),
}
MAILS = ("cur/1.host:2,S", "cur/2.host:2,", "new/3.host")


@pytest.mark.parametrize("form", list(FORMS))
def test_power_may_fail_at_any_time(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "Maildir"
    for part in ("cur", "new", "tmp"):
        (root / part).mkdir(parents=True)
    wanted, key = FORMS[form]
    for name in MAILS:
        mail = b"Subject: %s\n\n" % name.encode()
        (root / name).write_bytes(mail if key is None else dcrypt.seal(key.public, mail))
    synced: set[int] = set()
    forgotten: set[int] = set()
    read: set[int] = set()
    pending: dict[str, str] = {}  # old forms whose folders are not synced, by their name in tmp/
    folders: set[str] = set()
    done: list[str] = []
    real_sync, real_exchange = durable.sync_file, durable.exchange
    real_folder, real_unlink = durable.sync_folder, os.unlink
    real_advise, real_reader = os.posix_fadvise, convert._reader

    def sync_file(fd: int) -> None:
        real_sync(fd)
        synced.add(os.fstat(fd).st_ino)

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        # Pages that are not on disk yet would stay in memory.
        if advice == os.POSIX_FADV_DONTNEED and (number := os.fstat(fd).st_ino) in synced:
            forgotten.add(number)
        real_advise(fd, offset, length, advice)

    def reader(fd: int) -> BinaryIO:
        if (number := os.fstat(fd).st_ino) in forgotten:
            read.add(number)
        return real_reader(fd)

    def exchange(one: str, other: str) -> None:
        number = os.stat(one).st_ino
        assert number in synced, "the new form is not on disk when it gets the name"
        assert number in read, "the new form was not read back from the disk"
        real_exchange(one, other)
        pending[one] = other
        folders.clear()

    def sync_folder(path: str) -> None:
        real_folder(path)
        folders.add(path)

    def unlink(path: str) -> None:
        if path in pending:
            assert os.path.dirname(pending.pop(path)) in folders, "the exchange is not on disk"
            done.append(path)
        real_unlink(path)

    monkeypatch.setattr(durable, "sync_file", sync_file)
    monkeypatch.setattr(durable, "exchange", exchange)
    monkeypatch.setattr(durable, "sync_folder", sync_folder)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(convert, "_reader", reader)
    with whole.held(str(root)):
        report = whole.run(str(root), wanted)
    assert report.tally.converted == len(MAILS) == len(done)
    assert not pending
