# SPDX-License-Identifier: MIT
"""Full-text search in sealed mail: only the indexer has keys, and the index is encrypted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, BOB, Imap, Lab
from tests.lab.dovecot import installed_version
from tests.lab.full_text import configuration, missing, options
from tests.lab.place import MAIL_UID
from tests.lab.process import logged, wait_until
from tests.lab.smtp import send

PLAIN = "plain@example.org"
PASSWORD = "password"

# Sends a request in Dovecot's auth-master protocol, and prints the lines up to the end of the
# answer.
_ASK = """
import socket, sys
path, question = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(path)
s.sendall(b"VERSION\\t1\\t0\\n" + question.encode() + b"\\n")
got = b""
while not any(line.startswith((b"USER", b"FAIL", b"NOTFOUND")) for line in got.split(b"\\n")[:-1]):
    piece = s.recv(65536)
    if not piece:
        break
    got += piece
sys.stdout.buffer.write(got)
"""


@pytest.fixture(scope="module")
def _packages() -> None:
    if package := missing(installed_version()):
        pytest.skip(f"{package} is not installed, for Dovecot {installed_version()[:3]}")


@pytest.fixture(scope="module")
def site(_packages: None, volume: str) -> Iterator[Lab]:
    made = Lab(
        {ALICE: PASSWORD, BOB: PASSWORD},
        auth="behind-passwd-file",
        plain_users={PLAIN: PASSWORD},
    )
    made.write_config({"index.folder": f"{volume}/index", **options(made.dovecot)})
    made.dovecot.write_config(configuration(made.dovecot))
    with made as lab:
        yield lab


def deliver(lab: Lab, user: str, word: str) -> None:
    text = f"Subject: a mail\r\nFrom: <eve@example.net>\r\n\r\nthe {word} is in the cellar\r\n"
    send(lab.smtp, "eve@example.net", [user], text.encode())
    lab.wait_delivered()


def search(imap: Imap, word: str) -> list[bytes]:
    return [line for line in imap.command(b'SEARCH BODY "%s"' % word.encode()) if b"SEARCH" in line]


def indexes(folder: str) -> list[str]:
    """The files of full-text indexes below a folder that contain words."""
    return [
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name == "postlist.glass"
    ]


def index_folder(lab: Lab, user: str) -> str:
    found = re.search(r"index: .* (/\S+)", lab.mailseal("status", user).stdout.decode())
    assert found
    return found[1]


def ask(path: str, user: str, service: str, uid: int = 0) -> str:
    """The answer that a uid gets, and the reason of a failure."""
    names = f"service={service}\tprotocol={service}"
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run(
        [*command, "/usr/bin/python3", "-I", "-c", _ASK, path, f"USER\t1\t{user}\t{names}"],
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_a_login_starts_indexing_and_a_search_reads_no_mail(site: Lab) -> None:
    deliver(site, ALICE, "tangerine")
    with site.login(ALICE) as imap:
        folder = index_folder(site, ALICE)
        wait_until(lambda: indexes(folder), "the login has indexed INBOX")
        assert imap.select() == 1
        assert search(imap, "tangerine")[0] == b"* SEARCH 1"
    assert indexes(site.home(ALICE)) == []
    # Nobody can read the mail now, so only the index can find it.
    (path,) = site.stored(ALICE)
    os.chmod(path, 0)
    try:
        with site.login(ALICE) as imap:
            imap.select()
            assert search(imap, "tangerine")[0] == b"* SEARCH 1"
            assert search(imap, "clementine")[0] == b"* SEARCH"
    finally:
        os.chmod(path, 0o600)


def test_users_who_are_not_enrolled_are_indexed_as_without_mailseal(site: Lab) -> None:
    deliver(site, PLAIN, "mandarin")
    with Imap(site.imap, PLAIN, PASSWORD) as imap:
        imap.select()
        assert search(imap, "mandarin")[0] == b"* SEARCH 1"
    assert indexes(site.home(PLAIN))


def test_without_a_session_mails_are_found_and_nothing_is_indexed(site: Lab) -> None:
    """The connection lasts longer than the agent's session: then the search reads the mails."""
    deliver(site, BOB, "satsuma")
    with site.login(BOB) as imap:
        imap.select()
        assert search(imap, "satsuma")[0] == b"* SEARCH 1"
        site.restart_agent()
        deliver(site, BOB, "kumquat")
        imap.command(b"NOOP")
        assert search(imap, "kumquat")[0] == b"* SEARCH 2"
        assert search(imap, "satsuma")[0] == b"* SEARCH 1"
        site.stop_agent()
        try:
            assert search(imap, "kumquat")[0] == b"* SEARCH 2"
        finally:
            site.start_agent()
    logged(site, "no session, so no key")
    assert indexes(site.home(BOB)) == []
    with site.login(BOB) as imap:
        imap.select()
        assert search(imap, "kumquat")[0] == b"* SEARCH 2"


def test_only_root_gets_keys(site: Lab) -> None:
    path = site.place.quick_path("indexer.sock")
    with site.login(ALICE):
        good = ask(path, ALICE, "indexer-worker")
        assert "private_key" in good
        assert good.splitlines()[-1].startswith(f"USER\t1\t{ALICE}\t")
        # The uid of the delivery daemon and of all mail processes.
        assert "PermissionError" in ask(path, ALICE, "indexer-worker", MAIL_UID)
        os.chmod(path, 0o666)
        try:
            refused = ask(path, ALICE, "indexer-worker", MAIL_UID)
            assert "USER" not in refused and "private" not in refused
        finally:
            os.chmod(path, 0o600)
        logged(site, "only root is answered")
        # Dovecot's userdb, which this uid may ask, returns the mail location and public key.
        for service in ("indexer-worker", "imap", "lmtp"):
            said = ask(site.dovecot.userdb_socket, ALICE, service, MAIL_UID)
            assert f"USER\t1\t{ALICE}\t" in said
            assert "private" not in said and "password" not in said


def test_root_gets_keys_only_as_indexer_and_with_a_session(site: Lab) -> None:
    path = site.place.quick_path("indexer.sock")
    with site.login(ALICE):
        for service in ("imap", "lmtp", "doveadm"):
            assert ask(path, ALICE, service).splitlines()[-1].startswith("FAIL\t1")
        assert "private_key" in ask(path, ALICE, "indexer-worker")
    assert site.mailseal("lock", ALICE).returncode == 0
    assert ask(path, ALICE, "indexer-worker").splitlines()[-1].startswith("FAIL\t1")
    assert "NOTFOUND\t1" in ask(path, "nobody@example.org", "indexer-worker")
    said = ask(path, PLAIN, "indexer-worker")
    assert f"USER\t1\t{PLAIN}\t" in said
    assert "private" not in said


@pytest.mark.parametrize(
    "question",
    ["", "USER", "USER\t1", "PASS\t1\talice@example.org\tservice=imap", "LIST\t1", "USER\tx\ty"],
)
def test_other_requests_get_no_key(site: Lab, question: str) -> None:
    path = site.place.quick_path("indexer.sock")
    command = ["/usr/bin/python3", "-I", "-c", _ASK, path, question]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert "private" not in said
    assert "USER\t1" not in said
