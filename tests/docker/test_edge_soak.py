# SPDX-License-Identifier: MIT
"""The four hosts of docs/edge.md, while every part is killed in turn.  `make soak-hosts` runs it.

    SOAK_SECONDS   how long (600); at least until each part was killed once

Checked at the end: no mail is lost or bounced, none that was sent after an enrollment is in clear
on any disk, no right password was called wrong, and all hosts work.  A mail may arrive twice only
if a part that delivers was killed meanwhile, or if its sender got no reply.
"""

from __future__ import annotations

import imaplib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest

from tests.docker.conftest import SUITES
from tests.docker.edge import Cluster, Host, made
from tests.docker.edge_faults import DELIVERING, Faults
from tests.docker.edge_load import Load, Mail, User
from tests.docker.site import MAIL, CommandFailed, password_of
from tests.lab.imap import Imap, Refused

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
COUNT = 24
"""Users who are enrolled during the soak."""

_SIEVE = b'require ["fileinto","mailbox"]; fileinto :create "Fruit";\n'
_SET_HASH = b"database: passwd-file\npath: /etc/dovecot/users\n"
_BEGAN, _WORDS = "/run/soak-began", "/run/soak-words"  # in memory, not on a disk

Tell = Callable[[str], None]


@pytest.fixture(scope="module", params=list(SUITES))
def cluster(request: pytest.FixtureRequest, images: None) -> Iterator[Cluster]:
    with made(request.param) as running:
        yield running


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Tell:
    """Prints lines; one that ends with CR is progress, for terminals only."""

    def show(text: str) -> None:
        with capfd.disabled():
            if sys.stdout.isatty():
                sys.stdout.write(f"\r\x1b[K{text}")
            elif not text.endswith("\r"):
                sys.stdout.write(f"\n{text}")
            sys.stdout.flush()

    return show


def test_every_part_is_killed_in_turn(cluster: Cluster, tell: Tell) -> None:
    users, newcomers = add_users(cluster)
    assert soak(cluster, users, newcomers, SECONDS, tell) == []


def soak(
    cluster: Cluster, users: list[User], newcomers: list[User], seconds: float, tell: Tell
) -> list[str]:
    """Run it; returns what must not be."""
    for host in cluster.hosts:
        host.run(f"touch {_BEGAN}")
    load, faults = Load(users, newcomers, cluster.mx, seconds), Faults(cluster)
    began, rounds = time.monotonic(), 0
    with load:
        while not rounds or time.monotonic() < began + seconds:
            for back in faults.round():
                passed = time.monotonic() - began
                tell(f"{passed:.0f} s, {load.counts['mails']} mails: {back} was killed\r")
                if rounds and passed > seconds:
                    break
                time.sleep(1)
            if not rounds:
                faults.failover()
            rounds += 1
        passed = time.monotonic() - began
    problems = load.problems + wait_settled(cluster)
    lost, twice, unexplained = Arrived(load.mails, faults).count()
    clear = in_clear(cluster, [mail.word for mail in load.mails if mail.sealed])
    if not in_clear(cluster, [m.word for m in load.mails if not m.sealed and m.accepted]):
        problems.append("the search for mail in clear finds nothing, so it proves nothing")
    bounced = sum(int(_grep(mx, "status=bounced")) for mx in cluster.mx)
    killed = Counter(kill.part for kill in faults.kills)
    sealed = sum(mail.sealed for mail in load.mails)
    tell(
        f"Dovecot {cluster.mx[0].version}, {passed:.0f} s: {_list(load.counts)};"
        f" {sealed} mails were sent or saved after an enrollment.\n"
        f"Killed: {_list(killed)}.\nTemporary failures: {_list(load.failures)}.\n"
        f"{len(clear)} files in clear, {len(lost)} mails lost, {bounced} bounced,"
        f" {twice} arrived twice.\n"
    )
    problems += [f"LOST: {text}" for text in lost] + [f"IN CLEAR: {path}" for path in clear]
    problems += [f"twice, but nothing was killed: {text}" for text in unexplained]
    problems += [f"{bounced} mails bounced"] * bool(bounced)
    idle = {"mails", "saved", "logins", "enrollments", "password changes", "revocations", "locks"}
    return problems + [f"there were no {what}" for what in sorted(idle - set(load.counts))]


def add_users(cluster: Cluster) -> tuple[list[User], list[User]]:
    """All users, and those among them who are not enrolled yet but will be."""
    one, two = cluster.imap
    newcomers = [
        User(f"soak{number}", cluster.imap[number % 2], sieve=number % 4 > 1)
        for number in range(COUNT)
    ]
    names = " ".join(user.name for user in newcomers)
    lines = "".join(f"{user.name}:{password_of(user.name)}\n" for user in newcomers).encode()
    for host in cluster.imap:
        host.run("umask 077; cat > /etc/mailseal/set-hash.yaml", stdin=_SET_HASH)
        host.run(
            "while IFS=: read -r name word; do"
            ' echo "$name@example.org:$(doveadm pw -s SHA512-CRYPT -r 5000 -p "$word" < /dev/null)'
            f':5000:5000::{MAIL}/$name"; done >> /etc/dovecot/users',
            stdin=lines,
        )
    one.run(f"for name in {names}; do runuser -u vmail -- mkdir -p -m 700 {MAIL}/$name; done")
    for user in newcomers:
        if user.sieve:
            place = f"{MAIL}/{user.name}/.dovecot.sieve"
            one.run(f"runuser -u vmail -- tee {place} > /dev/null", stdin=_SIEVE)
    on_two = " ".join(user.name for user in newcomers if user.host is two)
    for mx in cluster.mx:
        mx.run(
            f"for name in {names}; do echo $name@example.org ok; done >> /etc/postfix/vmailbox;"
            f"postmap /etc/postfix/vmailbox; for name in {on_two}; do"
            " echo $name@example.org mailseal:unix:/run/mailseal/imap2.sock; done"
            " >> /etc/postfix/imap-hosts; postfix reload"
        )
    there = [
        *(User("alice", one, enrolled=True), User("carol", one)),
        *(User("bob", two, sieve=True, enrolled=True), User("dave", two)),
    ]
    return [*there, *newcomers], newcomers


def wait_settled(cluster: Cluster) -> list[str]:
    """Wait until no mail waits, and all hosts are current; says what does not become right."""
    problems = []

    def current() -> bool:
        for host in cluster.imap:
            found = json.loads(host.run("mailseal hosts --json || echo '[]'"))
            if {each["name"] for each in found} != {each.name for each in cluster.hosts}:
                return False
            if len({each["applied"] for each in found}) > 1:
                return False
            if any(each["silent"] > each["lease"] for each in found):
                return False
        return True

    def flushed(mx: Host) -> bool:
        mx.run("postqueue -f")
        return not mx.queue()

    def runs(host: Host) -> bool:
        return host.status("[ $(systemctl is-system-running) = running ]") == 0

    waits: list[tuple[str, Callable[[], bool], Host, str]] = [
        ("all hosts are current", current, cluster.imap[0], "mailseal hosts"),
        *(
            (f"{mx.name} has no mail", partial(flushed, mx), mx, "postqueue -p")
            for mx in cluster.mx
        ),
        *(
            (f"{host.name} runs", partial(runs, host), host, "systemctl --failed")
            for host in cluster.hosts
        ),
    ]
    for what, true, host, why in waits:
        try:
            host.wait(true, what, seconds=200)
        except CommandFailed:
            problems.append(f"waited in vain until {what}: {host.run(why, check=False)[:2000]}")
    return problems


class Arrived:
    """All mail of all users, read by IMAP with the passwords that are right now."""

    def __init__(self, mails: Iterable[Mail], faults: Faults) -> None:
        self._mails = list(mails)
        self._faults = faults
        self._found: dict[str, list[tuple[float, bytes]]] = {}
        self._problems: list[str] = []
        for user in {mail.user.address: mail.user for mail in self._mails}.values():
            try:
                self._read(user)
            except (Refused, OSError) as exc:
                self._problems.append(f"{user.name} cannot read mail at {user.host.name}: {exc}")

    def _read(self, user: User) -> None:
        with Imap(user.host.imap, user.address, user.password) as imap:
            for folder in ("INBOX", "Sent", *(["Fruit"] if user.sieve else [])):
                if not imap.select(folder):
                    continue
                for response in imap.command(b"FETCH 1:* (INTERNALDATE BODY.PEEK[])"):
                    literal = re.search(rb"BODY\[\] \{(\d+)\}\r\n", response)
                    if literal is None:
                        continue
                    body = response[literal.end() : literal.end() + int(literal[1])]
                    word = re.search(rb"^Subject: (tangerine\w+) ", body, re.M)
                    date = imaplib.Internaldate2tuple(response)
                    if word is not None and date is not None:
                        arrival = time.mktime(date), body
                        self._found.setdefault(word[1].decode(), []).append(arrival)

    def count(self) -> tuple[list[str], int, list[str]]:
        """What is lost; how many arrived twice; and which of these for no good reason."""
        lost, twice, unexplained = self._problems, 0, []
        for mail in self._mails:
            there = self._found.get(mail.word, [])
            name = f"{mail.word} of {mail.user.name}, {'by ' + mail.by if mail.by else 'saved'}"
            if mail.accepted and not there:
                lost.append(name)
            if any(not body.endswith(mail.data) for _, body in there):
                lost.append(f"{name}: other bytes")
            if len(there) > 1:
                twice += 1
                if not self._explained(mail, max(when for when, _ in there)):
                    unexplained.append(name)
        return lost, twice, unexplained

    def _explained(self, mail: Mail, last: float) -> bool:
        return mail.unclear > 0 or any(
            kill.part in DELIVERING
            and (kill.host.startswith("mx") or kill.host == mail.user.host.name)
            and mail.began < kill.back + 2
            and kill.began < last + 2
            for kill in self._faults.kills
        )


def in_clear(cluster: Cluster, words: Iterable[str]) -> list[str]:
    """Files with one of the words, on the disk of any host and in the mail store."""
    found = []
    for host in cluster.hosts:
        host.run(f"cat > {_WORDS}", stdin="\n".join(words).encode())
        places = "/" if host is not cluster.imap[0] else f"/ {MAIL}"
        files = f"find {places} -xdev -ignore_readdir_race -type f -newer {_BEGAN} -print0"
        script = (
            f"set -o pipefail; [ -e {_BEGAN} ]; "
            f"{files} | xargs -0r grep -slaF -f {_WORDS} || [ $? = 123 ]; rm {_WORDS}"
        )
        found += [f"{host.name}: {path}" for path in host.run(script).splitlines()]
    return found


def _grep(host: Host, word: str) -> str:
    """How often a word is in the log."""
    return host.run(f"journalctl --sync; journalctl --no-pager -o cat | grep -c {word} || true")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
