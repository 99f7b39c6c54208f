# SPDX-License-Identifier: MIT
"""Commands that print mail or key pairs: cat, export-key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import AgentProcess
from tests.unit.commands.user import USER, code_of


def test_cat(enrolled: AgentProcess, tmp_path: Path) -> None:
    key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
    assert key is not None
    mail = b"Subject: x\n\n" + os.urandom(100_000)
    path = tmp_path / "mail"
    path.write_bytes(dcrypt.seal(key, mail))
    enrolled.run("rotate", USER, stdin=b"pw\n")
    assert enrolled.run("cat", str(path), stdin=b"pw\n").stdout == mail
    app = code_of(enrolled, "app-password", USER, "phone")
    assert enrolled.run("cat", str(path), stdin=app + b"\n").stdout == mail
    for harm, status in ((b"flip", 65), (b"cut", 65), (b"plain", 65), (b"foreign", 67)):
        sealed = bytearray(dcrypt.seal(key, mail))
        if harm == b"flip":
            sealed[50_000] ^= 1
        elif harm == b"cut":
            del sealed[-1]
        elif harm == b"plain":
            sealed[:] = mail
        else:
            sealed[:] = dcrypt.seal(PrivateKey.generate().public, mail)
        path.write_bytes(sealed)
        done = enrolled.run("cat", str(path), stdin=b"pw\n")
        assert (done.returncode, done.stdout) == (status, b""), harm
        assert done.stderr.startswith(b"mailseal: error: ")


@pytest.mark.parametrize("form", ["pem", "dovecot"])
def test_export_key_after_rotation(enrolled: AgentProcess, form: str) -> None:
    enrolled.run("rotate", USER, stdin=b"pw\n")
    code = code_of(enrolled, "recovery-code", USER)
    status = json.loads(enrolled.run("status", "--json", USER).stdout)
    ids = [key["id"] for key in reversed(status["users"][0]["keys"])]
    for secret in (b"pw", code):
        done = enrolled.run("export-key", USER, "--format", form, stdin=secret + b"\n")
        assert done.returncode == 0 and b"warning" in done.stderr
        text = done.stdout.decode()
        if form == "pem":
            keys = [f"-----BEGIN{part}" for part in text.split("-----BEGIN")[1:]]
        else:
            keys = text.splitlines()
        assert [PrivateKey.parse(key).key_id.hex() for key in keys] == ids
