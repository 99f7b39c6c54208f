# SPDX-License-Identifier: MIT
"""From the package to the purge, on a running mail server with users and mail: `make test-stacks`.

What a postmaster types is counted.  In between, users do what they do, with TLS.  Afterwards files
and settings are as before.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import SUITES
from tests.docker.site import SOURCE, Site, password_of
from tests.docker.test_kinds import arrives, on_disk
from tests.docker.test_mail import SENDER, a_mail, fresh_word, with_word
from tests.docker.test_setup import NO_OTHER_USERS, PASSWD_FILE
from tests.lab.imap import Imap
from tests.lab.smtp import send

MOST = 4
"""Commands to come, and to leave."""

PROOFS = {"enrolled", "imap", "pop3", "submission", "quota", "arrival", "plain-user"}
OF_THE_MACHINE = {"swap", "queue-disk", "clock", "recovery"}
"""What the containers share with the machine; and alice may make a recovery code."""

BIG = b"0123456789\r\n" * 60_000
"""One has room in a mailbox, two do not."""

_CLIENT = """
import poplib, smtplib, ssl, sys
what, user, *recipients = sys.argv[1:]
password, _, mail = sys.stdin.buffer.read().partition(b"\\n")
context = ssl._create_unverified_context()
if what == "pop3":
    pop = poplib.POP3_SSL("127.0.0.1", context=context)
    pop.user(user)
    pop.pass_(password.decode())
    for number in range(len(pop.list()[1])):
        print(*(line.decode(errors="replace") for line in pop.retr(number + 1)[1]), sep="\\n")
    pop.quit()
else:
    smtp = smtplib.SMTP("127.0.0.1", 587)
    smtp.starttls(context=context)
    smtp.login(user, password.decode())
    smtp.sendmail("me@example.org", recipients, mail)
    smtp.quit()
"""

_ACCOUNTS = "passwd passwd- shadow shadow- group group- gshadow gshadow-"
# The package's system users stay, as with all packages of Debian.
_LOOK = f"""
find /etc /usr /opt /srv /home /root -xdev ! -path '/srv/mail/*' ! -path '/home/*/*' \\
    ! -path '*/__pycache__*' ! -name mailseal.deb \\( -type f -o -type l \\) \\
    -printf '%p %m %u %g %l\\n' | sort
find /etc -xdev -type f {"".join(f"! -path /etc/{name} " for name in _ACCOUNTS.split())} \\
    -exec sha256sum {{}} + | sort -k2
for file in passwd group shadow gshadow; do grep -v '^mailseal\\(-[a-z]*\\)\\?:' /etc/$file; done
dpkg -l | grep '^ii'
postconf -n; postconf -M; postconf -P; doveconf -n 2>/dev/null | grep -v '^#'
"""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of server.

    script   makes it, from one with users in a passwd-file
    store    where mail is
    domain   of addresses; names of users in a login are addresses, or have no domain
    user     an option for setup, if Dovecot lists no users
    """

    name: str
    script: str
    store: str = "/var/mail/vhosts"
    domain: str = "example.org"
    bare: bool = False
    user: str = ""

    def address(self, name: str) -> str:
        return f"{name}@{self.domain}"

    def login(self, name: str) -> str:
        return name if self.bare else self.address(name)


_STACK = "/usr/local/share/stack"
_MORE = f"{SOURCE}/tests/docker/stacks"
SERVICES = f"{_MORE}/services"

KINDS = (
    Kind("passwd-file", "/dev/null"),
    Kind("sqlite", f"{_STACK}/sql", "/srv/mail", user="--user alice@example.org"),
    Kind("postgresql", f"{_MORE}/users-in pgsql"),
    Kind("mariadb", f"{_MORE}/users-in mysql"),
    Kind("ldap", f"{_MORE}/users-in ldap"),
    Kind("users", f"{_STACK}/system-users {{suite}}", "/home", "mail.example.org", bare=True),
)


@dataclasses.dataclass
class Stay:
    """A server, its users, and the postmaster."""

    site: Site
    kind: Kind
    typed: list[str] = dataclasses.field(default_factory=list)

    def types(self, command: str, *, password: str = "") -> str:
        """The postmaster types one command, and a password if it asks for one."""
        assert "\n" not in command and ";" not in command and "&" not in command
        self.typed.append(command)
        asked = f"{command} --stdin" if password else command
        return self.site.run(asked, stdin=f"{password}\n".encode())

    def imap(self, name: str) -> Imap:
        site = self.site.address(993)
        return Imap(site, self.kind.login(name), password_of(name), tls=True)

    def reads(self, name: str, *words: str) -> None:
        """By IMAP and POP3."""
        with self.imap(name) as imap:
            bodies = imap.bodies()
        by_pop = self._client("pop3", name)
        for word in words:
            with_word(bodies, word)
            assert by_pop.count(f"the {word} is in the cellar") == 1

    def saves(self, name: str) -> str:
        """In Sent; returns a word in it."""
        word = fresh_word()
        with self.imap(name) as imap:
            imap.append("Sent", a_mail(word))
            with_word(imap.bodies("Sent"), word)
        return word

    def submits(self, name: str, *recipients: str) -> str:
        """With the user's password; returns a word in the mail."""
        word = fresh_word()
        addresses = " ".join(self.kind.address(one) for one in recipients)
        self._client("submission", name, addresses, a_mail(word))
        self.site.wait_delivered()
        return word

    def _client(self, what: str, name: str, more: str = "", mail: bytes = b"") -> str:
        self.site.run("cat >/run/client.py", stdin=_CLIENT.encode())
        secret = password_of(name).encode() + b"\n"
        return self.site.run(
            f"python3 /run/client.py {what} {self.kind.login(name)} {more}", stdin=secret + mail
        )

    def arrives(self, name: str) -> str:
        return arrives(self.site, self.kind.address(name))

    def in_clear(self, word: str) -> bool:
        return on_disk(self.site, word, self.kind.store)

    def refusals(self, name: str) -> list[str]:
        """What a sender gets whose mail does not fit: a reply to RCPT, or the codes in a bounce."""
        address = self.kind.address(name)
        with smtplib.SMTP(*self.site.smtp, timeout=120) as client:
            client.ehlo("client.example.net")
            client.docmd("MAIL", f"FROM:<{SENDER}> SIZE={len(BIG)}")
            code, text = client.docmd("RCPT", f"TO:<{address}>")
        found = f"{code} {text.decode()}"
        return [found, self._bounced(address, BIG), self._bounced(address, BIG * 2)]

    def _bounced(self, address: str, big: bytes) -> str:
        """The codes; nothing for system users, to whom Dovecot's LDA delivers before."""
        told = self._told() + 1
        said = send(self.site.smtp, SENDER, [address], a_mail(fresh_word()) + big).decode()
        self.site.wait(lambda: self._told() == told, "the sender was told", seconds=60)
        queued = re.search(r"queued as (\w+)", said)
        assert queued, said
        log = self.site.run(f"journalctl --no-pager -o cat | grep '{queued[1]}: to=<.*relay='")
        bounced = re.search(r"status=bounced \((?:host \S+ said: )?(\S+ \S+)", log)
        assert bounced or "dovecot-lda" in log, log
        return bounced[1] if bounced and not self.kind.bare else ""

    def _told(self) -> int:
        """How many mails were for the sender."""
        return len(re.findall(rf": to=<{SENDER}>, relay=", self.site.log()))

    def proof(self) -> list[str]:
        """Doctor's results but `pass`, with test logins and a test mail of alice."""
        words = f"{self.kind.login('alice')} --plain-user {self.kind.login('carol')}"
        secret = password_of("alice").encode() + b"\n"
        said = self.site.run(f"mailseal doctor {words} --stdin --json || true", stdin=secret)
        found = {one["check"]: one for one in json.loads(said)["results"]}
        assert {name for name in PROOFS if found[name]["level"] == "pass"} == PROOFS, found
        wrong = [one for one in found.values() if one["level"] != "pass"]
        return [one["text"] for one in wrong if one["check"] not in OF_THE_MACHINE]


@pytest.fixture(
    params=[(version, kind) for version in SUITES for kind in KINDS],
    ids=lambda both: f"{both[0]}-{both[1].name}",
)
def stay(request: pytest.FixtureRequest, hosts: dict[str, Site], package: Path) -> Iterator[Stay]:
    """A mail server of this kind.  Nothing of mailseal is on it."""
    version, kind = request.param
    site = hosts["kinds" + version.replace(".", "")]
    clean = f"rm -rf /var/lib/mailseal /var/mail/vhosts/example.org/*\n{NO_OTHER_USERS}"
    site.run("tar -cf /root/before-stay.tar /etc/dovecot /etc/postfix 2>/dev/null")
    site.run(clean + PASSWD_FILE % SUITES[version])
    for script in (kind.script.format(suite=SUITES[version]), SERVICES):
        site.run(f"bash -eu {script}")
    site.run("cat >/root/mailseal.deb", stdin=package.read_bytes())
    yield Stay(site, kind)
    site.run("mailseal setup --undo --although-enrolled 2>/dev/null || true")
    site.run(
        f"rm -rf /var/lib/mailseal; dpkg -P mailseal || true; rm /root/mailseal.deb\n{clean}"
        "systemctl stop dovecot postfix mariadb postgresql slapd\n"
        "rm -rf /etc/dovecot /etc/postfix\n"
        "tar -C / -xf /root/before-stay.tar; systemctl start dovecot postfix"
    )


def test_whole_stay(stay: Stay) -> None:
    site, kind = stay.site, stay.kind
    alice = kind.login("alice")
    names = ("alice", "carol")
    old = {name: [stay.arrives(name), stay.saves(name)] for name in names}
    for name in names:
        with stay.imap(name) as imap:
            imap.append("Sent", a_mail(fresh_word()) + BIG)
    refused = {name: stay.refusals(name) for name in names}
    assert all(replies[0].startswith("552 5.2.2") for replies in refused.values()), refused
    before = site.run(_LOOK).splitlines()

    stay.types("apt-get install -qy /root/mailseal.deb")
    said = stay.types(f"mailseal setup --apply {kind.user}")
    # It has run doctor.
    assert "proves with doctor" in said
    assert set(re.findall(r"^  (?:warn|fail): ([\w-]+): ", said, re.M)) <= OF_THE_MACHINE
    stay.types(f"mailseal enroll {alice}", password=password_of("alice"))
    stay.types(f"mailseal seal {alice}")
    assert len(stay.typed) <= MOST
    assert stay.proof() == []

    # Old and new mail is sealed, and read.
    assert not [word for word in old["alice"] if stay.in_clear(word)]
    new = [stay.arrives("alice"), stay.submits("carol", "alice"), stay.submits("alice", "alice")]
    sent = stay.saves("alice")
    assert not [word for word in (*new, sent) if stay.in_clear(word)]
    stay.reads("alice", old["alice"][0], *new)
    assert stay.refusals("alice") == refused["alice"]

    # Who is not enrolled needs no agent.
    site.run("systemctl stop mailseal-agent")
    theirs = [stay.arrives("carol"), stay.submits("carol", "carol")]
    for word in (*old["carol"], *theirs, stay.saves("carol")):
        assert stay.in_clear(word)
    stay.reads("carol", old["carol"][0], *theirs)
    assert stay.refusals("carol") == refused["carol"]
    site.run("systemctl start mailseal-agent")

    stay.typed.clear()
    stay.types(f"mailseal unseal {alice}", password=password_of("alice"))
    stay.types(f"mailseal unenroll {alice}")
    stay.types("mailseal setup --undo")
    stay.types("apt-get purge -qy mailseal")
    assert len(stay.typed) <= MOST
    assert list(difflib.unified_diff(before, site.run(_LOOK).splitlines(), n=0)) == []
    for word in (*old["alice"], *new, sent):
        assert stay.in_clear(word)
    stay.reads("alice", old["alice"][0], *new, stay.arrives("alice"))
    stay.reads("carol", old["carol"][0], *theirs, stay.arrives("carol"))
    assert {name: stay.refusals(name) for name in names} == refused
