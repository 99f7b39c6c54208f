# SPDX-License-Identifier: MIT
"""docs/monitoring.md and docs/runbooks.md executed, under systemd."""

from __future__ import annotations

import re

from tests.docker.page import commands
from tests.docker.site import MAIL, Site, password_of
from tests.docker.test_mail import SENDER, a_mail, deliver, fresh_word
from tests.lab.smtp import send

METRICS = ("packages", "user", "configuration", "services", "look")
KEYS = "/var/lib/mailseal/keys"


def book(site: Site, *steps: str, user: str = "alice") -> str:
    """Run blocks of the runbooks.  What would ask for a password gets it on standard input."""
    script = commands("do", site.version, steps, "runbooks.md")
    script = script.replace("alice@example.org", f"{user}@example.org")
    asks = re.compile(r"^mailseal (restore --check|verify --tags)(.*)$", re.M)
    script = asks.sub(rf'echo "{password_of(user)}" | mailseal \1 --stdin\2', script)
    return site.run(f"exec 2>&1\n{script}")


def figure(site: Site, series: str) -> float:
    look = commands("do", site.version, ["metrics-look"], "monitoring.md").partition("|")[0]
    found = re.search(rf"^{re.escape(series)} (\S+)$", site.run(look), re.M)
    return float(found[1]) if found else 0.0


def can_read(site: Site, name: str, word: str) -> bool:
    with site.login(name) as imap:
        return any(word.encode() in body for body in imap.bodies())


def waiting(site: Site, name: str = "alice") -> str:
    """Send a mail that stays in the queue; returns its word."""
    word = fresh_word()
    send(site.smtp, SENDER, [f"{name}@example.org"], a_mail(word))
    site.wait(site.queue, "the mail is in the queue")
    return word


def test_the_figures_as_the_docs_install_them(site: Site) -> None:
    site.run("cp /etc/mailseal/mailseal.yaml /root/kept.yaml")
    steps = [f"metrics-{step}" for step in METRICS]
    said = site.run(commands("do", site.version, steps, "monitoring.md"))
    try:
        assert said.endswith('\nmailseal_up{daemon="lmtp"} 1.0\nmailseal_up{daemon="agent"} 1.0\n')
        user = "ps -o user:32= -C mailseal-metrics"
        assert site.run(user).split() == ["mailseal-metrics"]
        folder = "stat -c '%U %G %a' /run/mailseal/metrics /run/mailseal/metrics/*"
        files = "vmail mailseal-metrics 640\n"
        said = site.run(folder).replace("root mailseal-metrics 640\n", files)
        assert said == f"root mailseal-metrics 750\n{files * 2}"
        deliver(site, "alice", a_mail(fresh_word()))
        assert can_read(site, "alice", "cellar")
        assert figure(site, 'mailseal_deliveries_total{action="sealed",reply="2.0.0"}') >= 1
        assert figure(site, 'mailseal_unlocks_total{result="ok"}') >= 1
        assert site.run(commands("do", site.version, ["health"], "monitoring.md")).count("ok") == 2
        assert site.run("mailseal check-config 2>&1").strip().endswith("ok")
        # It serves figures while the daemons are down.
        site.run("systemctl stop mailseal-lmtp")
        assert figure(site, 'mailseal_up{daemon="lmtp"}') == 0
        assert figure(site, 'mailseal_up{daemon="agent"}') == 1
    finally:
        site.run(commands("undo", site.version, ["metrics"], "monitoring.md"))
        site.run("cmp /etc/mailseal/mailseal.yaml /root/kept.yaml; rm /root/kept.yaml")


def test_a_daemon_is_down(site: Site) -> None:
    site.run("systemctl stop mailseal-agent")
    assert site.status("mailseal health agent") == 1
    said = book(site, "agent-why", "agent-start", "agent-over")
    assert said.endswith("agent: ok\n")
    site.run("systemctl stop mailseal-lmtp")
    word = waiting(site)
    assert "lmtp: ok" in book(site, "lmtp-start")
    site.wait_flushed()
    assert can_read(site, "alice", word)


def test_mail_is_deferred_and_logins_fail(site: Site) -> None:
    site.run("systemctl stop dovecot")
    try:
        waiting(site, "carol")
        assert "status=deferred" in book(site, "deferred-why")
    finally:
        site.run("systemctl start dovecot")
    site.wait_flushed()
    assert site.status("mailseal health") == 0
    for steps in (("logins-why",), ("sealer-why",), ("full-where", "full-caches", "full-over")):
        book(site, *steps)


def test_a_keyring_is_lost(site: Site) -> None:
    word = fresh_word()
    deliver(site, "alice", a_mail(word))
    site.run("mailseal backup /root/keyrings.json; mailseal lock --all")
    site.run(f"rm {KEYS}/alice@example.org.json")
    assert "PROBLEM" in site.run("mailseal status alice@example.org || true")
    book(site, "restore-check", "restore")
    assert can_read(site, "alice", word)


def test_a_crash_with_and_without_loss(site: Site) -> None:
    """After all keys are lost, mail waits until they are restored."""
    assert "all keyrings are complete" in book(site, "crash-look")
    word = fresh_word()
    deliver(site, "alice", a_mail(word))
    site.run("mailseal backup /root/keyrings.json")
    book(site, "compromised-stop")
    site.run("rm -r /var/lib/mailseal; mailseal init; systemctl start dovecot mailseal-lmtp")
    book(site, "crash-restore")
    site.wait(lambda: site.status("mailseal health") == 0, "both daemons answer")
    later = fresh_word()
    deliver(site, "alice", a_mail(later))
    assert later.encode() not in site.read(site.stored("alice")[-1])
    assert can_read(site, "alice", word)
    site.run("rm /root/keyrings.json")


def test_a_user_moves_to_another_host(site: Site) -> None:
    """The other host is the same one, after the user was removed."""
    word = fresh_word()
    # The script of another test would move the mail to another folder.
    script = f"{MAIL}/dave/.dovecot.sieve"
    site.run(f"if [ -e {script} ]; then mv {script} {script}.away; fi")
    deliver(site, "dave", a_mail(word))
    book(site, "move-out", user="dave")
    site.run(f"cp -a {MAIL}/dave /root/dave; rm -rf {MAIL}/dave/Maildir")
    site.run("mailseal unenroll dave@example.org")
    assert site.status("mailseal status dave@example.org") == 67
    site.run(f"rm -rf {MAIL}/dave; mv /root/dave {MAIL}/dave")
    later = waiting(site, "dave")
    book(site, "move-in", user="dave")
    book(site, "move-end", user="dave")
    site.wait_flushed()
    assert can_read(site, "dave", word)
    assert can_read(site, "dave", later)
    assert later.encode() not in site.read(site.stored("dave")[-1])
    site.run(f"if [ -e {script}.away ]; then mv {script}.away {script}; fi")
