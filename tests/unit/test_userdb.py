# SPDX-License-Identifier: MIT
"""The user database: names with "..", unsupported locations, incorrect servers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal import config as configuration
from mailseal.delivery.dovecot.location import expand, layout_of, maildir_of
from mailseal.delivery.dovecot.settings import in_short
from mailseal.delivery.dovecot.template import Template
from mailseal.delivery.dovecot.userdb import Cached, DovecotUserdb, escape, unescape
from mailseal.errors import BadUserName, TemporaryError
from tests.listener import serve, unix_listener


@given(st.text())
def test_escaping_is_undone(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not set(escape(text)) & set("\t\n\r\0")


def test_expand() -> None:
    assert expand("/m/%d/%n", "a@b") == "/m/b/a"
    assert expand("~/x", "a@b", "/home/a") == "/home/a/x"
    assert expand("%h/%%/%u", "a@b", "/h") == "/h/%/a@b"
    assert expand("/m/%d/%n", "a") is None
    assert expand("/m/%Ld", "a@b") is None
    assert expand("relative", "a@b") is None
    assert expand("~/x", "a@b", "") is None


@pytest.mark.parametrize("user", ["../x@b", "a/b@c", "..@b", "a@..", ".@b", "a@b/c"])
def test_names_cannot_leave_the_path(user: str) -> None:
    with pytest.raises(BadUserName):
        expand("/m/%d/%n", user)
    assert expand("~/Maildir", user, "/home/x") == "/home/x/Maildir"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "/h/Maildir"),
        ({"mail": "maildir:/x/%n"}, "/x/a"),
        ({"mail": "maildir:~/M:INDEX=/i:INDEXCACHE=/c/%u:LAYOUT=fs"}, "/h/M"),
        ({"mail": "maildir:~/M:INBOX=/other"}, None),
        ({"mail": "maildir:~/M:INBOX=~/M/"}, "/h/M"),
        ({"mail": "maildir:~/M:inbox=/h/M/.In"}, None),
        ({"mail": "maildir:~/M:INBOX"}, None),
        ({"mail": "maildir:~/M:INBOX=%{odd}"}, None),
        ({"mail": "maildir:%{odd}:INBOX=%{odd}"}, None),
        ({"mail": "maildir:~/M:LAYOUT=index"}, None),
        ({"mail": "maildir:~/M:DIRNAME=x"}, None),
        ({"namespace/inbox/location": "maildir:~/N"}, None),
        ({"mail": "maildir:~/M", "namespace": "a,b"}, None),
        ({"mail": "mdbox:~/mdbox"}, None),
        ({"mail": "maildir:"}, None),
        ({"mail": "maildir:%{weird}"}, None),
        ({"mail_driver": "maildir", "mail_path": "~/N"}, "/h/N"),
        ({"mail_path": "~/N"}, "/h/N"),
        ({"mail_driver": "sdbox"}, None),
        ({"mail_path": "~/N", "mail_inbox_path": "~/N"}, "/h/N"),
        ({"mail_path": "~/N", "mail_inbox_path": "."}, "/h/N"),
        ({"mail_path": "~/N", "mail_inbox_path": ""}, "/h/N"),
        ({"mail_path": "~/N", "mail_inbox_path": "In"}, None),
        ({"mail_path": "~/N", "mail_inbox_path": "~/In"}, None),
        ({"mail_inbox_path": "/var/mail/%{user}"}, None),
        ({"mail_inbox_path": "~/Maildir"}, "/h/Maildir"),
        ({"mail_path": "~/N", "mail_inbox_path": "%{odd}"}, None),
        ({"mail_path": "~/N", "mailbox_list_layout": "index"}, None),
        ({"mail_path": "~/N", "mailbox_list_layout": "fs"}, "/h/N"),
        ({"mail_path": "~/N", "mailbox_list_index": "yes"}, "/h/N"),
        ({"mail_path": "~/N", "mailbox_directory_name": "x"}, None),
        ({"namespace+inbox/mail_path": "~/N"}, None),
    ],
)
def test_mail_locations(fields: dict[str, str], found: str | None) -> None:
    assert maildir_of(fields, "a@b", "/h", "~/Maildir") == found


def test_the_variable_of_the_encrypted_index_does_not_hide_the_maildir() -> None:
    location = "maildir:~/Maildir:INDEXCACHE=/run/cache/%u%{userdb:mailseal_index}"
    assert maildir_of({"mail": in_short(location)}, "a@b", "/home/a", "") == "/home/a/Maildir"
    assert maildir_of({"mail": location}, "a@b", "/home/a", "") is None


def test_layouts() -> None:
    assert layout_of({}) == "maildir++"
    assert layout_of({"mail": "maildir:~/M:LAYOUT=fs"}) == "fs"
    assert layout_of({"mailbox_list_layout": "index"}) == "index"


def test_template(tmp_path: Path) -> None:
    (tmp_path / "example.org" / "alice").mkdir(parents=True)
    text = f"delivery: {{userdb: template, home: {tmp_path}/%d/%n}}"
    users = Template(configuration.parse(text))
    account = users.lookup("Alice@Example.org")
    assert account is not None
    assert (account.user, account.maildir) == (
        "alice@example.org",
        f"{tmp_path}/example.org/alice/Maildir",
    )
    for nobody in ("bob@example.org", "alice", "../alice@example.org", "alice@other", "a\nb@c"):
        assert users.lookup(nobody) is None
    os.rename(tmp_path, f"{tmp_path}.gone")
    with pytest.raises(TemporaryError):
        users.lookup("alice@example.org")


class Peer:
    """A server at an auth-userdb socket with given answers."""

    def __init__(self, path: str) -> None:
        self.answer = b""
        self.connections = 0
        self.questions: list[bytes] = []
        serve(unix_listener(path), self._client)

    def _client(self, client: socket.socket) -> None:
        self.connections += 1
        client.sendall(b"VERSION\t1\t2\nSPID\t99\n")
        for line in client.makefile("rb"):
            if not line.startswith(b"USER"):
                continue
            self.questions.append(line)
            if self.answer == b"close":
                return
            client.sendall(self.answer.replace(b"ID", line.split(b"\t")[1]))


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    yield Peer(str(tmp_path / "auth"))


def users_of(tmp_path: Path) -> DovecotUserdb:
    text = f"dovecot: {{userdb_socket: {tmp_path}/auth, timeout: 1s}}"
    return DovecotUserdb(configuration.parse(text), {})


def test_a_good_answer(tmp_path: Path, peer: Peer) -> None:
    users = users_of(tmp_path)
    peer.answer = b"USER\tID\talice@x\tuid=5\thome=/h\x01tx\tmail=maildir:~/M\tflag\n"
    assert users.lookup("Alice@x") == users.lookup("Alice@x")
    account = users.lookup("Alice@x")
    assert account is not None
    assert (account.user, account.home, account.uid) == ("alice@x", "/h\tx", 5)
    assert account.maildir == "/h\tx/M"
    assert account.extra["flag"] == ""
    assert peer.connections == 1
    assert peer.questions[0] == b"USER\t1\tAlice@x\tservice=lmtp\n"


def test_not_found(tmp_path: Path, peer: Peer) -> None:
    peer.answer = b"NOTFOUND\tID\n"
    users = users_of(tmp_path)
    assert users.lookup("x@y") is None
    assert users.lookup("evil\tservice=imap") is None
    assert len(peer.questions) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"FAIL\tID\treason=x\n",
        b"USER\tID\n",
        b"USER\t77\talice\n",
        b"NOTFOUND\t77\n",
        b"USER\tID\t\xff\xfe\n",
        b"USER\tID\talice\tuid=many\n",
        b"CUID\t5\n",
        b"VERSION\t2\t0\n",
        b"x" * 300000 + b"\n",
        b"USER\tID\talice",
        b"",
        b"close",
    ],
)
def test_anything_else_is_temporary(tmp_path: Path, peer: Peer, answer: bytes) -> None:
    peer.answer = answer
    users = users_of(tmp_path)
    with pytest.raises(TemporaryError):
        users.lookup("alice@x")
    # ... and an incomplete answer is not used for the next request.
    peer.answer = b"USER\tID\tbob@x\thome=/b\n"
    account = users.lookup("bob@x")
    assert account is not None
    assert account.user == "bob@x"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="cannot ask Dovecot"):
        users_of(tmp_path).lookup("a@b")


def test_a_chroot_or_another_format_is_not_ours(tmp_path: Path, peer: Peer) -> None:
    users = users_of(tmp_path)
    for field in (b"chroot=/c", b"home=/c/./h", b"mail=mbox:~/m"):
        peer.answer = b"USER\tID\ta@x\thome=/h\t" + field + b"\n"
        account = users.lookup("a@x")
        assert account is not None
        assert account.maildir is None


def test_failures_and_unknown_users_are_not_kept(tmp_path: Path, peer: Peer) -> None:
    users = Cached(users_of(tmp_path), 60)
    peer.answer = b"FAIL\tID\n"
    with pytest.raises(TemporaryError):
        users.lookup("a@x")
    peer.answer = b"NOTFOUND\tID\n"
    assert users.lookup("a@x") is None
    peer.answer = b"USER\tID\ta@x\thome=/h\n"
    assert users.lookup("a@x") is not None
    assert users.remembered("a@x") is not None
    peer.answer = b"FAIL\tID\n"
    assert users.lookup("a@x") is not None
    assert len(peer.questions) == 3
