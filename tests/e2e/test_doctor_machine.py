# SPDX-License-Identifier: MIT
# ruff: noqa: F401, F811 - fixtures of another module
"""`mailseal doctor`: faults of the machine, of mailseal.yaml, and of a user database in SQL."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from mailseal.admin.doctor import processes
from tests.e2e.sick import ALICE, VERSION, Result, Sick
from tests.e2e.sql_chains import Postgresql
from tests.e2e.test_doctor import sick, whole
from tests.lab import Lab
from tests.lab.dovecot import snippet
from tests.lab.process import Server, wait_until

Mistake = Callable[[Sick], None]
OTHER = {"2.3": "2.4", "2.4": "2.3"}[VERSION]


def in_yaml(name: str, value: object) -> Mistake:
    return lambda sick: sick.lab.write_config({name: value})


def a_folder_of_public_keys(sick: Sick) -> None:
    path = sick.lab.place.path("state", "public", "bob@example.org.json")
    os.mkdir(path)
    sick.afterwards(lambda: os.rmdir(path))


def open_socket(sick: Sick) -> None:
    """Every local user can deliver mail there."""
    sick.afterwards(lambda: set_mode(sick, "0660"))
    set_mode(sick, "0666")


def set_mode(sick: Sick, mode: str) -> None:
    in_yaml("delivery.socket_mode", mode)(sick)
    sick.lab.restart_delivery()


def queue_on_a_disk(sick: Sick) -> None:
    before = sick.lab.postfix.postconf("-h", "queue_directory").strip()
    sick.afterwards(lambda: sick.lab.postfix.postconf("-e", f"queue_directory = {before}"))
    sick.lab.postfix.postconf("-e", "queue_directory = /usr/lib")


MISTAKES: dict[str, tuple[Mistake, str, str]] = {
    "users": (in_yaml("agent.panel_users", ["no-such-user"]), "fail", "no-such-user"),
    "version": (in_yaml("dovecot.version", OTHER), "fail", f"dovecot.version is {OTHER}"),
    "public-keys": (a_folder_of_public_keys, "fail", "is not a file"),
    "index": (in_yaml("index.folder", "/run/nowhere/index"), "fail", "cannot open /run/nowhere"),
    "lmtp-socket": (open_socket, "warn", "every local user can deliver mail"),
    "queue-disk": (queue_on_a_disk, "warn", "/usr/lib is on a disk that is not encrypted"),
}


@pytest.mark.parametrize("check", MISTAKES)
def test_a_mistake_is_named(sick: Sick, check: str) -> None:
    make, level, words = MISTAKES[check]
    make(sick)
    found = [one for one in sick.new(check) if words in one["text"]]
    assert [one["level"] for one in found] == [level], sick.doctor("--only", check)
    assert "`" in found[0]["remedy"] or "mailseal" in found[0]["remedy"]
    sick.cure()
    assert sick.new(check) == []


def test_a_version_that_was_set_is_corrected(sick: Sick) -> None:
    in_yaml("dovecot.version", OTHER)(sick)
    (found,) = sick.new("version")
    assert "`dovecot: {version: auto}`" in found["remedy"]
    in_yaml("dovecot.version", "auto")(sick)
    assert sick.new("version") == []


def sealer(lab: Lab, config: str) -> Server:
    command = [os.path.join(lab.hooks, "mailseal-sealer"), "-c", config]
    server = Server("mailseal-sealer", command, lab.place.path("log", "sealer.log"))
    server.start(until=[])
    return server


def test_a_daemon_that_an_option_needs(sick: Sick) -> None:
    """It runs with this configuration: that of another installation does not count."""
    in_yaml("seal.existing", "at-enrollment")(sick)
    another = sick.lab.place.path("state", "another.yaml")
    shutil.copy(sick.lab.config_path, another)
    servers = [sealer(sick.lab, another)]
    try:
        wait_until(lambda: any(processes.running("mailseal-sealer", another)), "a second sealer")
        (found,) = sick.new("other-daemons")
        assert f"mailseal-sealer does not run with {sick.lab.config_path}" in found["text"]
        assert "`systemctl enable --now mailseal-sealer`" in found["remedy"]
        servers.append(sealer(sick.lab, sick.lab.config_path))
        wait_until(lambda: sick.new("other-daemons") == [], "doctor sees mailseal-sealer")
    finally:
        for server in servers:
            server.stop()
        os.unlink(another)


def in_a_namespace(sick: Sick, prepare: str, check: str) -> Result:
    """One result, with mounts that only this run of doctor sees."""
    lab = sick.lab
    doctor = f"{lab.hooks}/mailseal -c {lab.config_path} doctor --json --only {check}"
    script = f"{prepare} && {doctor} --postfix-config {lab.postfix.config}"
    command = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found: Result = json.loads(done.stdout)["results"][0]
    return found


def test_a_cache_without_a_place_of_its_own_is_no_pass(sick: Sick) -> None:
    """It is with the mail, on a disk: the check `dovecot` says so."""
    assert sick.doctor("--only", "index-cache")[1][0]["level"] == "pass"
    in_23 = "mail_location = maildir:~/Maildir"
    sick.dovecot(in_23 if VERSION == "2.3" else "mail_cache_path =")
    assert sick.doctor("--only", "index-cache")[1] == []
    assert any("is stored with the mail" in one["text"] for one in sick.new("dovecot"))


def test_swap(sick: Sick) -> None:
    swaps = sick.lab.place.path("swaps")
    head = "Filename\tType\tSize\tUsed\tPriority\n"
    levels = {
        "": "pass",
        "/dev/zram0 partition 8 0 -2\n": "pass",
        "/swapfile file 8 0 -2\n": "warn",
    }
    for lines, level in levels.items():
        with open(swaps, "w", encoding="ascii") as stream:
            stream.write(head + lines)
        found = in_a_namespace(sick, f"mount --bind {swaps} /proc/swaps", "swap")
        assert found["level"] == level, found
    assert "`swapoff /swapfile`" in found["remedy"]


def test_a_full_disk(sick: Sick) -> None:
    state = sick.lab.place.path("state")
    small = f"mount -t tmpfs -o size=256k tmpfs {state}"
    assert in_a_namespace(sick, small, "space")["level"] == "pass"
    full = f"{small} && {{ head -c 300k /dev/zero > {state}/file 2>/dev/null || true; }}"
    found = in_a_namespace(sick, full, "space")
    assert (found["level"], f"{state} has only 0 MB left" in found["text"]) == ("fail", True)
    none = f"mount -t tmpfs -o nr_inodes=1 tmpfs {state}"
    assert "no inode left" in in_a_namespace(sick, none, "space")["text"]


def test_the_clock(sick: Sick) -> None:
    """The clock of the machine is not changed here: the check agrees with the kernel."""
    state = ctypes.CDLL(None).ntp_gettime(ctypes.create_string_buffer(512))
    (found,) = sick.doctor("--only", "clock")[1]
    assert found["level"] == ("warn" if state == 5 else "pass")


@pytest.fixture
def behind_sql() -> Iterator[tuple[Sick, Postgresql]]:
    if missing := Postgresql.missing():
        pytest.skip(f"to test this, install: {missing}")
    lab = Lab({ALICE: "password"}, auth=None)
    chain = Postgresql(lab)
    try:
        chain.start()
        before = chain.block_24() if VERSION == "2.4" else ""
        places = {**lab.dovecot.wanted.places, **chain.places()}
        lab.dovecot.write_config(extra=before + snippet(lab.dovecot.version, chain.snippet, places))
        chain.set_password(ALICE, "password")
        lab.start()
        yield Sick(lab), chain
    finally:
        lab.stop()
        chain.stop()


def test_an_sql_server_that_is_down(behind_sql: tuple[Sick, Postgresql]) -> None:
    """Mail is deferred, nobody can log in; doctor names the database."""
    sick, chain = behind_sql
    assert sick.new("user-database") == []
    chain._server.stop()
    (found,) = sick.new("user-database")
    assert found["level"] == "fail"
    assert "cannot look up users" in found["text"] and "userdb sql" in found["remedy"]
    status, proofs = sick.doctor(ALICE, "--only", "imap", stdin="password\n")
    assert (status, proofs[0]["level"]) == (2, "fail")
    chain._server.start()
    wait_until(lambda: sick.new("user-database") == [], "Dovecot reaches the database again")
    status, proofs = sick.doctor(ALICE, "--only", "imap", stdin="password\n")
    assert (status, proofs[0]["level"]) == (0, "pass"), proofs
