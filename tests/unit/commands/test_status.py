# SPDX-License-Identifier: MIT
"""status, repair, lock and print-config."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import HOOKS, AgentProcess
from tests.unit.commands.user import USER, opens


def test_status_of_many_users_in_pages(agent: AgentProcess) -> None:
    users = [f"user{number:03d}" for number in range(205)]
    for user in users:
        assert agent.ask("enroll", user=user.encode(), password=b"pw").status == "ok"
    found = json.loads(agent.run("status", "--json").stdout)
    assert [entry["user"] for entry in found["users"]] == users


def test_repair_and_status_show_a_replaced_key(enrolled: AgentProcess, tmp_path: Path) -> None:
    PublicStore(f"{tmp_path}/state/public").publish(USER, PrivateKey.generate().public)
    for arguments in (["status", USER], ["status"], ["status", "--json"]):
        done = enrolled.run(*arguments)
        assert done.returncode == 65 and b"NOT THE USER'S" in done.stdout
    assert b"PROBLEM: public key: NOT THE USER'S" in enrolled.run("status", USER).stdout
    assert not opens(enrolled, b"pw")
    assert b"published again" in enrolled.run("repair", USER).stdout
    assert opens(enrolled, b"pw")


@pytest.mark.parametrize("left", ["public key and mark", "public key", "mark"])
def test_status_tells_a_missing_keyring_from_no_enrollment(
    enrolled: AgentProcess, tmp_path: Path, left: str
) -> None:
    state = tmp_path / "state"
    (state / "keys" / f"{USER}.json").unlink()
    if "mark" not in left:
        (state / "public" / "enrolled" / USER).unlink()
    if "public key" not in left:
        (state / "public" / f"{USER}.json").unlink()
    done = enrolled.run("status", USER)
    assert done.returncode == 65
    assert b"PROBLEM: the keyring is missing\n  hint: restore it from a backup" in done.stdout
    done = enrolled.run("status", "bob")
    assert done.returncode == 67 and b"not enrolled" in done.stderr


def test_lock(enrolled: AgentProcess) -> None:
    assert opens(enrolled, b"pw")
    assert enrolled.run("lock", USER).stdout == b"1 sessions ended\n"
    assert enrolled.run("lock", "--all").stdout == b"0 sessions ended\n"


def test_print_config_is_a_configuration(enrolled: AgentProcess, tmp_path: Path) -> None:
    text = enrolled.run("print-config").stdout
    again = tmp_path / "again.yaml"
    again.write_bytes(text)
    done = subprocess.run([HOOKS / "mailseal", "-c", again, "print-config"], capture_output=True)
    assert done.stdout == text
    assert enrolled.run("check-config", "--file-only").stdout == f"{enrolled.config}: ok\n".encode()
