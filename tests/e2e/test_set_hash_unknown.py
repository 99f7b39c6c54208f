# SPDX-License-Identifier: MIT
"""mailseal-set-hash and a real MariaDB: a lost answer does not mean that nothing has changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_set_hash import INSERT, RUN, UPDATE
from tests.lab.clusters import folder
from tests.lab.databases import TABLE, Mariadb
from tests.lab.place import readable_code

USER = "user1@example.org"


class Lossy:
    """Passes everything on, until a packet of the client contains `word`: its answer is lost."""

    def __init__(self, path: Path, target: str, word: bytes) -> None:
        self.path, self._target, self._word = str(path), target, word
        self.lost = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target)
        threading.Thread(target=self._back, args=(client, server), daemon=True).start()
        seen = b""
        while data := client.recv(65536):
            seen += data
            # The driver also sends COMMIT when it connects.
            if self._word in data and b"UPDATE" in seen:
                self.lost += 1
            server.sendall(data)
        server.close()

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        while data := server.recv(65536):
            if self.lost:
                # The server has done it and has answered.
                client.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(data)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Mariadb]:
    with folder() as path:
        server = Mariadb(path)
        yield server
        server.stop()


def prepare(server: Mariadb, engine: str) -> None:
    server.sql("DROP TABLE IF EXISTS users")
    server.sql(f"{TABLE} ENGINE={engine} CHARACTER SET latin1")  # MyISAM's keys are short
    for number in range(3):
        server.sql(INSERT.format(f"user{number}@example.org"))


def changed(server: Mariadb) -> list[str]:
    return server.sql("SELECT address FROM users WHERE password <> 'old' ORDER BY 1").split()


def set_hash(tmp_path: Path, connect: dict[str, object], query: str = UPDATE) -> tuple[int, bytes]:
    config = tmp_path / "set-hash.yaml"
    config.write_text(json.dumps({"database": "mariadb", "connect": connect, "query": query}))
    config.chmod(0o600)
    code = os.path.join(readable_code(), "lib")
    command = ["/usr/bin/python3", "-I", "-c", RUN, code, str(config), USER]
    done = subprocess.run(command, input=b"new\n", capture_output=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM", "Aria"])
@pytest.mark.parametrize("word", ["COMMIT", "UPDATE"])
def test_a_lost_answer(mariadb: Mariadb, tmp_path: Path, engine: str, word: str) -> None:
    prepare(mariadb, engine)
    between = Lossy(tmp_path / "sock", str(mariadb.connect["unix_socket"]), b"\x03" + word.encode())
    status, said = set_hash(tmp_path, {**mariadb.connect, "unix_socket": between.path})
    assert between.lost == 1
    assert status == 75 and b"not known whether the database has the new hash" in said, said
    # It was done; only an UPDATE in a transaction is rolled back.
    assert changed(mariadb) == ([] if (engine, word) == ("InnoDB", "UPDATE") else [USER])


@pytest.mark.parametrize(("engine", "status"), [("InnoDB", 65), ("MyISAM", 75), ("Aria", 75)])
def test_several_rows_that_cannot_be_rolled_back(
    mariadb: Mariadb, tmp_path: Path, engine: str, status: int
) -> None:
    prepare(mariadb, engine)
    query = "UPDATE users SET password = %(hash)s WHERE address <> %(user)s"
    assert set_hash(tmp_path, dict(mariadb.connect), query)[0] == status
    assert len(changed(mariadb)) == (0 if engine == "InnoDB" else 2)


def test_what_the_server_refuses_is_certain(mariadb: Mariadb, tmp_path: Path) -> None:
    prepare(mariadb, "MyISAM")
    wrong = UPDATE.replace("users", "nowhere")
    assert set_hash(tmp_path, dict(mariadb.connect), wrong)[0] == 69
    assert set_hash(tmp_path, dict(mariadb.connect), f"{UPDATE} AND %(other)s")[0] == 69
    assert changed(mariadb) == []


def test_autocommit_is_refused(mariadb: Mariadb, tmp_path: Path) -> None:
    prepare(mariadb, "InnoDB")
    status, said = set_hash(tmp_path, {**mariadb.connect, "autocommit": True})
    assert status == 78 and b"autocommit" in said
    assert changed(mariadb) == []
