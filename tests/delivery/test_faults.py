# SPDX-License-Identifier: MIT
"""Each system call of a delivery fails once.

Accepted mail is complete in new/ and synced.  Of mail that is not accepted, nothing is in new/.

There are three kinds of failures, for each k-th call: only this call; this call and all later
ones of its kind (each write on a full disk, each fsync on a broken one); this call and all
later ones (the disk is gone).  Only in the last case there is an exception: the rename
succeeded, but the sync of the folder failed, and the mail could not be removed.  Then it is in
new/ although it was not accepted, and is delivered twice, but not lost.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from mailseal import durable
from mailseal.delivery.group import seal_group
from tests.delivery.store import Here, files

CALLS = ("open", "write", "fsync", "close", "rename", "unlink", "mkdir", "chmod", "stat")
BODY = b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 200
TWO = ("alice@example.org", "bob@example.org")


class Faults:
    """Counts and records system calls on the store, and makes the chosen ones fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
        self.active = False
        self.count = 0
        self.fail_at = 0
        self.mode = "once"
        self.errno = errno.EIO
        self.history: list[tuple[str, str]] = []
        self.failed_kind = ""
        self._root = root
        self._paths: dict[int, str] = {}
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **options: Any) -> Any:
            path = self._paths.get(target, "") if isinstance(target, int) else str(target)
            if not self.active or not path.startswith(self._root):
                return real(target, *args, **options)
            self.count += 1
            if self._fails(name):
                self.history.append((f"{name} failed", path))
                if name == "close":
                    real(target)  # as in Linux: the descriptor is closed nevertheless
                raise OSError(self.errno, os.strerror(self.errno))
            result = real(target, *args, **options)
            if name == "open":
                self._paths[result] = path
            elif name == "close":
                del self._paths[target]
            self.history.append((name, path))
            return result

        return call

    def _fails(self, name: str) -> bool:
        if self.count == self.fail_at:
            self.failed_kind = name
            return True
        if not self.fail_at or self.count < self.fail_at:
            return False
        return self.mode == "all" or (self.mode == "kind" and name == self.failed_kind)


def run(here: Here, faults: Faults, fail_at: int, mode: str) -> None:
    for folder, _, names in os.walk(os.path.join(here.dir, "homes")):
        for name in names:
            os.unlink(os.path.join(folder, name))
    jobs = here.jobs(*TWO, body=BODY)
    store = here.store()
    faults.count, faults.fail_at, faults.mode = 0, fail_at, mode
    faults.history, faults.failed_kind = [], ""
    faults.active = True
    try:
        seal_group(jobs, store)
    finally:
        faults.active = False
    for user, job in zip(TWO, jobs, strict=True):
        maildir = job.route.maildir
        new, temporary = files(maildir, "new"), files(maildir, "tmp")
        assert job.result is not None
        if job.result.reply.ok:
            assert len(new) == 1
            assert here.opened(new[0]).endswith(BODY.replace(b"\r\n", b"\n")), user
            assert_durable(faults.history, maildir)
        else:
            assert job.result.reply.code in (451, 452)
            unlinked = ("unlink failed", new[0]) in faults.history if new else True
            assert not new or (mode == "all" and unlinked)
            if mode == "once" and faults.failed_kind != "unlink":
                assert temporary == []


def assert_durable(history: list[tuple[str, str]], maildir: str) -> None:
    """The order: write, fsync of the file, rename, fsync of new/."""
    mine = [
        (name, path.removeprefix(maildir)) for name, path in history if path.startswith(maildir)
    ]
    kinds = [(name, path.split("/")[1] if "/" in path else "") for name, path in mine]
    wrote = max(i for i, kind in enumerate(kinds) if kind == ("write", "tmp"))
    synced = kinds.index(("fsync", "tmp"), wrote)
    moved = kinds.index(("rename", "tmp"), synced)
    assert ("fsync", "new") in kinds[moved:]


@pytest.fixture
def here(tmp_path: Any) -> Here:
    made = Here(str(tmp_path))
    for user in TWO:
        made.enroll(user)
    return made


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("mode", ["once", "kind", "all"])
def test_every_call_fails(
    here: Here, monkeypatch: pytest.MonkeyPatch, mode: str, error: int
) -> None:
    here.deliver(*TWO)  # makes the Maildirs
    faults = Faults(monkeypatch, os.path.join(here.dir, "homes"))
    faults.errno = error
    run(here, faults, 0, mode)
    total = faults.count
    assert total > 10
    for fail_at in range(1, total + 1):
        run(here, faults, fail_at, mode)


def test_every_call_fails_while_the_maildir_is_made(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at = 0
    while True:
        here = Here(str(tmp_path / str(fail_at)))
        for user in TWO:
            here.enroll(user)
        with monkeypatch.context() as patch:
            faults = Faults(patch, os.path.join(here.dir, "homes"))
            run(here, faults, fail_at, "once")
        if fail_at and not faults.failed_kind:
            break
        fail_at += 1
    assert fail_at > 20


def test_a_folder_whose_sync_failed_is_synced_before_the_next_mail_is_accepted(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home and Maildir are new.  The first mail fails at each call, the second is accepted."""
    fail_at = 0
    while True:
        fail_at += 1
        here = Here(str(tmp_path / str(fail_at)))
        home = here.enroll("alice@example.org")
        first, second = (here.jobs("alice@example.org") for _ in range(2))
        shutil.rmtree(os.path.dirname(home))
        with monkeypatch.context() as patch:
            faults = Faults(patch, os.path.join(here.dir, "homes"))
            faults.active, faults.fail_at = True, fail_at
            seal_group(first, here.store())
            through, faults.fail_at = faults.count < fail_at, 0
            seal_group(second, here.store())
        assert second[0].result is not None
        assert second[0].result.reply.ok
        maildir = second[0].route.maildir
        for folder in (os.path.dirname(home), home, maildir, f"{maildir}/new"):
            made = faults.history.index(("mkdir", folder))
            assert ("fsync", os.path.dirname(folder)) in faults.history[made:], (fail_at, folder)
        if through:
            break
    assert fail_at > 20


def test_short_writes(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:1000])))
    job = here.deliver("alice@example.org", body=BODY)[0]
    monkeypatch.undo()
    assert job.result is not None
    assert job.result.reply.ok
    assert here.opened(files(job.route.maildir, "new")[0]).endswith(b"cdef\n")


def test_full_disk_is_452(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "write_all", full)
    job = here.deliver("alice@example.org")[0]
    assert job.result is not None
    assert (job.result.reply.code, job.result.reply.enhanced) == (452, "4.3.1")


def test_a_bug_is_temporary_and_does_not_affect_other_mails(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = here.jobs(*TWO)
    store = here.store()
    real = store.folders.choose

    def choose(root: str, *rest: Any) -> str:
        if "alice" in root:
            raise ZeroDivisionError("secret text")
        return real(root, *rest)

    monkeypatch.setattr(store.folders, "choose", choose)
    seal_group(jobs, store)
    results = [job.result for job in jobs]
    assert [r.reply.code for r in results if r is not None] == [451, 250]
    assert results[0] is not None
    assert "secret" not in results[0].detail + results[0].reply.text
