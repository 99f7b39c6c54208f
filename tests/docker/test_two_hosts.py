# SPDX-License-Identifier: MIT
"""One host receives and seals mail, another one serves it; they share mail and public keys."""

from __future__ import annotations

import pytest

from tests.docker.conftest import SUITES
from tests.docker.page import commands
from tests.docker.site import MAIL, Site
from tests.docker.test_mail import MAGIC, a_mail, deliver, fresh_word, with_word
from tests.lab.smtp import send


@pytest.fixture(params=list(SUITES))
def pair(request: pytest.FixtureRequest, hosts: dict[str, Site]) -> tuple[Site, Site]:
    """Mail host and IMAP host, set up as docs/install.md says; alice is enrolled, carol is not."""
    suffix = request.param.replace(".", "")
    mx, imap = hosts[f"mx{suffix}"], hosts[f"imap{suffix}"]
    if imap.status("test -e /etc/mailseal") != 0:
        imap.run(commands("do", imap.version, ("packages", "programs")))
        # `mailseal init` makes this folder; here it is a volume and belongs to root.
        imap.run("chown mailseal: /var/lib/mailseal/public; chmod 711 /var/lib/mailseal/public")
        steps = ("configuration", "services", "dovecot", "imap-host")
        imap.run(commands("do", imap.version, steps))
        imap.enroll("alice")
        imap.enroll("dave")
        imap.run(
            "for name in alice carol dave; do"
            f" install -d -o vmail -g vmail -m 700 {MAIL} {MAIL}/$name; done"
        )
        address = imap.run("hostname -i").split()[0]
        mx.run(f"echo '{address} imap.example.org' >> /etc/hosts")
        mx.run("systemctl disable --now dovecot")
        mx.run(commands("do", mx.version, ("packages", "programs", "mail-host", "postfix")))
    return mx, imap


def test_two_hosts(pair: tuple[Site, Site]) -> None:
    mx, imap = pair
    word = fresh_word()
    mail = a_mail(word)
    deliver(mx, "alice", mail)
    data = imap.read(imap.stored("alice")[-1])
    assert data.startswith(MAGIC)
    assert word.encode() not in data
    with imap.login("alice") as session:
        assert with_word(session.bodies(), word).endswith(mail)
    assert mx.status("test -e /var/lib/mailseal/keys") != 0, "keyrings on the mail host"


def test_enrolled_user_with_a_script(pair: tuple[Site, Site]) -> None:
    """The userdb shows that the other Dovecot seals; it gets the mail and runs the script."""
    mx, imap = pair
    word = fresh_word()
    mail = a_mail(word)
    script = 'require ["fileinto","mailbox"]; fileinto :create "Fruit";'
    imap.run(
        f"echo '{script}' > {MAIL}/dave/.dovecot.sieve; chown vmail: {MAIL}/dave/.dovecot.sieve"
    )
    deliver(mx, "dave", mail)
    assert "to=<dave@example.org>, action=relayed, keyid=" in mx.log()
    (path,) = imap.stored("dave", "Fruit")
    data = imap.read(path)
    assert data.startswith(MAGIC)
    assert word.encode() not in data
    with imap.login("dave") as session:
        assert with_word(session.bodies("Fruit"), word).endswith(mail)


def test_while_the_other_dovecot_does_not_answer(pair: tuple[Site, Site]) -> None:
    """Mail for users with a script is deferred; mail for others is sealed as before."""
    mx, imap = pair
    word = fresh_word()
    imap.run("systemctl stop dovecot.socket dovecot.service 2>/dev/null || systemctl stop dovecot")
    try:
        deliver(mx, "alice", a_mail(word))
        send(mx.smtp, "eve@example.net", ["dave@example.org"], a_mail(word))
        mx.wait(lambda: "cannot ask Dovecot at" in mx.log(), "the mail is deferred")
        assert len(mx.queue()) == 1
        assert mx.files_with(word, MAIL) == []
    finally:
        imap.run("systemctl start dovecot")
    mx.wait_flushed()
    assert mx.files_with(word, MAIL) == []
    with imap.login("dave") as session:
        with_word(session.bodies("Fruit"), word)


def test_not_enrolled_user_of_two_hosts(pair: tuple[Site, Site]) -> None:
    mx, imap = pair
    word = fresh_word()
    deliver(mx, "carol", a_mail(word))
    assert word.encode() in imap.read(imap.stored("carol")[-1])
    with imap.login("carol") as session:
        with_word(session.bodies(), word)


def test_public_keys_not_mounted(pair: tuple[Site, Site]) -> None:
    """An empty folder instead of the public keys: mail is deferred, then delivered."""
    mx, imap = pair
    word = fresh_word()
    before = mx.log().count("status=deferred")
    mx.run("mount -t tmpfs -o mode=755 none /var/lib/mailseal/public")
    try:
        mx.run("systemctl restart mailseal-lmtp")
        send(mx.smtp, "eve@example.net", ["alice@example.org"], a_mail(word))
        mx.wait(lambda: mx.log().count("status=deferred") > before, "the mail is deferred")
        assert len(mx.queue()) == 1
    finally:
        mx.run("umount /var/lib/mailseal/public; systemctl restart mailseal-lmtp")
    mx.wait_flushed()
    assert mx.files_with(word, MAIL) == []
    with imap.login("alice") as session:
        with_word(session.bodies(), word)
