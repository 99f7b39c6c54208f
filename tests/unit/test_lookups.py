# SPDX-License-Identifier: MIT
"""The process that answers Dovecot's dict driver: protocol, and what it leaves to the program."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.login import local_keys, lookups
from tests.unit.checkpassword_process import run

KEY = PrivateKey.generate().public
SPELLED = KEY.dovecot_string()
CONF = Path(__file__).parents[2] / "dovecot-conf" / "2.3"
HELLO = b"H3\t2\t0\t\tmailseal\n"


@pytest.fixture
def public(tmp_path: Path) -> str:
    """alice is enrolled."""
    store = PublicStore(str(tmp_path / "public"))
    store.prepare()
    store.publish("alice", KEY)
    return str(tmp_path / "public")


@pytest.fixture
def path(public: str, tmp_path: Path) -> Iterator[str]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    server = lookups.Server(listener, public, frozenset({os.getuid()}))
    threading.Thread(target=server.serve, daemon=True).start()
    yield str(tmp_path / "socket")


def connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(path)
    return client


def asked(path: str, *pieces: bytes) -> bytes:
    """All that is answered to these pieces, up to the end of the connection."""
    with connected(path) as client:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        found = b""
        while chunk := client.recv(65536):
            found += chunk
        return found


def key(kind: str = "behind", user: str = "alice", **more: str) -> str:
    """A key as Dovecot makes it from the file."""
    names = ("given", "undoing", "mail", "location", "inbox", "mechanism", "service", "master")
    values = [more.get(name, "") for name in names]
    return "shared/" + "|".join([kind, *values, "", user])


def variables(kind: str) -> list[str]:
    """The variables of the file, in the order of the fields."""
    text = (CONF / f"lookup-{kind}.conf.ext").read_text()
    (line,) = re.findall(rf"^  key = {kind}\|(.*)$", text, re.MULTILINE)
    return str(line).split("|")


@pytest.mark.parametrize("kind", ["behind", "only"])
def test_the_files_have_the_fields_in_this_order(kind: str) -> None:
    assert [re.findall(r"%\{?(?:userdb:)?([\w/]+)", field) for field in variables(kind)] == [
        ["mail_crypt_global_public_key"],
        ["plugin/mail_crypt_save_version", "plugin/mail_crypt_global_public_key",
         "mail_plugin_dir", "mail_attachment_dir"],
        ["mail"], ["mail_location"], ["namespace/inbox/location"],
        ["m"], ["s"], ["master_user"],
        ["mail_crypt_save_version", "mbox_write_locks"],
        ["u"],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["behind", "only"])
def test_the_program_and_the_process_are_asked_the_same(kind: str) -> None:
    name = {"behind": "behind-passwd-file", "only": "mailseal-only"}[kind]
    text = (CONF / f"auth-{name}-checkpassword.conf").read_text()
    given, undoing, *mail = variables(kind)[:5]
    words = [f"--key={given}", f"--undoing={undoing}", *(f"--mail={place}" for place in mail)]
    assert " ".join(words) + "\n" in text


CASES = [
    {},
    {"user": "bob"},
    {"given": SPELLED, "mechanism": "PLAIN", "service": "imap"},
    {"given": SPELLED, "user": "bob", "mechanism": "PLAIN"},
    {"given": "2:00:00", "mechanism": "PLAIN"},
    {"mechanism": "PLAIN", "service": "imap"},
    {"mechanism": "PLAIN", "service": "pop3", "user": "bob"},
    {"undoing": "0"},
    {"undoing": "0", "user": "bob"},
    {"mail": "maildir:~/Maildir", "location": "sdbox:~/x", "inbox": "mdbox:~/y"},
    {"mail": "mbox:~/mail"},
    {"inbox": "imapc:"},
    {"mail": "imapc:", "user": "bob"},
    {"user": "Alice"},
    {"user": "Bob"},
    {"user": "x" * 300},
]


@pytest.mark.parametrize("kind", ["behind", "only"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_answers_as_the_program(public: str, kind: str, case: dict[str, str]) -> None:
    """Or leaves it to the program, which never permits what the process does not."""
    case = dict(case)
    user = case.get("user", "alice")
    environ = {"AUTHORIZED": "1", "SERVICE": case.get("service", "lmtp")}
    if case.get("mechanism"):
        environ["AUTH_MECH"] = case["mechanism"]
    words = [
        *(["--behind-passdb"] if kind == "behind" else []),
        f"--key={case.get('given', '')}",
        f"--undoing={case.get('undoing', '')}",
        *(f"--mail={case.get(name, '')}" for name in ("mail", "location", "inbox")),
    ]
    agent = os.path.join(os.path.dirname(public), "no-agent")
    status, reply, _ = run(agent, *words, data=f"{user}\0\0\0".encode(), env=environ)
    try:
        found = lookups.answer(key(kind, **case), public)
    except (TemporaryError, local_keys.LongName):
        found = None
    if status == 2:
        fields = dict(part.split("=", 1) for part in reply.decode().split("\t") if part)
        assert {f"userdb_{name}": value for name, value in (found or {}).items()} == fields
    else:
        assert status in (3, 111) and found is None


def test_master_users_are_left_to_the_program(public: str) -> None:
    """It logs them."""
    assert lookups.answer(key(mechanism="PLAIN", service="imap", master="root"), public) is None


def test_the_passdb(public: str) -> None:
    for user, found in (("alice", {"noauthenticate": "y"}), ("bob", {})):
        assert lookups.answer(f"shared/passdb|session|{user}", public) == found
    Path(public, "enroll-at-login").touch()
    assert lookups.answer("shared/passdb|session|bob", public) == {"noauthenticate": "y"}


def test_lines_in_pieces_and_many_at_once(path: str) -> None:
    line = b"L" + key().encode() + b"\talice\n"
    sealed = asked(path, HELLO + line)
    assert json.loads(sealed[1:])["mail_crypt_global_public_key"] == SPELLED
    assert asked(path, HELLO, *(bytes([byte]) for byte in line)) == sealed
    assert asked(path, HELLO + line * 50) == sealed * 50
    assert asked(path, HELLO + line[:-1]) == b""
    without_user = b"L" + key(user="bob").encode() + b"\n"
    assert asked(path, without_user) == b'O{"mail_crypt_save_version": "0"}\n'


@pytest.mark.parametrize(
    "wrong",
    [
        "", "shared/", "shared/x", "shared/behind", key(user=""), key(user="a|b"),
        key(mail="maildir:|x"), key() + "|", "shared/passdb|alice", "shared/passdb|s|s|alice",
        key("other"), key(user="\udcff"),
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_program(path: str, wrong: str) -> None:
    line = b"L" + wrong.encode("utf-8", "surrogateescape") + b"\n"
    found = asked(path, HELLO + line + b"L" + key().encode() + b"\n")
    assert found.splitlines()[0] == b"N"
    assert found.splitlines()[1].startswith(b'O{"mail_crypt_global_public_key"')


@pytest.mark.parametrize("user", ["a/../../keys/alice", "\x01", "\x01|", "al\tice", "al\nice"])
def test_names_that_no_enrolled_user_has(path: str, user: str) -> None:
    escaped = user.replace("\x01", "\x011").replace("\t", "\x01t").replace("\n", "\x01n")
    found = asked(path, b"L" + key(user=escaped).encode() + b"\tx\n")
    assert found == (b"N\n" if "|" in user else b'O{"mail_crypt_save_version": "0"}\n')


def test_a_store_that_is_not_there(path: str, public: str) -> None:
    """Not "not enrolled"."""
    shutil.rmtree(public)
    for user in ("alice", "bob"):
        assert asked(path, b"L" + key(user=user).encode() + b"\n") == b"N\n"


def test_hostile_clients_hold_up_nobody(path: str) -> None:
    line = b"L" + key().encode() + b"\n"
    with connected(path) as silent, connected(path) as deaf, connected(path) as endless:
        silent.sendall(b"L")
        deaf.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionError)):
            while True:  # until it is closed, because it does not read
                deaf.send(line * 100)
        endless.setblocking(True)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                endless.sendall(b"x" * 65536)
        assert asked(path, line).startswith(b'O{"mail_crypt_global')
        assert asked(path, b"Xcommand\n" + b"S1\tshared/x\ty\n").count(b"\nF") == 1
