# SPDX-License-Identifier: MIT
"""Index folders and caches: tests without Dovecot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import index_check
from mailseal.doveconf import Doveconf
from mailseal.errors import TemporaryError
from mailseal.index import fscrypt, memory
from mailseal.index.folders import Folders, folder_name
from mailseal.index.memory import Cached
from mailseal.login import anvil
from mailseal.login.caches import Caches
from mailseal.login.keeper import Keeper
from tests.lab.dovecot import installed_version
from tests.lab.place import MAIL_UID, readable_code
from tests.volumes import volume_or_skip


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    with volume_or_skip(32 << 20) as folder:
        yield folder


def test_names_of_folders() -> None:
    """One for each user, without characters that Dovecot's settings would expand or split."""
    users = ["alice@example.org", "a%b", "a=b", "a:b", "..", "/", "ä", "x" * 254, "X" * 254]
    names = [folder_name(user) for user in users]
    assert len(set(names)) == len(users) - 1  # capital letters are the same user
    assert names[0] == "alice@example.org"
    assert not set("%:/ ") & set("".join(names))


def test_a_folder_with_another_key_is_made_again(volume: str) -> None:
    folders = Folders(volume, MAIL_UID)
    first = folders.unlock("user", bytes(64))
    Path(folders.path("user"), "old").write_text("text")
    second = folders.unlock("user", bytes(range(64)))
    assert first != second
    assert os.listdir(folders.path("user")) == []
    assert folders.lock(second) is fscrypt.State.ABSENT
    assert folders.aside() == []  # its key is still in the kernel
    assert folders.lock(first) is fscrypt.State.ABSENT
    (aside,) = folders.aside()
    memory.empty(volume, aside)
    folders.remove(aside)
    assert folders.open_ones() == {}


def test_the_kernel_takes_no_more_keys(volume: str) -> None:
    """As a uid that is not root; the error names the setting, and nothing is left unlocked."""
    program = (
        "import os, sys\n"
        "from mailseal.index import fscrypt\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.setresuid(60699, 60699, 60699)\n"
        "added = []\n"
        "try:\n"
        "    while len(added) < 100_000: added.append(fscrypt.add_key(fd, os.urandom(64)))\n"
        "except OSError as exc:\n"
        "    print(exc.strerror)\n"
        "for one in added: assert fscrypt.remove_key(fd, one) is fscrypt.State.ABSENT\n"
        "again = fscrypt.add_key(fd, os.urandom(64))\n"
        "fscrypt.remove_key(fd, again)\n"
    )
    lib = os.path.join(readable_code(), "lib")
    done = subprocess.run(
        [sys.executable, "-c", program, volume],
        env={"PYTHONPATH": lib},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "kernel.keys.maxkeys" in done.stdout


def test_an_almost_full_file_system_is_not_used(volume: str) -> None:
    """There Dovecot could not open one more mailbox: the login uses the other index."""
    folders = Folders(volume, MAIL_UID)
    identifier = folders.unlock("room", bytes(64))
    folders.lock(identifier)
    path = os.path.join(volume, "full")
    with open(path, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))
    try:
        with pytest.raises(OSError, match="almost full"):
            folders.unlock("room", bytes(64))
        assert folders.open_ones() == {}
    finally:
        os.unlink(path)
    assert folders.unlock("room", bytes(64)) == identifier
    folders.lock(identifier)


def test_a_folder_that_cannot_be_made_leaves_no_key(volume: str) -> None:
    folders = Folders(volume, MAIL_UID)
    key = bytes(range(1, 65))
    identifier = folders.unlock("first", key)
    folders.lock(identifier)
    Path(volume, "taken").write_text("text")  # where the folder should be
    with pytest.raises(OSError, match="Not a directory"):
        folders.unlock("taken", bytes(64))
    with pytest.raises(OSError, match="name too long"):
        folders.unlock("x" * 300, key)
    fd = os.open(volume, os.O_RDONLY)
    try:
        assert fscrypt.state(fd, identifier) is fscrypt.State.ABSENT
    finally:
        os.close(fd)


def test_which_caches_are_removed() -> None:
    found = [Cached("a", 10, 3), Cached("b", 10, 1), Cached("c", 10, 2), Cached("d", 50, 9)]
    assert memory.over_limits(found, 40, 30) == ["d"]
    assert memory.over_limits(found, 40, 20) == ["d", "b"]
    assert memory.over_limits(found, 100, 15) == ["b", "c", "a", "d"]
    assert memory.over_limits([], 1, 1) == []


def test_whose_caches_are_wiped(tmp_path: Path) -> None:
    """A name without a user, and a user whose state is unknown: other caches are removed."""
    asked: list[str] = []

    def is_enrolled(user: str) -> bool:
        asked.append(user)
        if user == "unknown":
            raise TemporaryError("the database is down")
        return user == "alice"

    for name in ("alice", "bob", "unknown", "\x01", "in-use"):
        (tmp_path / name / ".INBOX").mkdir(parents=True)
        (tmp_path / name / ".INBOX" / "dovecot.index.cache").write_text("text")

    async def sweeps() -> None:
        log = logging.getLogger("test")
        keeper = Keeper.start(str(tmp_path), os.getuid(), os.getgid())
        caches = Caches(keeper, is_enrolled, limits=(1 << 20, 1 << 20), wipe_after=60, log=log)
        await caches.sweep(None)  # anvil cannot be asked
        assert len(list(tmp_path.glob("*/.INBOX/*"))) == 5
        await caches.sweep({"in-use"})
        await caches.sweep({"in-use"})
        await caches.stop({"in-use"})

    asyncio.run(sweeps())
    left = {path.parent.parent.name for path in tmp_path.glob("*/.INBOX/*")}
    assert left == {"bob", "unknown", "\x01", "in-use"}
    assert asked.count("bob") == 1
    assert asked.count("unknown") == 3


@pytest.mark.parametrize(
    ("version", "reply", "users"),
    [
        (
            "2.3",
            b"imap/127.0.0.1/a@b\t12\t1\npop3/::1/C@d\t13\t2\nlmtp/x\t14\t1\n\n",
            {"a@b", "c@d"},
        ),
        ("2.3", b"imap/127.0.0.1/a/b\t1\t1\n\n", {"a/b"}),
        ("2.3", b"\n", set()),
        (
            "2.4",
            b"VERSION\tanvil-server\t2\t0\n\n1\ta@b\timap\t::1\tguid\t\n2\tx\tlmtp\t\tguid\t\n\n",
            {"a@b"},
        ),
        ("2.4", b"VERSION\tanvil-server\t2\t0\nfield\n1\ta\timap-hibernate\t\tg\t\tz\n\n", {"a"}),
    ],
)
def test_who_is_logged_in(tmp_path: Path, version: str, reply: bytes, users: set[str]) -> None:
    assert asyncio.run(_asked(tmp_path, version, reply)) == users


@pytest.mark.parametrize("reply", [b"", b"imap/::1/a\t1\t1\n", b"imap"])
def test_an_incomplete_answer(tmp_path: Path, reply: bytes) -> None:
    """An incomplete list would lock folders of users with connections."""
    with pytest.raises(TemporaryError):
        asyncio.run(_asked(tmp_path, "2.3", reply))


async def _asked(folder: Path, version: str, reply: bytes) -> set[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"CONNECT-DUMP\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    path = str(folder / "anvil")
    async with await asyncio.start_unix_server(answer, path):
        return await anvil.logged_in(path, version)


def test_check_config(tmp_path: Path, volume: str) -> None:
    """Read with this machine's doveconf; 2.4 has no mail_location that could lack the field."""
    dovecot = {
        "2.3": "ssl = no\nmail_location = maildir:~/Maildir{}\n",
        "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nssl = no\n"
        "mail_driver = maildir\nmail_path = ~/Maildir\n",
    }[installed_version()[:3]]

    def found(folder: str, field: str = "%{userdb:mailseal_index}") -> list[str]:
        (tmp_path / "dovecot.conf").write_text(dovecot.format(field))
        doveconf = Doveconf(("doveconf", "-c", str(tmp_path / "dovecot.conf")))
        config = configuration.parse(f"agent: {{user: 0}}\nindex: {{folder: {folder}}}\n")
        listed = [one.text for one in index_check.findings(config, doveconf)]
        return [text for text in listed if "kernel.keys.maxkeys" not in text]

    assert found(volume) == []
    if "mail_location" in dovecot:
        assert "does not use it" in found(volume, "")[0]
    else:
        dovecot += "namespace main {{\n  inbox = yes\n}}\n"
        assert "the name inbox" in found(volume)[0]
    assert "run `mailseal init`" in found(f"{volume}/none")[0]
    if os.stat(tmp_path).st_dev != os.stat(volume).st_dev:
        assert "tune2fs" in found(str(tmp_path))[0]
