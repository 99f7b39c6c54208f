# SPDX-License-Identifier: MIT
"""Delivery with the real Dovecot and Postfix: traces, relays, folders, quota."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version
from tests.lab.place import MAIL_UID
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
SIEVE = "sieve@example.org"
FULL = "full@example.org"
MAIL = b"Subject: tangerine\r\nFrom: eve@example.net\r\n\r\nin the cellar\r\n"

_DOVECOT = {}
_DOVECOT["2.3"] = """
mail_plugins = $mail_plugins quota
protocol lmtp {
  mail_plugins = $mail_plugins sieve quota
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=64K
  quota_grace = 0
  quota_status_success = DUNNO
  quota_status_nouser = DUNNO
  quota_status_overquota = "452 4.2.2 Mailbox is full, please empty it"
}
service quota-status {
  executable = quota-status -p postfix
  unix_listener quota-status {
    mode = 0666
  }
  client_limit = 1
}
"""


_DOVECOT["2.4"] = """
mail_plugins {
  quota = yes
}
protocol lmtp {
  mail_plugins {
    sieve = yes
    quota = yes
  }
}
quota "User quota" {
  storage_size = 64K
  storage_grace = 0
}
quota_status_success = DUNNO
quota_status_nouser = DUNNO
quota_status_overquota = 452 4.2.2 Mailbox is full, please empty it
service quota-status {
  executable = quota-status -p postfix
  unix_listener quota-status {
    mode = 0666
  }
  client_limit = 1
}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Sieve and quota in Dovecot; folders by detail and header rule in mailseal."""
    users = dict.fromkeys((SIEVE, FULL, "alice@example.org"), "password")
    with Lab(
        users,
        auth="behind-passwd-file",
        plain_users={PLAIN: "password"},
        dovecot_extra=_DOVECOT[installed_version()[:3]],
        config_extra={"delivery.header_rules": ["X-Spam: Yes* => Junk"]},
    ) as made:
        yield made


@pytest.fixture
def user(lab: Lab) -> str:
    name = f"u{time.monotonic_ns()}@example.org"
    lab.add_user(name)
    return name


def dovecot_lmtp(lab: Lab, recipient: str, mail: bytes) -> None:
    """Send a mail to Dovecot's LMTP directly."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(lab.dovecot.lmtp_socket)
        stream = sock.makefile("rb")
        stream.readline()
        for command, lines in (
            ("LHLO client.example.net", 0),
            (f"MAIL FROM:<{SENDER}>", 1),
            (f"RCPT TO:<{recipient}>", 1),
            ("DATA", 1),
        ):
            sock.sendall(command.encode() + b"\r\n")
            while not lines and stream.readline()[3:4] == b"-":
                pass
            for _ in range(lines):
                assert stream.readline()[:1] in b"23"
        sock.sendall(mail + b".\r\nQUIT\r\n")
        assert stream.readline().startswith(b"250 ")


def our_lmtp(lab: Lab, recipient: str, mail: bytes) -> None:
    """The same with mailseal-lmtp's unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(lab.lmtp_socket)
        sock.sendall(
            b"LHLO client.example.net\r\n"
            + f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
            + mail
            + b".\r\nQUIT\r\n"
        )
        answer = sock.makefile("rb").read()
    assert b" Sealed\r\n" in answer, answer


def without_names(mail: bytes) -> bytes:
    """Session ids, dates, host and user names replaced by words."""
    mail = re.sub(rb"id [A-Za-z0-9+/]{22}\r", b"id ID\r", mail)
    mail = re.sub(rb"; \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r", b"; DATE\r", mail)
    mail = re.sub(rb"by \S+ with", b"by HOST with", mail)
    return re.sub(rb"(u\d+|plain)@example.org", b"USER@example.org", mail)


def test_trace_headers_are_dovecots(lab: Lab, user: str) -> None:
    our_lmtp(lab, user, MAIL)
    dovecot_lmtp(lab, PLAIN, MAIL)
    with Imap(lab.imap, PLAIN, "password") as imap:
        theirs = imap.bodies()[-1]
    ours = lab.inbox(user)[0]
    assert without_names(ours) == without_names(theirs)
    assert ours.startswith(b"Return-Path: <eve@example.net>\r\nDelivered-To: u")


@pytest.mark.parametrize(
    "body",
    [b"a\r\r\nb\r\n", b"\r\r\r\n", b"a\rb\r\n", b"a\r\r\n" * 30000, b"x\r\n"],
    ids=["crcrlf", "crcrcrlf", "bare-cr", "long", "plain"],
)
def test_carriage_returns_are_kept(lab: Lab, user: str, body: bytes) -> None:
    our_lmtp(lab, user, MAIL + body)
    assert lab.inbox(user)[0].endswith(b"cellar\r\n" + body)


def test_a_user_with_a_script_is_relayed_and_dovecot_seals(lab: Lab) -> None:
    os.makedirs(lab.home(SIEVE), exist_ok=True)
    with open(os.path.join(lab.home(SIEVE), ".dovecot.sieve"), "w", encoding="ascii") as stream:
        stream.write('require ["fileinto","mailbox"];\nfileinto :create "Fruit";\n')
    for name in (lab.home(SIEVE), stream.name, os.path.dirname(lab.home(SIEVE))):
        os.chown(name, MAIL_UID, MAIL_UID)
    send(lab.smtp, SENDER, [SIEVE], MAIL)
    lab.wait_delivered()
    (path,) = lab.stored(SIEVE, "Fruit")
    with open(path, "rb") as sealed:
        assert sealed.read(7) == b"CRYPTED"
    # No errors in the log, and nothing of the mail on the disk: the index cache is on tmpfs.
    assert "Private key not available" not in lab.dovecot.log_text()
    for where, _, names in os.walk(lab.home(SIEVE)):
        for name in names:
            if not os.path.islink(path := os.path.join(where, name)) and os.path.isfile(path):
                with open(path, "rb") as file:
                    assert b"tangerine" not in file.read(), path
    with lab.login(SIEVE) as imap:
        assert imap.bodies("Fruit")[0].endswith(b"in the cellar\r\n")
    log = lab.log_text()
    assert re.search(
        rf"\w+: to=<{SIEVE}>, action=relayed, keyid=[0-9a-f]{{16}}, size=\d+, delay=[0-9.]+, "
        r"dsn=2.0.0, status=sent \(sieve script; \S+ Saved\)",
        log,
    )


def test_the_log_line_has_postfixs_queue_id(lab: Lab, user: str) -> None:
    send(lab.smtp, SENDER, [user], MAIL)
    lab.wait_delivered()
    log = lab.log_text()
    match = re.search(rf"(\w+): to=<{user}>, action=sealed, keyid=", log)
    assert match is not None
    assert re.search(rf"postfix/lmtp\[\d+\]: {match[1]}: to=<{user}>.* Sealed\)", log)


def test_the_queue_id_without_any_received_line(lab: Lab, user: str) -> None:
    lab.postfix.stop()
    lab.postfix.postconf("-e", "header_checks = regexp:{{/^Received:/ IGNORE}}")
    lab.postfix.start()
    try:
        send(lab.smtp, SENDER, [user, f"ghost-{user}"], MAIL)
        lab.wait_delivered()
    finally:
        lab.postfix.stop()
        lab.postfix.postconf("-X", "header_checks")
        lab.postfix.start()
    (mail,) = lab.inbox(user)
    assert mail.count(b"Received: ") == 1  # our own
    log = lab.log_text()
    match = re.search(rf"(\w+): to=<{user}>, action=sealed, keyid=", log)
    assert match is not None
    assert re.search(rf"postfix/lmtp\[\d+\]: {match[1]}: to=<{user}>.* Sealed\)", log)
    assert f"{match[1]}: to=<ghost-{user}>, action=none, dsn=5.1.1" in log, "without the sender"


def test_a_long_sender_does_not_bounce(lab: Lab, user: str) -> None:
    sender = f"{'x' * 400}@example.net"
    send(lab.smtp, sender, [user, PLAIN], MAIL)
    lab.wait_delivered()
    with Imap(lab.imap, PLAIN, "password") as imap:
        for bodies in (lab.inbox(user), imap.bodies()):
            assert bodies[-1].startswith(f"Return-Path: <{sender}>\r\n".encode())


def test_folders(lab: Lab, user: str) -> None:
    local = user.partition("@")[0]
    with lab.login(user) as imap:
        for name in ("Lists.age", "&AOQ-rger", "Junk"):
            imap.command(f"CREATE {name}".encode())
    for detail in ("Lists.age", "ärger", "missing", "../x", "Lists.age/../.."):
        replies = send_lmtp(lab.lmtp, SENDER, [f"{local}+{detail}@example.org"], MAIL)
        assert replies[0][0] == 250, detail
    spam = b"X-Spam: yes, 11 of 5\r\n" + MAIL
    send_lmtp(lab.lmtp, SENDER, [f"{local}+Lists.age@example.org"], spam)
    send_lmtp(lab.lmtp, SENDER, [user], b"Subject: x\r\n\r\nX-Spam: Yes\r\n")
    with lab.login(user) as imap:
        assert len(imap.bodies("Lists.age")) == 1
        assert len(imap.bodies("&AOQ-rger")) == 1
        assert [b"11 of 5" in mail for mail in imap.bodies("Junk")] == [True]
        assert len(imap.bodies()) == 4


def test_a_full_mailbox(lab: Lab) -> None:
    def restart(**extra: str) -> None:
        socket_path = os.path.join(os.path.dirname(lab.dovecot.lmtp_socket), "quota-status")
        lab.write_config({"dovecot.quota_socket": socket_path, **extra})
        lab.restart_delivery()

    restart()
    try:
        large = MAIL + (b"x" * 70 + b"\r\n") * 2000
        assert send_lmtp(lab.lmtp, SENDER, [FULL], MAIL)[0][0] == 250
        assert send_lmtp(lab.lmtp, SENDER, [FULL], large)[0][0] == 250  # without SIZE
        code, text = send_lmtp(lab.lmtp, SENDER, [FULL], MAIL)[0]
        assert (code, text) == (452, f"4.2.2 <{FULL}> Mailbox is full, please empty it".encode())
        assert send_lmtp(lab.lmtp, SENDER, ["alice@example.org"], MAIL)[0][0] == 250
        restart(**{"delivery.over_quota": "reject"})
        code, text = send_lmtp(lab.lmtp, SENDER, [FULL], MAIL)[0]
        assert (code, text) == (552, f"5.2.2 <{FULL}> Mailbox is full, please empty it".encode())
        assert len(lab.stored(FULL)) == 2
        lab.dovecot.stop()
        try:
            assert send_lmtp(lab.lmtp, SENDER, ["alice@example.org"], MAIL)[0][0] == 451
        finally:
            lab.dovecot.start()
    finally:
        lab.write_config(lab.options.config_extra)
        lab.restart_delivery()


def test_mail_is_deferred_while_dovecots_userdb_is_down(lab: Lab, user: str) -> None:
    assert send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] == 250
    other = f"v{user}"
    lab.add_user(other)
    lab.dovecot.stop()
    try:
        code, text = send_lmtp(lab.lmtp, SENDER, [other], MAIL)[0]
        assert (code, text) == (451, f"4.3.0 <{other}> temporary failure".encode())
    finally:
        lab.dovecot.start()
    assert send_lmtp(lab.lmtp, SENDER, [other], MAIL)[0][0] == 250
