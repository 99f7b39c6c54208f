# SPDX-License-Identifier: MIT
"""reseal for many users, with one key; exit statuses of seal where trying again does not help."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import NotConvertible
from mailseal.mailbox import whole
from mailseal.mailbox.forms import Seal
from tests.lab.place import let_others_in
from tests.unit.agent_process import CHEAP, AgentProcess
from tests.unit.commands.user import USER

OTHER = "olaf@example.net"
MAIL = b"Subject: old\n\nold\n"
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def site(enrolled: AgentProcess, tmp_path: Path) -> AgentProcess:
    """Two users whose mail is sealed with the one key in key.pem."""
    home = f"{{userdb: template, user: nobody, home: {tmp_path}/homes/%n}}"
    enrolled.write_config(f"{CHEAP}delivery: {home}\n")
    assert enrolled.run("enroll", OTHER, stdin=b"other\n").returncode == 0
    key = PrivateKey.generate("prime256v1")
    for name, protection in (
        ("key.pem", NoEncryption()),
        ("locked.pem", BestAvailableEncryption(b"of the key")),
    ):
        (tmp_path / name).write_bytes(
            key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        )
    for user in (USER, OTHER):
        root = tmp_path / "homes" / user.partition("@")[0] / "Maildir"
        for part in ("cur", "new", "tmp"):
            (root / part).mkdir(parents=True)
        (root / "cur" / "1700000000.M1P1.host:2,S").write_bytes(dcrypt.seal(key.public, MAIL))
    for folder, _, names in os.walk(tmp_path / "homes"):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    let_others_in(tmp_path / "homes")
    return enrolled


def read(site: AgentProcess, tmp_path: Path, user: str, password: bytes) -> bytes:
    """The mail in clear, with the user's own keys."""
    done = site.run("unseal", user, "--stdin", stdin=password + b"\n")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "homes" / user.partition("@")[0] / "Maildir" / "cur").iterdir()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("options", "stdin", "who"),
    [
        (("--all",), b"", (USER, OTHER)),
        (("--domain", "example.net"), b"", (OTHER,)),
        (("--stdin",), f"{USER}\n{OTHER}\n".encode(), (USER, OTHER)),
        (("--all", "--stdin", "--locked"), b"of the key\n", (USER, OTHER)),
        (("--stdin", "--locked"), f"of the key\n{OTHER}\n".encode(), (OTHER,)),
    ],
)
def test_mail_of_many_users_is_sealed_to_their_own_keys(
    site: AgentProcess, tmp_path: Path, options: tuple[str, ...], stdin: bytes, who: tuple[str, ...]
) -> None:
    name = "locked.pem" if "--locked" in options else "key.pem"
    options = tuple(option for option in options if option != "--locked")
    done = site.run("reseal", *options, "--from-key", str(tmp_path / name), stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [user for user in (USER, OTHER) if user.encode() in done.stdout] == list(who)
    for user in who:
        assert read(site, tmp_path, user, b"pw" if user == USER else b"other") == MAIL


def test_many_users_have_no_common_password(site: AgentProcess) -> None:
    for options in (["--all"], ["--domain", "example.net"], ["--stdin"], []):
        done = site.run("reseal", *options, stdin=b"pw\n")
        assert done.returncode == 64 and b"--escrow-key or --from-key" in done.stderr


def test_who_is_not_in_the_user_database(enrolled: AgentProcess, tmp_path: Path) -> None:
    home = f"{{userdb: template, user: nobody, home: {tmp_path}/homes/%n}}"
    enrolled.write_config(f"{CHEAP}delivery: {home}\n")
    done = enrolled.run("seal", USER)
    assert done.returncode == 75 and b"cannot check" in done.stderr  # it may not be mounted
    os.makedirs(tmp_path / "homes" / "somebody")
    done = enrolled.run("seal", USER)
    assert done.returncode == 67 and b"the user database does not know" in done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_system_that_cannot_exchange_names(
    tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To try again would not help, so the exit status is not 75, and nothing is left behind."""
    for part in ("cur", "new", "tmp"):
        (tmp_path / part).mkdir()
    mail = tmp_path / "cur" / "1700000000.M1P1.host:2,S"
    mail.write_bytes(MAIL)

    def refuse(one: str, other: str) -> None:
        raise OSError(22, "Invalid argument", one)

    monkeypatch.setattr(durable, "exchange", refuse)
    form = Seal(PrivateKey.generate("prime256v1").public)
    with pytest.raises(NotConvertible, match="cannot exchange") as caught:
        whole.run(str(tmp_path), form, jobs=jobs)
    assert caught.value.exit_status == 65 and "run this on the NFS server" in str(caught.value.hint)
    assert mail.read_bytes() == MAIL and not list((tmp_path / "tmp").iterdir())
