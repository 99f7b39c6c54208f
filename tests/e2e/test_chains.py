# SPDX-License-Identifier: MIT
"""mailseal behind each kind of existing passdb, with its file in dovecot-conf."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.chain import Chain
from tests.e2e.chains import CHAINS, Pam, PasswdFile
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3, Refused
from tests.lab.dovecot import snippet
from tests.lab.process import logged
from tests.lab.smtp import send

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
TEXT = b"the tangerine is in the cellar\r\n"
MAIL = HEADERS + TEXT


@pytest.fixture(scope="module", params=CHAINS, ids=lambda kind: kind.__name__)
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    kind: type[Chain] = request.param
    if missing := kind.missing():
        pytest.skip(f"to test this, install: {missing}")
    lab = Lab({ALICE: "password"}, auth=None)
    chain = kind(lab)
    try:
        chain.start()
        places = {**lab.dovecot.wanted.places, **chain.places()}
        before = chain.block_24() if lab.dovecot.version.startswith("2.4.") else ""
        shipped = snippet(lab.dovecot.version, kind.snippet, places)
        lab.dovecot.write_config(extra=before + shipped)
        chain.set_password(ALICE, "password")
        chain.set_password(PLAIN, "password")
        lab.start()
        send(lab.smtp, SENDER, [ALICE, PLAIN], MAIL)
        lab.wait_delivered()
    except BaseException:
        lab.stop()
        raise
    yield chain
    lab.stop()
    chain.stop()


@pytest.fixture
def lab(chain: Chain) -> Lab:
    return chain.lab


def first_bytes(lab: Lab, user: str) -> set[bytes]:
    found = set()
    for path in lab.stored(user):
        with open(path, "rb") as stream:
            found.add(stream.read(7))
    return found


def test_mail_is_sealed_for_the_enrolled_and_read_by_both(lab: Lab) -> None:
    assert first_bytes(lab, ALICE) == {b"CRYPTED"}
    assert first_bytes(lab, PLAIN) == {b"Return-"}
    for user in (ALICE, PLAIN):
        with Imap(lab.imap, user, "password") as imap:
            assert imap.bodies()[0].endswith(TEXT)
        with Pop3(lab.pop3, user, "password") as pop3:
            assert pop3.mail(1).endswith(TEXT)


def test_wrong_passwords_and_strangers(lab: Lab) -> None:
    for user in (ALICE, PLAIN, "ghost@example.org"):
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            Imap(lab.imap, user, "wrong")


def test_several_connections_at_once(lab: Lab) -> None:
    lab.mailseal("lock", "--all")
    bodies: list[bytes] = []

    def read() -> None:
        with Imap(lab.imap, ALICE, "password") as imap:
            bodies.append(imap.bodies()[0])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies) == 8 and len(set(bodies)) == 1 and bodies[0].endswith(TEXT)


def test_without_the_agent_only_enrolled_users_are_affected(lab: Lab) -> None:
    lab.stop_agent()
    try:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            Imap(lab.imap, ALICE, "password")
        with Imap(lab.imap, PLAIN, "password") as imap:
            imap.append("INBOX", MAIL)
            assert imap.bodies()[-1] == MAIL
        assert first_bytes(lab, PLAIN) <= {b"Return-", b"From: <"}
    finally:
        lab.start_agent()
    with Imap(lab.imap, ALICE, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)


def test_app_passwords_work_behind_the_passdb(chain: Chain, lab: Lab) -> None:
    done = lab.mailseal("app-password", ALICE, "phone", stdin=b"password\n")
    assert done.returncode == 0, done.stderr
    (app,) = re.findall(rb"(?:[0-9a-z]{4}-){7}[0-9a-z]{4}", done.stdout)
    lab.mailseal("lock", "--all")
    if chain.snippet.endswith("prefetch"):
        # there is no home, as the file says
        with pytest.raises(Refused), Imap(lab.imap, ALICE, app.decode()) as imap:
            imap.bodies()
        return
    with Imap(lab.imap, ALICE, app.decode()) as imap:
        assert imap.bodies()[0].endswith(TEXT)
        imap.append("Sent", MAIL)
    with Pop3(lab.pop3, ALICE, app.decode().upper().replace("-", "")) as pop3:
        assert pop3.mail(1).endswith(TEXT)
    for stored in lab.stored(ALICE, "Sent"):
        with open(stored, "rb") as stream:
            assert stream.read(7) == b"CRYPTED"
    wrong = app.decode()[:-1] + ("0" if app[-1:] != b"0" else "1")
    for user, password in ((PLAIN, app.decode()), (ALICE, wrong)):
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            Imap(lab.imap, user, password)
    lab.stop_agent()
    try:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            Imap(lab.imap, ALICE, app.decode())
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            Imap(lab.imap, PLAIN, app.decode())
    finally:
        lab.start_agent()


def test_doveadm_lists_users(chain: Chain, lab: Lab) -> None:
    """The list of the other userdb, without a failure of mailseal's."""
    if isinstance(chain, PasswdFile | Pam):
        listed = lab.dovecot.doveadm("user", "*").decode().split()
        assert sorted(listed) == sorted([ALICE, PLAIN])
        lab.dovecot.doveadm("expunge", "-A", "mailbox", "INBOX", "before", "1990-01-01")


def test_a_password_changed_elsewhere_and_rewrap(chain: Chain, lab: Lab) -> None:
    chain.set_password(ALICE, "changed")
    with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
        Imap(lab.imap, ALICE, "changed")
    logged(lab, f"run `mailseal rewrap {ALICE}`")
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, ALICE, "password")
    done = lab.mailseal("rewrap", ALICE, stdin=b"password\nchanged\n")
    assert done.returncode == 0, done.stderr
    with Imap(lab.imap, ALICE, "changed") as imap:
        assert imap.bodies()[0].endswith(TEXT)
    chain.set_password(ALICE, "password")
    assert lab.mailseal("rewrap", ALICE, stdin=b"changed\npassword\n").returncode == 0


def test_a_panel_changes_both_in_two_steps(chain: Chain, lab: Lab) -> None:
    """At each moment, the password that the passdb accepts gets the key."""
    lab.mailseal("passwd", "--keep-old", "--stdin", ALICE, stdin=b"password\nnext\n")
    with Imap(lab.imap, ALICE, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)
    chain.set_password(ALICE, "next")
    with Imap(lab.imap, ALICE, "next") as imap:
        assert imap.bodies()[0].endswith(TEXT)
    assert b"two login" not in lab.mailseal("status", ALICE).stdout
    lab.mailseal("passwd", "--stdin", ALICE, stdin=b"next\npassword\n")
    chain.set_password(ALICE, "password")
