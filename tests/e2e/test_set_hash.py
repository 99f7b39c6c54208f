# SPDX-License-Identifier: MIT
"""mailseal-set-hash with real databases: twenty changes at a time, and nothing else changes."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab import clusters
from tests.lab.databases import TABLE, Mariadb, Postgresql
from tests.lab.place import readable_code

USERS = [f"user{number}@example.org" for number in range(20)]
UPDATE = "UPDATE users SET password = %(hash)s WHERE address = %(user)s"
INSERT = "INSERT INTO users VALUES ('{}', 'old')"
RUN = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from mailseal.panel.set_hash import main
config = sys.argv.pop(1)
sys.exit(main(sys.argv, sys.stdin.buffer, config=config))
"""


class Site:
    """One user database, and the program configured for it."""

    def __init__(self, folder: Path, hashes: Callable[[], dict[str, str]], **options: object):
        self.hashes = hashes
        self.config = folder / "set-hash.yaml"
        self.config.write_text(json.dumps(options))
        self.config.chmod(0o600)

    def start(self, *arguments: str, password: str = "new") -> subprocess.Popen[bytes]:
        code = os.path.join(readable_code(), "lib")
        process = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-c", RUN, code, str(self.config), *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(f"{password}\n".encode())
        process.stdin.close()
        return process

    def set(self, *arguments: str, password: str = "new") -> int:
        return self.start(*arguments, password=password).wait(120)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the databases' users can enter."""
    with clusters.folder() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def postgresql(folder: Path) -> Iterator[Postgresql]:
    server = Postgresql(f"{folder}/pg", f"{folder}/pg-socket", f"{folder}/pg.log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mariadb(folder: Path) -> Iterator[Mariadb]:
    server = Mariadb(str(folder))
    yield server
    server.stop()


def _passwd_file(tmp_path: Path) -> Site:
    users = tmp_path / "users"
    users.write_text("# people\n" + "".join(f"{user}:old:1:2::/h::x=y\n" for user in USERS))
    users.chmod(0o640)

    def hashes() -> dict[str, str]:
        lines = users.read_text().splitlines()
        assert lines[0] == "# people" and all(":1:2::/h::x=y" in line for line in lines[1:])
        return dict(line.split(":")[:2] for line in lines[1:])

    return Site(tmp_path, hashes, database="passwd-file", path=str(users))


def _sqlite(tmp_path: Path) -> Site:
    path = tmp_path / "users.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(TABLE)
        for user in USERS:
            database.execute(INSERT.format(user))

    def hashes() -> dict[str, str]:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return dict(database.execute("SELECT address, password FROM users").fetchall())

    return Site(tmp_path, hashes, database="sqlite", path=str(path), query=UPDATE)


@pytest.fixture(params=["passwd-file", "sqlite", "postgresql", "mariadb"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "passwd-file":
        return _passwd_file(tmp_path)
    if request.param == "sqlite":
        return _sqlite(tmp_path)
    server = request.getfixturevalue(request.param)
    server.sql("DROP TABLE IF EXISTS users")
    server.sql(TABLE)
    for user in USERS:
        server.sql(INSERT.format(user))
    separator = "|" if request.param == "postgresql" else "\t"

    def hashes() -> dict[str, str]:
        rows = server.sql("SELECT address, password FROM users").splitlines()
        return dict(row.split(separator) for row in rows)

    return Site(tmp_path, hashes, database=request.param, connect=server.connect, query=UPDATE)


def fits(hashed: str, password: str) -> bool:
    command = ["doveadm", "pw", "-t", hashed]
    done = subprocess.run(command, input=f"{password}\n".encode(), capture_output=True)
    return done.returncode == 0


def test_twenty_changes_at_a_time_are_twenty_changes(site: Site) -> None:
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda user: site.set(user, password=f"new of {user}"), USERS))
    assert done == [0] * 20
    found = site.hashes()
    assert [user for user in USERS if not fits(found[user], f"new of {user}")] == []


def test_one_user_changed_twenty_times_at_a_time_has_one_of_them(site: Site) -> None:
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda n: site.set(USERS[3], password=f"word{n}"), range(20)))
    assert done == [0] * 20
    found = site.hashes()
    assert sum(fits(found[USERS[3]], f"word{n}") for n in range(20)) == 1
    assert {user for user, hashed in found.items() if hashed != "old"} == {USERS[3]}
    assert len(found) == len(USERS)


def test_an_unknown_user_changes_nothing(site: Site) -> None:
    before = site.hashes()
    for name in ("nobody@example.org", "x' OR '1'='1", "%", "# people", "user1@example.org:old"):
        assert site.set(name) in (65, 67), name
    assert site.set() == 64 and site.set("a", "b") == 64 and site.set("-h") == 64
    assert site.set(USERS[0], password="") == 64
    assert site.set(USERS[0], password="x" * 5000) == 64
    assert site.hashes() == before


def test_the_hash_is_never_an_argument(site: Site) -> None:
    """All command lines on the machine are checked while it runs."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for name in os.listdir("/proc"):
                if name.isdigit():
                    for what in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            seen.add(Path("/proc", name, what).read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    secrets = [b"tr0ub4dor"]
    try:
        for _ in range(200):  # until the program was seen
            assert site.set(USERS[0], password="tr0ub4dor") == 0
            secrets.append(site.hashes()[USERS[0]].encode())
            if any(USERS[0].encode() in line for line in set(seen)):
                break
        else:
            pytest.fail("the program was never seen")
    finally:
        stop.set()
        watcher.join()
    assert not any(secret in line for line in seen for secret in secrets)


def test_a_query_that_would_change_more_is_rolled_back(site: Site) -> None:
    options = json.loads(site.config.read_text())
    if options["database"] == "passwd-file":
        with open(options["path"], "a") as stream:
            stream.write(f"{USERS[0]}:old:1:2::/h::x=y\n")
    else:
        options["query"] = "UPDATE users SET password = %(hash)s WHERE address <> %(user)s"
        site.config.write_text(json.dumps(options))
    assert site.set(USERS[0]) == 65
    assert set(site.hashes().values()) == {"old"}


def test_a_database_that_is_down(site: Site, request: pytest.FixtureRequest) -> None:
    options = json.loads(site.config.read_text())
    kind = options["database"]
    if kind in ("passwd-file", "sqlite"):
        os.rename(options["path"], options["path"] + ".away")
        assert site.set(USERS[0]) == (78 if kind == "passwd-file" else 69)
        os.rename(options["path"] + ".away", options["path"])
    else:
        server = request.getfixturevalue(kind)
        server.stop()
        assert site.set(USERS[0]) == 69
        server.start()
    assert set(site.hashes().values()) == {"old"}
    assert site.set(USERS[0]) == 0


def test_files_that_others_can_write_are_refused(tmp_path: Path) -> None:
    site = _passwd_file(tmp_path)
    site.config.chmod(0o666)
    assert site.set(USERS[0]) == 78
    site.config.chmod(0o600)
    tmp_path.chmod(0o777)
    assert site.set(USERS[0]) == 78
    tmp_path.chmod(0o700)
    target = tmp_path / "elsewhere.yaml"
    site.config.rename(target)
    site.config.symlink_to(target)
    assert site.set(USERS[0]) == 78
    assert set(site.hashes().values()) == {"old"}
    site.config.unlink()
    target.rename(site.config)
    assert site.set(USERS[0]) == 0
    assert os.stat(tmp_path / "users").st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"database": "oracle"},
        {"database": "passwd-file"},
        {"database": "passwd-file", "path": "users"},
        {"database": "sqlite", "path": "/x", "query": "UPDATE users SET password = %(hash)s"},
        {"database": "mariadb", "connect": "host", "query": UPDATE},
        {"database": "passwd-file", "path": "/x", "colour": "red"},
    ],
)
def test_wrong_configurations(tmp_path: Path, options: dict[str, object]) -> None:
    site = Site(tmp_path, dict, **options)
    assert site.set(USERS[0]) == 78


def _line(site: Site) -> bytes:
    path = json.loads(site.config.read_text())["path"]
    return next(line for line in Path(path).read_bytes().split(b"\n") if line[:6] == b"user0@")


def test_a_password_in_clear_is_written_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    """A colon would begin the next field, such as uid, gid and home."""
    site = _passwd_file(tmp_path)
    options = json.loads(site.config.read_text())
    site.config.write_text(json.dumps({**options, "scheme": "PLAIN"}))
    before = _line(site)
    for password in ("a:0:0::/root::userdb_uid=0", ":"):
        assert site.set(USERS[0], password=password) == 64
        assert _line(site) == before
    for password in ("schön", " blank at both ends "):
        assert site.set(USERS[0], password=password) == 0
        stored = f"{{PLAIN}}{password}".encode()
        assert _line(site) == USERS[0].encode() + b":" + stored + b":1:2::/h::x=y"


def test_a_file_that_others_can_change_is_refused(tmp_path: Path) -> None:
    site = _passwd_file(tmp_path)
    users = tmp_path / "users"
    users.chmod(0o666)
    assert site.set(USERS[0]) == 78
    users.chmod(0o640)
    if os.getuid() == 0:
        os.chown(users, 60605, 0)
        assert site.set(USERS[0]) == 78
        os.chown(users, 0, 0)
    assert set(site.hashes().values()) == {"old"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make folders of another user")
def test_a_parent_folder_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    """Its owner could replace it by a link to any folder of root: /etc, for /etc/passwd."""
    above = tmp_path / "panel"
    (above / "conf").mkdir(parents=True)
    site = _passwd_file(above / "conf")
    os.chown(above, 60605, 60605)
    site.config.rename(tmp_path / "set-hash.yaml")
    site.config = tmp_path / "set-hash.yaml"
    assert site.set(USERS[0]) == 78
    assert set(site.hashes().values()) == {"old"}


def test_an_acl_stays(tmp_path: Path) -> None:
    """Dovecot may need it to read the file."""
    site = _passwd_file(tmp_path)
    users = tmp_path / "users"
    entries = [(1, 6, -1), (2, 4, 60605), (4, 4, -1), (0x10, 4, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(users, "system.posix_acl_access", acl)
    assert site.set(USERS[0]) == 0
    assert os.getxattr(users, "system.posix_acl_access") == acl
    assert fits(site.hashes()[USERS[0]], "new")


def test_files_of_a_killed_writer_are_removed_by_the_next_change(tmp_path: Path) -> None:
    """A user who runs it with sudo can have it killed (setrlimit(2)): no copies may be left."""
    site = _passwd_file(tmp_path)
    code = os.path.join(readable_code(), "lib")
    # Killed when the new file is written, but not renamed yet.
    kill = "import os, signal; os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    for _ in range(3):
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", kill + RUN, code, str(site.config), USERS[0]],
            input=b"new\n",
        )
        assert done.returncode == -9
    assert site.set(USERS[0]) == 0
    assert sorted(os.listdir(tmp_path)) == ["set-hash.yaml", "users", "users.lock"]


def test_dovecot_sees_each_of_several_changes_within_a_second(tmp_path: Path) -> None:
    """It compares the size and the second of the last change."""
    site, users = _passwd_file(tmp_path), tmp_path / "users"
    seconds = [int(users.stat().st_mtime)]
    for password in ("one", "two", "six"):
        assert site.set(USERS[0], password=password) == 0
        seconds.append(int(users.stat().st_mtime))
    assert seconds == sorted(set(seconds))
