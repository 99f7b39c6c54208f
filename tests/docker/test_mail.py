# SPDX-License-Identifier: MIT
"""Dovecot 2.3 and 2.4 in containers: mail arrives, is stored sealed, and is read."""

from __future__ import annotations

import itertools
import json
import os
import re
import time

import pytest

from tests.docker.site import MAIL, Site, password_of
from tests.lab.imap import Refused
from tests.lab.smtp import Rejected, send, send_lmtp

SENDER = "eve@example.net"
MAGIC = b"CRYPTED\x03\x07"
_numbers = itertools.count(1)


def a_mail(word: str) -> bytes:
    """A mail with `word` in subject and body, to which Postfix adds no headers."""
    return (
        b"From: <eve@example.net>\r\nTo: <alice@example.org>\r\nMessage-ID: <%d@example.net>\r\n"
        b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\nSubject: %s comes\r\n\r\n"
        b"the %s is in the cellar\r\n.\r\n..\r\n\xc3\xa9\r\n"
        % (next(_numbers), word.encode(), word.encode())
    )


def fresh_word() -> str:
    """A word that occurs nowhere else."""
    return "tangerine" + os.urandom(6).hex()


def deliver(site: Site, name: str, mail: bytes) -> None:
    send(site.smtp, SENDER, [f"{name}@example.org"], mail)
    site.wait_delivered()


def with_word(bodies: list[bytes], word: str) -> bytes:
    """The one mail that has the word."""
    (found,) = [body for body in bodies if word.encode() in body]
    return found


def test_smtp_in_sealed_on_disk(site: Site) -> None:
    word = fresh_word()
    deliver(site, "alice", a_mail(word))
    path = site.stored("alice")[-1]
    data = site.read(path)
    assert data.startswith(MAGIC)
    assert word.encode() not in data
    assert site.run(f"stat -c '%U %a' '{path}'").split() == ["vmail", "600"]
    # The search finds the word where the mail is in clear.
    assert site.files_with(word, MAIL) == []
    assert "action=sealed" in site.log()


def test_imap_and_pop3_byte_for_byte(site: Site) -> None:
    word = fresh_word()
    mail = a_mail(word)
    deliver(site, "alice", mail)
    with site.login("alice") as imap:
        by_imap = with_word(imap.bodies(), word)
    with site.pop("alice") as pop:
        by_pop = with_word([pop.mail(n + 1) for n in range(pop.count())], word)
    assert by_imap == by_pop
    assert by_imap.endswith(mail)
    assert by_imap.startswith(b"Return-Path: <eve@example.net>\r\nDelivered-To: alice@example.org")


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_large_mail(site: Site, size: int) -> None:
    word = fresh_word()
    mail = a_mail(word) + (b"0123456789" * 7 + b"\r\n") * (size // 72)
    assert send_lmtp(site.lmtp, SENDER, ["bob@example.org"], mail)[0][0] == 250
    with site.login("bob") as imap:
        assert with_word(imap.bodies(), word).endswith(mail)


def test_wrong_password_is_refused(site: Site) -> None:
    for wrong in ("wrong", "alice's passwor", "bob's password"):
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            site.login("alice", wrong)
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        site.login("nobody")


def test_sent_is_sealed(site: Site) -> None:
    word = fresh_word()
    mail = a_mail(word)
    with site.login("alice") as imap:
        imap.append("Sent", mail)
        assert with_word(imap.bodies("Sent"), word) == mail
    data = site.read(site.stored("alice", "Sent")[-1])
    assert data.startswith(MAGIC)
    assert word.encode() not in data


def test_copy_stays_sealed(site: Site) -> None:
    word = fresh_word()
    deliver(site, "bob", a_mail(word))
    with site.login("bob") as imap:
        last = imap.select()
        imap.command(b'COPY %d "Sent"' % last)
        with_word(imap.bodies("Sent"), word)
    assert site.read(site.stored("bob", "Sent")[-1]).startswith(MAGIC)


def test_lmtp_one_reply_for_each_recipient(site: Site) -> None:
    word = fresh_word()
    replies = send_lmtp(
        site.lmtp,
        SENDER,
        ["alice@example.org", "nobody@example.org", "bob@example.org"],
        a_mail(word),
    )
    assert [code for code, _ in replies] == [250, 550, 250]
    assert replies[1][1].startswith(b"5.1.1")
    for name in ("alice", "bob"):
        with site.login(name) as imap:
            with_word(imap.bodies(), word)


def test_unknown_user_is_refused_by_smtp(site: Site) -> None:
    with pytest.raises(Rejected, match="550"):
        send(site.smtp, SENDER, ["nobody@example.org"], a_mail("anything"))


def test_sieve_user_is_relayed_and_sealed(site: Site) -> None:
    script = b'require ["fileinto", "mailbox"];\nfileinto :create "Fruit";\n'
    site.run(
        f"install -d -o vmail -g vmail -m 700 {MAIL} {MAIL}/dave; "
        f"cat > {MAIL}/dave/.dovecot.sieve; chown vmail: {MAIL}/dave/.dovecot.sieve",
        stdin=script,
    )
    word = fresh_word()
    mail = a_mail(word)
    deliver(site, "dave", mail)
    (path,) = site.stored("dave", "Fruit")[-1:]
    data = site.read(path)
    assert data.startswith(MAGIC)
    # Dovecot stores the subject in its index cache, which is in memory.
    assert site.files_with(word, MAIL) == []
    with site.login("dave") as imap:
        assert with_word(imap.bodies("Fruit"), word).endswith(mail)
    assert re.search(r"to=<dave@example.org>, action=relay.*sieve script", site.log())


def test_nothing_changes_for_a_user_who_is_not_enrolled(site: Site) -> None:
    word = fresh_word()
    mail = a_mail(word)
    deliver(site, "carol", mail)
    assert word.encode() in site.read(site.stored("carol")[-1])
    with site.login("carol") as imap:
        assert with_word(imap.bodies(), word).endswith(mail)
        imap.append("Sent", mail)
    assert word.encode() in site.read(site.stored("carol", "Sent")[-1])


def test_agent_down_is_a_temporary_failure(site: Site) -> None:
    word = fresh_word()
    site.run("systemctl stop mailseal-agent")
    try:
        for password in (password_of("alice"), "wrong"):
            with pytest.raises(Refused, match=r"UNAVAILABLE|AUTHENTICATIONFAILED") as refused:
                site.login("alice", password)
            # The passwd-file before mailseal still refuses a wrong password.
            assert ("UNAVAILABLE" in str(refused.value)) == (password != "wrong")
        send(site.smtp, SENDER, ["alice@example.org"], a_mail(word))
    finally:
        site.run("systemctl start mailseal-agent")
    site.wait_delivered()
    assert site.files_with(word, MAIL) == []
    with site.login("alice") as imap:
        with_word(imap.bodies(), word)


def test_password_changed_without_mailseal(site: Site) -> None:
    """The passwd-file accepts it, but it does not open the keyring: a temporary failure."""
    changed = r"sed -i 's|^bob@example.org:[^:]*:|bob@example.org:{PLAIN}another one:|'"
    site.run(f"cp -p /etc/dovecot/users /etc/dovecot/users.kept; {changed} /etc/dovecot/users")
    time.sleep(1.1)
    try:
        with pytest.raises(Refused, match="UNAVAILABLE"):
            site.login("bob", "another one")
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            site.login("bob", password_of("bob"))
    finally:
        site.run("mv /etc/dovecot/users.kept /etc/dovecot/users")
        time.sleep(1.1)  # Dovecot checks the file once per second
    with site.login("bob") as imap:
        imap.select()


def test_old_and_new_keys_after_rotation(site: Site) -> None:
    before, after = fresh_word(), fresh_word()
    deliver(site, "bob", a_mail(before))
    site.run("mailseal rotate bob@example.org --stdin", stdin=password_of("bob").encode() + b"\n")
    deliver(site, "bob", a_mail(after))
    with site.login("bob") as imap:
        bodies = imap.bodies()
    with_word(bodies, before)
    with_word(bodies, after)


def test_cache_and_temporary_files_are_on_tmpfs(site: Site) -> None:
    word = fresh_word()
    deliver(site, "alice", a_mail(word) + b"filler\r\n" * 20_000)
    with site.login("alice") as imap:
        imap.select()
        imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE)")
        with_word(imap.bodies(), word)
    cache = site.run(f"grep -rl {word} /run/mailseal/cache").strip()
    assert cache.endswith("dovecot.index.cache")
    assert site.run(f"stat -f -c %T '{cache}' /run/mailseal/tmp").split() == ["tmpfs", "tmpfs"]
    assert site.run(f"find {MAIL} -name dovecot.index.cache") == ""
    # Nowhere on the disk: mail store, logs, queue, temporary folders.
    assert site.files_with(word, "/var", "/tmp", "/etc", "/root", "/home", "/srv") == []


def test_cat_opens_a_stored_mail(site: Site) -> None:
    word = fresh_word()
    mail = a_mail(word)
    deliver(site, "alice", mail)
    path = site.stored("alice")[-1]
    opened = site.run(
        f"mailseal cat --stdin --user alice@example.org '{path}'",
        stdin=password_of("alice").encode() + b"\n",
    )
    assert opened.encode().endswith(mail.replace(b"\r\n", b"\n"))


def test_check_config_finds_nothing(site: Site) -> None:
    """Dovecot's configuration as in docs/install.md matches mailseal's."""
    assert site.run("mailseal check-config 2>&1") == "/etc/mailseal/mailseal.yaml: ok\n"


def test_doctor_proves_the_documented_setup(site: Site) -> None:
    """With systemd, the usual paths and Debian's own settings; nothing of it is left."""
    before = names(site)
    site.run("systemctl restart mailseal-agent")  # the site has changed mailseal.yaml
    words = "alice@example.org --stdin --plain-user carol@example.org --json"
    secret = password_of("alice").encode() + b"\n"
    found = json.loads(site.run(f"mailseal doctor {words} || true", stdin=secret))
    found = {one["check"]: one for one in found["results"]}
    levels = {name: one["level"] for name, one in found.items()}
    proofs = {"enrolled", "imap", "pop3", "arrival", "plain-user"}
    assert {name for name in proofs if levels.get(name) == "pass"} == proofs, found
    # True of the containers: they share kernel, disk and clock, and allow logins without TLS.
    others = {"swap", "queue-disk", "clock", "recovery", "stored-mail", "login-encryption"}
    wrong = [one for one in found.values() if one["level"] != "pass"]
    assert [one["text"] for one in wrong if one["check"] not in others] == []
    assert names(site) == before


def names(site: Site) -> list[str]:
    """The names of alice's mails, which stay when Dovecot moves a mail from new/ to cur/."""
    return [path.rpartition("/")[2].partition(":")[0] for path in site.stored("alice")]


def test_services_run_hardened(site: Site) -> None:
    """Each runs as its own user without root privileges; mailseal-lmtp cannot read keyrings."""
    for unit, user in (("mailseal-agent", "mailseal"), ("mailseal-lmtp", "vmail")):
        assert site.run(f"systemctl is-active {unit}").strip() == "active"
        pid = site.run(f"systemctl show -p MainPID --value {unit}").strip()
        status = dict(
            line.split(":\t", 1)
            for line in site.run(f"cat /proc/{pid}/status").splitlines()
            if ":\t" in line
        )
        assert site.run(f"id -un {status['Uid'].split()[0]}").strip() == user
        assert int(status["CapEff"], 16) == 0
        assert int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
        assert status["Seccomp"].strip() == "2"
    keys = "/var/lib/mailseal/keys"
    assert site.run(f"stat -c '%U %a' {keys}").split() == ["mailseal", "700"]
    assert site.status(f"runuser -u vmail -- ls {keys}") != 0
    assert site.status(f"runuser -u mailseal -- ls {MAIL}") != 0


def test_the_agent_has_no_network_and_locked_memory(site: Site) -> None:
    """Locking needs a limit that not all containers have: memory is locked, or the log says so."""

    def of(unit: str, file: str) -> str:
        pid = site.run(f"systemctl show -p MainPID --value {unit}").strip()
        return site.run(f"cat /proc/{pid}/{file}")

    def interfaces(unit: str) -> list[str]:
        return re.findall(r"^ *(\S+):", of(unit, "net/dev"), re.M)

    assert "eth0" in interfaces("mailseal-lmtp")
    assert interfaces("mailseal-agent") == ["lo"]
    unlimited = re.search(r"^Max locked memory +unlimited", of("mailseal-agent", "limits"), re.M)
    (locked,) = re.findall(r"^VmLck:\s+(\d+) kB", of("mailseal-agent", "status"), re.M)
    told = re.findall(r"hardening: memory_locked=(yes|no)", site.log())
    assert (told[-1] == "yes") == bool(unlimited) == (int(locked) > 0)


def test_another_uid_gets_nothing_from_the_agent(site: Site) -> None:
    """The socket is for Dovecot's group; even with another mode, the agent refuses others."""
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/mailseal/agent.sock');"
        "s.sendall(b'lookup user=616c696365406578616d706c652e6f7267\\n'); print(s.recv(99))"
    )
    assert site.run(f'runuser -u dovecot -- python3 -c "{ask}"').startswith("b'ok ")
    socket = "/run/mailseal/agent.sock"
    assert site.run(f"stat -c '%G %a' {socket}").split() == ["dovecot", "660"]
    for user in ("nobody", "vmail"):
        assert site.status(f'runuser -u {user} -- python3 -c "{ask}"') == 1
    site.run(f"chmod 666 {socket}")
    try:
        for user in ("nobody", "vmail"):
            said = site.run(f'runuser -u {user} -- python3 -c "{ask}"')
            assert said.startswith("b'denied")
    finally:
        site.run(f"chmod 660 {socket}")


def test_a_panel_asks_with_its_own_uid(site: Site) -> None:
    """agent.panel_users under the unit's restrictions: an ACL on the socket, no group, no sudo."""
    conf = "/etc/mailseal/mailseal.yaml"
    panel, other = "runuser -u www-data -- mailseal", "runuser -u nobody -- mailseal"
    assert site.status(f"{panel} status alice@example.org") == 77
    site.run(f"cp -p {conf} {conf}.before; echo 'agent: {{panel_users: [www-data]}}' >> {conf}")
    try:
        site.run("systemctl restart mailseal-agent")
        assert "slots: " in site.run(f"{panel} status alice@example.org")
        assert site.status(f"{panel} status plain@example.org") == 67
        for verb in ("lock --all", "unenroll alice@example.org", "repair alice@example.org"):
            assert site.status(f"{panel} {verb}") == 77
        new = f"{password_of('alice')} anew"
        for old, then in ((password_of("alice"), new), (new, password_of("alice"))):
            change = site.run(
                f"{panel} passwd alice@example.org --stdin --keep-old",
                stdin=f"{old}\n{then}\n".encode(),
            ).strip()
            site.run(f"{panel} passwd alice@example.org --commit {change}")
        assert site.status(f"{other} status alice@example.org") == 77
    finally:
        site.run(f"mv {conf}.before {conf}; systemctl restart mailseal-agent")
