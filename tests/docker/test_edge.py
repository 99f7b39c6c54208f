# SPDX-License-Identifier: MIT
"""The commands of docs/edge.md on four hosts; a failover, a database that is down.

`make soak-hosts` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.conftest import SUITES
from tests.docker.edge import Cluster, Host, enroll, made, streams
from tests.docker.test_mail import MAGIC, SENDER, a_mail, deliver, fresh_word, with_word
from tests.lab.smtp import send

_NOT_CURRENT = "the replica of the public keys is not current"


@pytest.fixture(scope="module", params=list(SUITES))
def cluster(request: pytest.FixtureRequest, images: None) -> Iterator[Cluster]:
    with made(request.param) as running:
        yield running


def test_mail_by_either_mx_host(cluster: Cluster) -> None:
    for mx in cluster.mx:
        word, mail = _delivered(mx, "alice")
        assert mx.read(mx.stored("alice")[-1]).startswith(MAGIC)
        assert cluster.has_in_clear([word]) == []
        assert with_word(cluster.bodies("alice"), word).endswith(mail)

        for name in ("carol", "dave"):  # not enrolled; each has another IMAP host
            word, mail = _delivered(mx, name)
            assert word.encode() in mx.read(mx.stored(name)[-1])
            assert with_word(cluster.bodies(name), word).endswith(mail)

        word, mail = _delivered(mx, "bob")  # enrolled, with a Sieve script
        assert cluster.has_in_clear([word]) == []
        assert mx.read(mx.stored("bob", "Fruit")[-1]).startswith(MAGIC)
        assert with_word(cluster.bodies("bob", "Fruit"), word).endswith(mail)
        assert "to=<bob@example.org>, action=relayed, keyid=" in mx.log()
        for path in ("/var/lib/mailseal/keys", "/etc/mailseal/agent.password"):
            assert mx.status(f"test -e {path}") != 0, path
    one, two = (host.log() for host in cluster.imap)
    for name in ("bob", "dave"):
        assert f"lmtp({name}@example.org)" in two
        assert f"lmtp({name}@example.org)" not in one
    assert "lmtp(carol@example.org)" in one
    assert "lmtp(carol@example.org)" not in two
    listed = cluster.imap[1].run("mailseal hosts")
    assert all(f"{host.name}: " in listed for host in cluster.hosts), listed


def test_after_enroll_no_mx_host_stores_in_clear(cluster: Cluster) -> None:
    """Mail arrives all the time; the replicas of one MX host and of the user's IMAP host hang.

    Both would have to be wrong for a mail in clear: what the MX host relays, Dovecot seals if it
    knows the key.
    """
    second, theirs = cluster.mx[1], cluster.imap_of("erin")
    other = next(host for host in cluster.imap if host is not theirs)
    try:
        with streams(cluster, "erin") as running:
            for stream in running:
                stream.wait_for_more()
            for host in (second, theirs):
                host.run("systemctl kill -s STOP mailseal-replica")
            enroll(other, "erin")
            after = [stream.wait_for_more()["erin"] for stream in running]
            for host in (second, theirs):
                host.run("systemctl kill -s CONT mailseal-replica")
    finally:
        for host in (second, theirs):
            host.run("systemctl kill -s CONT mailseal-replica")
    words = [stream.sent["erin"] for stream in running]
    # One mail may have been on its way to Postfix when `enroll` ended.
    later = [word for sent, count in zip(words, after, strict=True) for word in sent[count + 1 :]]
    assert len(later) >= 8
    assert cluster.has_in_clear(later) == []
    assert _NOT_CURRENT in second.log()
    bodies = cluster.bodies("erin")
    for word in (*words[0], *words[1]):
        with_word(bodies, word)


def test_a_failover_while_mail_arrives(cluster: Cluster) -> None:
    primary, standby = cluster.databases
    _the_standby_fails(cluster)
    with streams(cluster, "alice", "carol") as running:
        for stream in running:
            stream.wait_for_more()
        enroll(cluster.imap[0], "frank")
        primary.postgresql("kill -s KILL")
        primary.run("systemctl disable postgresql")
        for stream in running:
            stream.wait_for_more()
        standby.do("failover")
        cluster.databases.remove(primary)
        cluster.imap[0].wait(lambda: _is_enrolled(cluster, "grace"), "the agent reaches it")
        for stream in running:
            stream.wait_for_more()
    for name in ("frank", "grace"):
        for mx in cluster.mx:
            _wait_sealed(mx, name)
        assert cluster.is_sealed(name)
        assert cluster.bodies(name)
    assert cluster.is_sealed("alice")
    for name in ("alice", "carol"):
        bodies = cluster.bodies(name)
        for stream in running:
            for word in stream.sent[name]:
                with_word(bodies, word)


def _the_standby_fails(cluster: Cluster) -> None:
    """Leases expire, until the primary does not wait for it any more; then it comes back."""
    primary, standby = cluster.databases
    standby.postgresql("stop")
    for mx in cluster.mx:
        _wait_expired(mx)
    primary.do("without-standby")
    for mx in cluster.mx:
        _wait_current(mx)
    standby.postgresql("start")
    primary.wait_synchronous()


def test_an_imap_host_is_down(cluster: Cluster) -> None:
    """Mail waits for those of its users for whom Dovecot is needed."""
    theirs = cluster.imap_of("dave")
    words = {name: fresh_word() for name in ("alice", "bob", "carol", "dave")}
    theirs.run(
        "systemctl stop dovecot.socket dovecot.service 2>/dev/null || systemctl stop dovecot"
    )
    try:
        for mx in cluster.mx:
            for name in ("alice", "carol"):
                _delivered(mx, name)
        for name, word in words.items():
            send(cluster.mx[0].smtp, SENDER, [f"{name}@example.org"], a_mail(word))
        for name in ("bob", "dave"):
            _wait_deferred(cluster.mx[0], name)
        cluster.imap[0].wait(lambda: _all(cluster.bodies("carol"), [words["carol"]]), "carol's")
        assert cluster.has_in_clear([words["dave"], words["bob"]]) == []
    finally:
        theirs.run("systemctl start dovecot")
    cluster.wait_flushed()
    for name, word in words.items():
        assert _all(cluster.bodies(name, "Fruit" if name == "bob" else "INBOX"), [word])
    assert cluster.has_in_clear([words["alice"], words["bob"]]) == []


def test_the_database_is_down(cluster: Cluster) -> None:
    words: dict[str, list[str]] = {"alice": [], "carol": []}
    cluster.bodies("alice")  # a session
    for host in cluster.databases:
        host.postgresql("stop")
    try:
        for mx in cluster.mx:
            _wait_expired(mx)
        for mx in cluster.mx:
            for name, list_ in words.items():
                list_.append(fresh_word())
                send(mx.smtp, SENDER, [f"{name}@example.org"], a_mail(list_[-1]))
            _wait_deferred(mx, "carol")
        cluster.imap[0].wait(lambda: _all(cluster.bodies("alice"), words["alice"]), "alice's mail")
        assert not any(
            word.encode() in body for body in cluster.bodies("carol") for word in words["carol"]
        )
    finally:
        for host in cluster.databases:
            host.postgresql("start")
    cluster.wait_flushed()
    assert cluster.has_in_clear(words["alice"]) == []
    assert cluster.is_sealed("alice")
    for name in ("alice", "carol"):
        assert _all(cluster.bodies(name), words[name])


def test_the_mail_store_is_not_mounted(cluster: Cluster) -> None:
    """Nothing is refused, although the folder is empty."""
    mx = cluster.mx[1]
    services = "mailseal-lmtp mailseal-lmtp-imap2"
    words = {name: fresh_word() for name in ("alice", "carol", "dave")}
    mx.run("mount -t tmpfs -o mode=755 none /var/mail/vhosts")
    try:
        mx.run(f"systemctl restart {services}")
        for name, word in words.items():
            send(mx.smtp, SENDER, [f"{name}@example.org"], a_mail(word))
            _wait_deferred(mx, name)
        assert len(mx.queue()) == 3
    finally:
        mx.run(f"umount /var/mail/vhosts; systemctl restart {services}")
    mx.wait_flushed()
    for name, word in words.items():
        with_word(cluster.bodies(name), word)


def test_undo_on_an_mx_host(cluster: Cluster) -> None:
    """Postfix has its old settings; the host is forgotten; then it is added again."""
    mx, other = cluster.mx[1], cluster.imap[1]
    mx.do("mx", what="undo")
    try:
        assert mx.postfix_settings() == mx.settings
        other.wait(
            lambda: other.status("mailseal hosts --forget mx2") == 0,
            "the lease of mx2 has expired",
            seconds=90,
        )
        assert "mx2: " not in other.run("mailseal hosts")
    finally:
        mx.become_mx()
    assert "mx2: " in other.run("mailseal hosts")
    word, mail = _delivered(mx, "alice")
    assert with_word(cluster.bodies("alice"), word).endswith(mail)


def _has_expired(mx: Host) -> bool:
    return mx.status("mailseal check-config 2>&1 | grep -q 'is not current'") == 0


def _wait_expired(mx: Host) -> None:
    mx.wait(lambda: _has_expired(mx), "the lease has expired", seconds=90)


def _wait_current(mx: Host) -> None:
    mx.wait(lambda: not _has_expired(mx), "the copy is current", seconds=90)


def _wait_deferred(mx: Host, name: str) -> None:
    """Wait until Postfix could not deliver a mail for this user, and has it in its queue."""
    script = f"postqueue -p | grep -A1 '^ *(' | grep -q ' {name}@example.org'"
    mx.wait(lambda: mx.status(script) == 0, f"mail for {name} waits")


def _delivered(mx: Host, name: str) -> tuple[str, bytes]:
    word = fresh_word()
    mail = a_mail(word)
    deliver(mx, name, mail)
    return word, mail


def _wait_sealed(mx: Host, name: str) -> None:
    """Wait until the MX host has the user's key, and seals: before, it relays to Dovecot."""

    def seals() -> bool:
        _delivered(mx, name)
        return f"to=<{name}@example.org>, action=sealed, " in mx.log()

    mx.wait(seals, f"{mx.name} seals mail for {name}")


def _all(bodies: list[bytes], words: list[str]) -> bool:
    return all(sum(word.encode() in body for body in bodies) == 1 for word in words)


def _is_enrolled(cluster: Cluster, name: str) -> bool:
    """Try to enroll.  After a failure that is temporary, the user may be enrolled."""
    host = cluster.imap_of(name)
    command = f"mailseal enroll {name}@example.org --stdin || [ $? = 65 ] || echo later"
    return "later" not in host.run(command, stdin=f"{name}'s password\n".encode())
