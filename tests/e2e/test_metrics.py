# SPDX-License-Identifier: MIT
"""The figures of mailseal-metrics are those of real deliveries and logins."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from mailseal.login.client import AgentClient
from tests.lab import ALICE, Imap, Lab, Refused
from tests.lab.metrics import Metrics, options
from tests.lab.place import free_ports
from tests.lab.process import Server, wait_until
from tests.lab.smtp import send, send_lmtp

PLAIN, SENDER, PASSWORD = "plain@example.org", "eve@example.net", "password"
STALE = "stale@example.org"
MAIL = b"Subject: figures\r\n\r\ntext\r\n"


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Lab, Metrics]]:
    """Behind a passwd-file."""
    plain = {PLAIN: PASSWORD, STALE: "another password"}
    (port,) = free_ports(1)
    lab = Lab({ALICE: PASSWORD}, auth="behind-passwd-file", plain_users=plain)
    lab.write_config(options(lab.place.quick_path("metrics"), port))
    hook = os.path.join(lab.hooks, "mailseal-metrics")
    log = lab.place.path("log", "metrics.log")
    with lab, Metrics(hook, lab.config_path, log, port) as metrics:
        yield lab, metrics


def test_deliveries_by_action_and_reply(site: tuple[Lab, Metrics]) -> None:
    lab, metrics = site
    wait_until(lambda: metrics.value("mailseal_lmtp_workers") == 3, "all workers run")
    before = metrics.scrape()
    for _ in range(3):
        send(lab.smtp, SENDER, [ALICE, PLAIN], MAIL)
    lab.wait_delivered()
    replies = send_lmtp(lab.lmtp, SENDER, ["nobody@example.org", ALICE], MAIL)
    assert [code for code, _ in replies] == [550, 250]
    after = metrics.scrape()
    name = "mailseal_deliveries_total"
    assert _more(before.all(name), after.all(name)) == {
        ("sealed", "2.0.0"): 4,
        ("clear", "2.0.0"): 3,
        ("none", "5.1.1"): 1,
    }
    count = "mailseal_delivery_delay_seconds_count"
    assert _more(before.all(count), after.all(count)) == {("sealed",): 4, ("clear",): 3}


def test_unlocks_by_result(site: tuple[Lab, Metrics]) -> None:
    lab, metrics = site
    with_keyring = lab.mailseal("enroll", STALE, "--stdin", stdin=b"another password\n")
    assert with_keyring.returncode == 0, with_keyring.stderr
    lab.dovecot.write_users({ALICE: PASSWORD, PLAIN: PASSWORD, STALE: "changed elsewhere"})
    lab.dovecot.stop()
    lab.dovecot.start()
    before = metrics.scrape()
    for user in (ALICE, ALICE, PLAIN):
        with Imap(lab.imap, user, PASSWORD):
            pass
    with pytest.raises(Refused):
        Imap(lab.imap, STALE, "changed elsewhere")
    with pytest.raises(Refused):
        Imap(lab.imap, ALICE, "wrong")  # the passwd-file refuses it
    # Wrong for the keyring, and no other passdb was asked.
    with AgentClient(lab.agent_socket, 60) as agent:
        assert agent.request("unlock", user=ALICE.encode(), password=b"wrong").status == "wrong"
    after = metrics.scrape()
    name = "mailseal_unlocks_total"
    more = _more(before.all(name), after.all(name))
    # With Lua, Dovecot reads in the public keys that a user is not enrolled.
    unknown = more.pop(("unknown",), 0)
    assert unknown in (0, 1)
    assert more == {("ok",): 2, ("stale",): 1, ("wrong",): 1}
    wait_until(lambda: metrics.value("mailseal_sessions") == 1, "there is one session")
    wait_until(
        lambda: (metrics.value("mailseal_argon2_jobs_total", pool="logins") or 0) >= 3,
        "jobs are counted",
        timeout=180,
    )


def test_keyrings_by_slots_and_pairs(site: tuple[Lab, Metrics]) -> None:
    lab, metrics = site
    lab.mailseal("recovery-code", ALICE, "--stdin", stdin=b"password\n")
    assert lab.mailseal("rotate", ALICE, "--stdin", stdin=b"password\n").returncode == 0
    broken = lab.place.path("state", "keys", "broken@example.org.json")
    with open(broken, "w", encoding="ascii") as stream:
        stream.write("{}")
    os.chown(broken, os.stat(os.path.dirname(broken)).st_uid, -1)
    lab.restart_agent()
    counted = "mailseal_keyrings_counted_timestamp_seconds"
    wait_until(lambda: metrics.value(counted), "the keyrings are counted")
    found = metrics.scrape()
    assert found.value("mailseal_keyrings", slots="2") == 1  # alice
    assert found.value("mailseal_keyrings_by_pairs", pairs="2") == 1
    assert found.value("mailseal_keyrings_damaged") == 1
    os.unlink(broken)


def test_a_daemon_that_is_down_and_a_worker_that_dies(site: tuple[Lab, Metrics]) -> None:
    lab, metrics = site
    send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)
    before = metrics.value("mailseal_deliveries_total", action="sealed", reply="2.0.0")
    path = f"/proc/{lab.delivery.pid}/task/{lab.delivery.pid}/children"
    with open(path, encoding="ascii") as stream:
        worker = int(stream.read().split()[0])
    os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: metrics.value("mailseal_lmtp_worker_deaths_total") == 1,
        "it is counted",
        timeout=180,
    )
    wait_until(lambda: metrics.value("mailseal_lmtp_workers") == 3, "there is another one")
    lab.delivery.signal(signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in lab.log_text(), "new workers run")
    wait_until(lambda: metrics.value("mailseal_lmtp_workers") == 3, "the old ended")
    assert [code for code, _ in send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)] == [250]
    after = metrics.value("mailseal_deliveries_total", action="sealed", reply="2.0.0")
    assert after == (before or 0) + 1
    lab.agent.stop(signal.SIGKILL)
    try:
        found = metrics.scrape()
        assert found.value("mailseal_up", daemon="agent") == 0
        assert found.value("mailseal_up", daemon="lmtp") == 1
        assert found.value("mailseal_sessions") is None
    finally:
        lab.start_agent()
    wait_until(lambda: metrics.value("mailseal_up", daemon="agent") == 1, "it runs")


def test_mail_that_the_sealer_has_sealed(site: tuple[Lab, Metrics]) -> None:
    lab, metrics = site
    for _ in range(3):
        send(lab.smtp, SENDER, [PLAIN], MAIL)
    lab.wait_delivered()
    lab.mailseal("enroll", PLAIN, "--stdin", stdin=b"password\n")
    listen = {"metrics.listen": f"127.0.0.1:{metrics.port}", "seal.existing": "at-enrollment"}
    lab.write_config(options(lab.place.quick_path("metrics"), metrics.port) | listen)
    command = [os.path.join(lab.hooks, "mailseal-sealer"), "-c", lab.config_path]
    sealer = Server("mailseal-sealer", command, lab.place.path("log", "sealer.log"))
    sealer.start(until=[])
    try:
        wait_until(
            lambda: (metrics.value("mailseal_conversion_users", state="done") or 0) >= 3,
            "all users' mail is sealed and counted",
            timeout=400,
        )
        found = metrics.scrape()
        assert found.value("mailseal_up", daemon="sealer") == 1
        assert (found.value("mailseal_conversion_mails", state="done") or 0) >= 3
        assert found.value("mailseal_conversion_mails", state="left") == 0
    finally:
        sealer.stop()
    assert metrics.value("mailseal_up", daemon="sealer") == 0


def test_no_user_is_in_the_figures_and_only_its_user_reads_the_counters(
    site: tuple[Lab, Metrics],
) -> None:
    lab, metrics = site
    text = metrics.scrape().text
    assert "example" not in text
    assert "alice" not in text
    folder = lab.place.quick_path("metrics")
    assert os.stat(folder).st_mode & 0o7777 == 0o750
    for name in ("agent", "lmtp"):
        assert os.stat(os.path.join(folder, name)).st_mode & 0o7777 == 0o640


def _more(
    before: dict[tuple[str, ...], float], after: dict[tuple[str, ...], float]
) -> dict[tuple[str, ...], float]:
    found = {values: after[values] - before.get(values, 0) for values in after}
    return {values: more for values, more in found.items() if more}
