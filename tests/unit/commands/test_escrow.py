# SPDX-License-Identifier: MIT
"""An escrow key: its slot, and escrow-open on another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import CHEAP, AgentProcess, running
from tests.unit.commands.user import USER, opens


def write_escrow(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A public and a private PEM file."""
    key = PrivateKey.generate("secp384r1")
    public, private = folder / "escrow.pub.pem", folder / "escrow.pem"
    public.write_bytes(
        key.public.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        cipher = serialization.BestAvailableEncryption(password)
    private.write_bytes(
        key.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    )
    return public, private


class TestEscrow:
    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[AgentProcess]:
        public, _ = write_escrow(tmp_path)
        options = CHEAP.replace("}", f", escrow: {public}}}")
        with running(tmp_path, options) as process:
            yield process

    def test_escrow_is_a_recovery_method_and_shown(self, agent: AgentProcess) -> None:
        done = agent.run("enroll", USER, stdin=b"pw\n")
        assert b"LOST MAIL" not in done.stderr
        assert b"escrow" in agent.run("status", USER).stdout

    def test_keys_on_another_machine(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.stop()
        key = ["--escrow-key", str(tmp_path / "escrow.pem")]
        done = enrolled.run("escrow-open", *key, "--format", "dovecot", file, USER)
        published = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert published is not None
        assert PrivateKey.parse(done.stdout.decode()).key_id == published.key_id
        assert enrolled.run("restore", "--check", *key, file).returncode == 0

    def test_a_new_login_with_escrow(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file, out = str(tmp_path / "backup"), str(tmp_path / "out")
        enrolled.run("backup", file)
        key = ["--escrow-key", str(tmp_path / "escrow.pem")]
        done = enrolled.run("escrow-open", *key, "--recovery-code", out, file, USER)
        assert enrolled.run("restore", "--force", out).returncode == 0
        assert enrolled.run("recover", USER, stdin=done.stdout + b"new\n").returncode == 0
        assert opens(enrolled, b"new")

    def test_another_key_or_a_wrong_password_of_it(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        (tmp_path / "other").mkdir()
        _, other = write_escrow(tmp_path / "other", b"guarded")
        key = ["--escrow-key", str(other)]
        done = enrolled.run("escrow-open", *key, file, USER, stdin=b"guarded\n")
        assert done.returncode == 77 and b"no slot for this escrow key" in done.stderr
        done = enrolled.run("escrow-open", *key, file, USER, stdin=b"wrong\n")
        assert done.returncode == 65 and done.stdout == b""
