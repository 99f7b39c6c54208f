# SPDX-License-Identifier: MIT
"""check-config: users that do not exist, and sockets that a user may not use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import access_check
from mailseal.admin.finding import ERROR, WARNING
from mailseal.keys import lease
from mailseal.login import startup
from tests.lab.place import let_others_in
from tests.unit.agent_process import HOOKS
from tests.unit.dovecot_check.settings import BASE, chain, snippet


def test_users_that_do_not_exist() -> None:
    config = configuration.parse(
        "delivery: {user: no-such-a}\nagent: {user: 4711, login_users: [root, no-such-b]}\n"
    )
    found = list(access_check.users(config))
    assert [(f.level, f.text) for f in found] == [
        (ERROR, "option delivery.user: there is no user no-such-a"),
        (ERROR, "option agent.login_users: there is no user no-such-b"),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="check-config looks into the store as root only")
@pytest.mark.parametrize("name", ["alice.json", "enrolled/alice"])
def test_what_is_no_file_among_the_public_keys(tmp_path: Path, name: str) -> None:
    """A FIFO would stop an auth worker that reads it."""
    config = configuration.parse(f"state_dir: {tmp_path}\nagent: {{user: 0}}\n")
    startup.init(config)
    assert list(access_check.public_files(config)) == []
    os.mkfifo(os.path.join(config.public_dir, name))
    (found,) = access_check.public_files(config)
    assert found.level == ERROR and found.text.startswith(f"{config.public_dir}/{name} is not")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes sockets of several owners")
class TestSockets:
    @pytest.fixture
    def servers(self, tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
        """All sockets, in a folder that uid 4711 may enter."""
        os.chmod(tmp_path, 0o755)
        (tmp_path / "in").mkdir()
        servers = {name: socket.socket(socket.AF_UNIX) for name in ("userdb", "lmtp", "agent")}
        for name, made in servers.items():
            made.bind(str(tmp_path / "in" / name))
            made.listen()
        yield servers
        for made in servers.values():
            made.close()

    @pytest.fixture
    def config(self, tmp_path: Path, servers: dict[str, socket.socket]) -> configuration.Config:
        for name in servers:
            os.chmod(tmp_path / "in" / name, 0o600)
            os.chown(tmp_path / "in" / name, 4711, 4712)
        return configuration.parse(
            f"dovecot: {{userdb_socket: {tmp_path}/in/userdb, lmtp_socket: {tmp_path}/in/lmtp}}\n"
            f"agent: {{socket: {tmp_path}/in/agent, login_users: [root, 4711]}}\n"
            "delivery: {user: 4711}\n"
        )

    def said(self, config: configuration.Config) -> list[tuple[str, str]]:
        """The findings, without those about pytest's folders, which uid 4711 may not enter."""
        return [(f.level, f.text) for f in access_check.sockets(config)]

    @pytest.fixture(autouse=True)
    def _reachable(self, tmp_path: Path) -> None:
        let_others_in(tmp_path)

    def test_all_is_well(self, config: configuration.Config) -> None:
        assert self.said(config) == []

    def test_another_owner(self, config: configuration.Config) -> None:
        path = config.dovecot.userdb_socket
        os.chown(path, 0, 0)
        assert self.said(config) == [
            (ERROR, f"dovecot.userdb_socket: the user 4711 (delivery.user) has no access to {path}")
        ]
        os.chmod(path, 0o666)
        assert self.said(config) == []
        os.chmod(path, 0o060)
        os.chown(path, 0, 4711)  # for a uid without an entry, the gid is the same
        assert self.said(config) == []

    def test_a_closed_folder(self, config: configuration.Config) -> None:
        folder = os.path.dirname(config.agent.socket)
        os.chmod(folder, 0o700)
        found = self.said(config)
        assert {level for level, _ in found} == {ERROR} and len(found) == 3
        assert all(text.endswith(f"no access to {folder}") for _, text in found)

    def test_no_server(self, config: configuration.Config) -> None:
        os.unlink(config.dovecot.lmtp_socket)
        ((level, text),) = self.said(config)
        assert (
            level == WARNING
            and text.startswith("dovecot.lmtp_socket: /")
            and "does not exist" in text
        )

    def test_a_server_that_has_left_its_socket(
        self, config: configuration.Config, servers: dict[str, socket.socket]
    ) -> None:
        servers["agent"].close()
        path = config.agent.socket
        assert self.said(config) == [
            (
                WARNING,
                f"agent.socket: no server listens on {path}; see `systemctl status mailseal-agent`",
            )
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not look into the store")
def test_the_store_was_not_initialised(tmp_path: Path) -> None:
    config = configuration.parse(f"state_dir: {tmp_path}/state\nagent: {{user: root}}\n")
    ((level, text),) = ((found.level, found.text) for found in access_check.store(config))
    assert level == ERROR and text.endswith("run `mailseal init`")
    startup.init(config)
    assert list(access_check.store(config)) == []


@pytest.mark.parametrize(
    ("user", "status", "word"), [("root", 1, "warnings"), ("no-such-user", 2, "errors")]
)
def test_the_status_tells_errors_from_warnings(
    tmp_path: Path, user: str, status: int, word: str
) -> None:
    path = tmp_path / "mailseal.yaml"
    path.write_text(
        f"delivery: {{user: {user}, userdb: template}}\nagent: {{user: root}}\n"
        f"dovecot: {{lmtp_socket: /nonexistent/lmtp}}\nstate_dir: {tmp_path}/state\n"
    )
    startup.init(configuration.load(str(path)))
    settings = tmp_path / "dovecot.conf"
    settings.write_text(BASE + snippet("mailseal") + chain())
    doveconf = tmp_path / "doveconf"
    doveconf.write_text(f'#!/bin/sh\nexec /usr/bin/doveconf -c {settings} "$@"\n')
    doveconf.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/bin"}
    command = [str(HOOKS / "mailseal"), "-c", str(path), "check-config"]
    done = subprocess.run([*command, "--json"], capture_output=True, env=env)
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"], done.stderr) == (status, word, b"")
    levels = [finding["level"] for finding in found["findings"]]
    assert levels == sorted(levels) and levels[0] == word[:-1]
    done = subprocess.run(command, capture_output=True, env=env)
    assert (done.returncode, done.stdout) == (status, f"{path}: {word}\n".encode())
    assert done.stderr.startswith(f"mailseal: {word[:-1]}: ".encode())
    done = subprocess.run([*command, "--file-only"], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: ok\n".encode(), b"")


def test_the_copy_of_the_public_keys_is_not_current(tmp_path: Path) -> None:
    text = f"state_dir: {tmp_path}/state\nkeys: {{store: 'postgresql:///mailseal'}}\n"
    me = os.geteuid()
    config = configuration.parse(f"{text}replica: {{user: {me}}}\nagent: {{user: {me}}}\n")
    assert [found.level for found in access_check.store(config)] == [ERROR]
    startup.init(config)
    assert [found.level for found in access_check.store(config)] == [WARNING]
    lease.write(config.public_dir, lease.Clock().now() + 30)
    assert list(access_check.store(config)) == []
