# SPDX-License-Identifier: MIT
"""Existing mail is sealed, unsealed and sealed again, while IMAP clients are active.

The results are compared with what the clients remember: UIDs, flags, dates and bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.mailbox import folder_lock
from tests.e2e import existing
from tests.e2e.busy import Mailbox
from tests.e2e.existing import files, is_sealed, run
from tests.e2e.mails import of_size
from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID

SECRET = "password"
FOLDERS = ("INBOX", "Sent", "Work", "Work.2024", "Trash", "Entw&APw-rfe")
_numbers = itertools.count(1)
SENDER = "eve@example.net"
_IN_OPEN = 0x20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    plain = {f"old{number}@example.org": SECRET for number in range(1, 9)}
    with Lab({}, auth="behind-passwd-file", plain_users=plain) as made:
        yield made


@pytest.fixture
def user(lab: Lab) -> str:
    """A user with mail in clear, who is enrolled now."""
    name = f"old{next(_numbers)}@example.org"
    existing.fill(lab, name, SECRET, FOLDERS)
    return name


def test_clients_are_active_all_the_time(lab: Lab, user: str) -> None:
    """Sealed, sealed to a new key pair, and unsealed again, while mail arrives."""
    existing.throughout(lab, user, SECRET, FOLDERS, rate="250K")


def test_dovecot_waits_for_the_lock_under_which_mails_are_exchanged(lab: Lab, user: str) -> None:
    """It neither lists the folder nor renames a mail; of a lock left over it takes no notice."""
    sent = lab.maildir(user, "Sent")
    lock = os.path.join(sent, "dovecot-uidlist.lock")

    def flagged() -> list[str]:
        names = os.listdir(os.path.join(sent, "cur"))
        return [name for name in names if "T" in name.partition(":2,")[2]]

    with Imap(lab.imap, user, SECRET) as imap:
        imap.select("Sent")
        store = threading.Thread(target=imap.command, args=(b"STORE 1 FLAGS (\\Deleted)",))
        with folder_lock.held(lock.removesuffix(".lock")):
            os.chown(lock, MAIL_UID, MAIL_UID)  # as in production; then Dovecot can read it
            with opened(lock) as read:
                store.start()
                while not select.select([read], [], [], 0.05)[0]:
                    assert store.is_alive(), "the flag was set without the lock"
            assert flagged() == []
        store.join()
        assert len(flagged()) == 1
        ended = subprocess.Popen(["true"])
        ended.wait()
        Path(lock).write_text(f"{ended.pid}:{socket.gethostname()}")
        imap.command(b"STORE 2 FLAGS (\\Deleted)")
        assert len(flagged()) == 2


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor that can be read when somebody has opened this file: inotify(7)."""
    libc = ctypes.CDLL(None)
    with open(libc.inotify_init1(os.O_CLOEXEC), "rb") as events:
        assert libc.inotify_add_watch(events.fileno(), path.encode(), _IN_OPEN) >= 0
        yield events.fileno()


def test_seal_and_unseal_keep_everything(lab: Lab, user: str) -> None:
    """Bytes, names, times; the second run changes nothing; both links of a copy are sealed."""
    # As COPY has made it before mail_crypt was loaded.
    linked = next(path for path in files(lab, user) if "/Maildir/cur/" in path)
    sizes = linked.partition(",")[2]
    os.link(linked, os.path.join(lab.maildir(user, "Sent"), "cur", f"1600000000.M1P1.copy,{sizes}"))
    box = Mailbox(lab, user, SECRET, FOLDERS)

    def disk() -> dict[str, tuple[bytes, int, int]]:
        found = {}
        for path in files(lab, user):
            with open(path, "rb") as stream:
                state = os.fstat(stream.fileno())
                found[path] = (stream.read(), state.st_mtime_ns, state.st_mode)
        return found

    before = disk()
    assert any(os.stat(path).st_nlink > 1 for path in before)
    dry = run(lab, "seal", user, "--dry-run")
    assert disk() == before
    (entry,) = run(lab, "seal", user)
    assert entry["converted"] == dry[0]["converted"]
    assert list(disk()) == list(before)
    assert all(map(is_sealed, filter(os.path.getsize, before)))
    box.require_as_remembered()
    sealed = disk()
    (entry,) = run(lab, "seal", user)
    assert entry["converted"] == 0 and disk() == sealed
    wrong = lab.mailseal("unseal", user, "--stdin", stdin=b"not the password\n")
    assert wrong.returncode == 77 and disk() == sealed
    run(lab, "unseal", user, "--stdin", stdin=SECRET.encode() + b"\n")
    assert disk() == before
    box.require_as_remembered()


def test_sealed_to_a_global_key_and_then_to_ones_own(lab: Lab, user: str) -> None:
    """As with mailcow and docker-mailserver: one key of mail_crypt for all users."""
    box = Mailbox(lab, user, SECRET, FOLDERS)
    pem = lab.place.path("global.pem")
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    from mailseal.admin.key_sources import private_key

    key = private_key(pem, "the key", False)
    for path in files(lab, user):
        with open(path, "rb") as stream:
            data = stream.read()
        state = os.stat(path)
        with open(f"{path}.new", "wb") as stream:
            stream.write(dcrypt.seal(key.public, data))
        os.chown(f"{path}.new", state.st_uid, state.st_gid)
        os.utime(f"{path}.new", ns=(state.st_atime_ns, state.st_mtime_ns))
        os.rename(f"{path}.new", path)
    left = lab.mailseal("seal", user)
    assert left.returncode == 65 and b"sealed to another key" in left.stdout
    run(lab, "reseal", user, "--from-key", pem)
    box.require_as_remembered()
    assert lab.mailseal("verify", user).returncode == 0
    # Mail of an older pair of the user is sealed: nothing is left to do.
    assert lab.mailseal("rotate", user, stdin=SECRET.encode() + b"\n").returncode == 0
    (entry,) = run(lab, "seal", user)
    assert (entry["converted"], entry["left"]) == (0, 0)


def test_escrow_and_the_selected_users(lab: Lab, user: str) -> None:
    code = lab.mailseal("recovery-code", user, stdin=SECRET.encode() + b"\n").stdout
    run(lab, "seal", "--domain", "example.net")
    assert not any(map(is_sealed, files(lab, user)))
    (entry,) = run(lab, "seal", "--stdin", stdin=f"{user}\n".encode())
    assert entry["user"] == user
    code_line = next(line for line in code.splitlines() if line.count(b"-") >= 7)
    run(lab, "unseal", user, "--stdin", stdin=code_line.strip() + b"\n")
    assert not any(map(is_sealed, files(lab, user)))
    assert lab.mailseal("seal", "nobody@example.org").returncode != 0
    assert lab.mailseal("seal").returncode == 64
    done = lab.mailseal("seal", "old8@example.org")
    assert done.returncode == 67 and b"not enrolled" in done.stderr


@pytest.mark.parametrize("options", [(), ("--shred",)])
def test_old_indexes_are_removed_and_other_text_is_listed(
    lab: Lab, user: str, options: tuple[str, ...]
) -> None:
    root = lab.maildir(user)
    cache = os.path.join(root, ".Sent", "dovecot.index.cache")
    dupes = os.path.join(lab.home(user), ".dovecot.lda-dupes")
    elsewhere = os.path.join(lab.home(user), "not-ours")
    searches = [
        os.path.join(root, "xapian-indexes", "db_1"),
        os.path.join(root, ".Sent", "fts-flatcurve", "current.1"),
    ]
    words = [os.path.join(folder, "postlist.glass") for folder in searches]
    for folder in searches:
        os.makedirs(folder)
        os.symlink(elsewhere, os.path.join(folder, "link"))
    subprocess.run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", root, lab.home(user)], check=True)
    for path in (cache, dupes, elsewhere, *words):
        with open(path, "wb") as stream:
            stream.write(b"Subject: in clear")
    (entry,) = run(lab, "seal", *options, user)
    gone = [cache, *map(os.path.dirname, searches)]
    assert [path for path in gone if os.path.exists(path)] == []
    assert set(gone) <= set(entry["removed"])  # type: ignore[call-overload]
    with open(elsewhere, "rb") as stream:
        assert stream.read() == b"Subject: in clear"
    assert [path for path, _ in entry["clear_text"]] == [dupes]  # type: ignore[attr-defined]


COMPRESSED = {
    "2.3": "protocol imap {\n  mail_plugins = $mail_plugins zlib\n}\n"
    "plugin {\n  zlib_save = gz\n}\n",
    "2.4": "mail_plugins {\n  mail_compress = yes\n}\nmail_compress_write_method = gz\n",
}


def test_what_dovecot_has_compressed_stays_compressed_inside() -> None:
    name = "old@example.org"
    with Lab(
        {},
        auth="behind-passwd-file",
        plain_users={name: SECRET},
        dovecot_extra=COMPRESSED[series(installed_version())],
    ) as lab:
        box = Mailbox(lab, name, SECRET, ["INBOX"])
        with box.login() as imap:
            for size in (7, 1000, 20_000, 200_000):  # the first one is larger inside
                imap.append("INBOX", of_size(size, newline=b"\r\n"))
        box.read()
        before = {path: Path(path).read_bytes() for path in files(lab, name)}
        assert len(before) == 4
        assert all(data.startswith(b"\x1f\x8b") for data in before.values())
        enrolled = lab.mailseal("enroll", name, stdin=SECRET.encode() + b"\n")
        assert enrolled.returncode == 0, enrolled.stderr
        run(lab, "seal", name)
        assert all(map(is_sealed, before))
        box.require_as_remembered()
        assert run(lab, "verify", name)[0]["counts"] == {}
        run(lab, "unseal", name, "--stdin", stdin=SECRET.encode() + b"\n")
        assert {path: Path(path).read_bytes() for path in files(lab, name)} == before
        box.require_as_remembered()
