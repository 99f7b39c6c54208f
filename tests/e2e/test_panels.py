# SPDX-License-Identifier: MIT
"""The shell scripts of docs/panels.md, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.place import REPOSITORY

PAGE = Path(REPOSITORY, "docs", "panels.md").read_text(encoding="utf-8")


def script(heading: str, number: int) -> str:
    """The number-th shell block below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return str(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[number])


@pytest.fixture
def tools(lab: Lab, tmp_path: Path) -> dict[str, str]:
    """A folder with the scripts, and a `mailseal` that knows the lab's configuration."""
    programs = {
        "change-password": script("passwd-file", 0),
        "set-hash": script("passwd-file", 1),
        "postfixadmin-password": script("PostfixAdmin: the post-password script", 0),
        "mailseal": f'#!/bin/sh\nexec {lab.hooks}/mailseal -c {lab.config_path} "$@"\n',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.write_text(text.replace("/usr/local/sbin", str(tmp_path)), encoding="utf-8")
        path.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin",
        "USERS_FILE": str(tmp_path / "users"),
    }


def run(tools: dict[str, str], *command: str, stdin: bytes) -> int:
    done = subprocess.run(command, env=tools, input=stdin, capture_output=True)
    return done.returncode


def keyring_opens(lab: Lab, user: str, password: bytes) -> bool:
    done = lab.mailseal("export-key", user, stdin=password + b"\n")
    return done.returncode == 0


def hash_fits(users: Path, user: str, password: str) -> bool:
    line = next(x for x in users.read_text().splitlines() if x.startswith(f"{user}:"))
    command = ["doveadm", "pw", "-t", line.split(":")[1]]
    done = subprocess.run(command, input=f"{password}\n".encode(), capture_output=True)
    return done.returncode == 0


def test_passwd_file(lab: Lab, user: str, tools: dict[str, str], tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"other@x:{{PLAIN}}x::::::\n{user}:{{PLAIN}}password:1:2::/h::\n")
    users.chmod(0o640)
    change = str(tmp_path / "change-password")
    assert run(tools, change, user, stdin=b"wrong\nnext one\n") == 77
    assert ":{PLAIN}password:" in users.read_text()
    assert run(tools, change, user, stdin=b"password\nnext $1 'one'\n") == 0
    assert hash_fits(users, user, "next $1 'one'")
    assert keyring_opens(lab, user, b"next $1 'one'") and not keyring_opens(lab, user, b"password")
    lines = users.read_text().splitlines()
    assert lines[0] == "other@x:{PLAIN}x::::::" and lines[1].endswith(":1:2::/h::")
    assert os.stat(users).st_mode & 0o777 == 0o640


def test_a_user_who_is_not_in_the_file_changes_nothing(
    lab: Lab, user: str, tools: dict[str, str], tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.write_text("other@x:{PLAIN}x::::::\n")
    assert run(tools, str(tmp_path / "change-password"), user, stdin=b"password\nnext\n") == 69
    assert users.read_text() == "other@x:{PLAIN}x::::::\n"
    assert keyring_opens(lab, user, b"password") and not keyring_opens(lab, user, b"next")
    assert not list(tmp_path.glob("users.*"))


def test_postfixadmin(lab: Lab, user: str, tools: dict[str, str], tmp_path: Path) -> None:
    """Two passwords that end with NUL; the pipe stays open until the script has ended."""
    process = subprocess.Popen(
        [tmp_path / "postfixadmin-password", user, "example.org"], env=tools, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"password\0next one\0")
    process.stdin.flush()
    assert process.wait(60) == 0
    process.stdin.close()
    assert keyring_opens(lab, user, b"next one") and not keyring_opens(lab, user, b"password")
