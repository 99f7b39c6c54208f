# SPDX-License-Identifier: MIT
"""backup and restore."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.agent_process import AgentProcess
from tests.unit.commands.user import USER, code_of, opens


class TestBackup:
    def test_lost_and_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        enrolled.run("enroll", "bob", stdin=b"bobs\n")
        file = str(tmp_path / "backup")
        assert enrolled.run("backup", file).stdout == b"2 keyrings saved\n"
        assert os.stat(file).st_mode & 0o777 == 0o600
        for user, password in ((USER, b"pw"), ("bob", b"bobs")):
            for part in ("keys", "public", "public/enrolled"):
                for path in (tmp_path / "state" / part).glob(f"{user}*"):
                    path.unlink()
            assert not opens(enrolled, password, user)
        done = enrolled.run("restore", file)
        assert done.returncode == 0 and done.stdout.count(b"restored") == 2
        assert opens(enrolled, b"pw") and opens(enrolled, b"bobs", "bob")
        assert enrolled.run("restore", file).stdout.count(b"no change needed") == 2

    def test_the_keyring_alone_is_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        """The disk takes the keyring and then nothing more: it says so, and how to go on."""
        file = str(tmp_path / "backup")
        assert enrolled.run("backup", file, USER).returncode == 0
        assert enrolled.run("passwd", USER, stdin=b"pw\nnew\n").returncode == 0
        key = tmp_path / "state" / "public" / f"{USER}.json"
        key.unlink()
        key.mkdir()  # no file can be put in its place
        done = enrolled.run("restore", "--force", file)
        assert done.returncode == 75
        assert b"HALF RESTORED" in done.stdout and b"NOT RESTORED" not in done.stdout
        assert f"hint: run `mailseal repair {USER}`".encode() in done.stderr
        key.rmdir()
        assert enrolled.run("repair", USER).returncode == 0
        assert opens(enrolled, b"pw") and not opens(enrolled, b"new")

    def test_a_damaged_keyring_is_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        keyring = tmp_path / "state" / "keys" / f"{USER}.json"
        keyring.write_bytes(keyring.read_bytes()[:500])
        done = enrolled.run("backup", str(tmp_path / "second"))
        assert done.returncode == 65 and b"not saved" in done.stderr
        assert enrolled.run("restore", file).returncode == 0
        assert opens(enrolled, b"pw")

    def test_another_keyring_is_replaced_only_by_force(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.run("passwd", USER, stdin=b"pw\nnew\n")
        assert enrolled.run("restore", file).returncode == 65
        assert opens(enrolled, b"new")
        assert enrolled.run("restore", "--force", file).returncode == 0
        assert opens(enrolled, b"pw") and not opens(enrolled, b"new")

    def test_no_force_loses_a_key_pair(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.run("rotate", USER, stdin=b"pw\n")
        done = enrolled.run("restore", "--force", file)
        assert done.returncode == 65 and b"1 key pairs that are not in the backup" in done.stderr

    def test_check_proves_that_it_opens(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        code = code_of(enrolled, "recovery-code", USER)
        enrolled.run("backup", file)
        enrolled.stop()  # works on a machine without agent
        for secret in (b"pw", code):
            done = enrolled.run("restore", "--check", file, USER, stdin=secret + b"\n")
            assert (done.returncode, done.stdout) == (
                0,
                f"{USER}: can be opened, 1 key pairs\n".encode(),
            )
        done = enrolled.run("restore", "--check", file, USER, stdin=b"wrong\n")
        assert done.returncode == 77 and b"CANNOT BE OPENED" in done.stdout

    def test_check_without_a_secret_proves_nothing_and_says_so(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        enrolled.run("enroll", "bob", stdin=b"bobs\n")
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        done = enrolled.run("restore", "--check", file)
        assert done.returncode == 64 and b"none was opened" in done.stderr

    def test_every_truncation_and_every_changed_byte(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        from mailseal.errors import Damaged, NewerFormat
        from mailseal.keys import backup

        file = tmp_path / "backup"
        enrolled.run("backup", str(file))
        data = file.read_bytes()
        assert list(backup.parse(data)) == [USER]
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x01
            for harmed in (bytes(changed), data[:at]):
                with pytest.raises((Damaged, NewerFormat)):
                    backup.parse(harmed)
