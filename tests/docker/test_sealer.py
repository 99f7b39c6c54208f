# SPDX-License-Identifier: MIT
"""mailseal-sealer with systemd: existing mail is sealed, even if the service is interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker.site import MAIL, Site, password_of
from tests.docker.test_mail import a_mail, deliver, fresh_word
from tests.docker.test_services import pid_of

UNIT, CONF = "mailseal-sealer", "/etc/mailseal/mailseal.yaml"
USER = "carol@example.org"
COUNT = 24
CUR = f"{MAIL}/carol/Maildir/cur"
SEALED = f"find {CUR} -name '1500000*' -exec grep -lP '\\ACRYPTED\\x03\\x07' {{}} + || true"


@pytest.fixture
def old_mail(site: Site) -> Iterator[Site]:
    """Carol has mail from before her enrollment; sealing it takes two minutes."""
    deliver(site, "carol", a_mail(fresh_word()))
    text = f"From: eve@example.net\\n\\n{'an old mail ' * 80}\\n"
    size = len(text) - 3
    site.run(
        f"umask 077; for n in $(seq {COUNT}); do "
        f"printf '{text}' > {CUR}/1500000$((100+n)).M1P1Q1.old,S={size},W={size + 3}:2,S; done; "
        f"chown vmail:vmail {CUR}/1500000*"
    )
    limit = size * COUNT // 120
    seal = f"seal: {{existing: at-enrollment, limit_rate: {limit}}}"
    site.run(f"cp -p {CONF} {CONF}.before; printf '{seal}\\nverify: {{at_login: 1h}}\\n' >> {CONF}")
    yield site
    site.run(f"systemctl disable --now {UNIT}; mv {CONF}.before {CONF}")
    site.run(f"mailseal unseal {USER} --stdin", stdin=password_of("carol").encode() + b"\n")
    site.run(f"mailseal unenroll {USER}; rm -f {CUR}/1500000*")


def state(site: Site) -> dict[str, Any]:
    (entry,) = json.loads(site.run(f"mailseal status {USER} --json"))["users"]
    found: dict[str, Any] = entry.get("existing", {})
    return found


def _checked(site: Site) -> dict[str, Any]:
    (entry,) = json.loads(site.run(f"mailseal status {USER} --json"))["users"]
    found: dict[str, Any] = entry.get("checked", {})
    return found


def sealed(site: Site) -> int:
    return len(site.run(SEALED).splitlines())


def test_the_sealer_seals_existing_mail(old_mail: Site) -> None:
    site = old_mail
    with site.login("carol") as imap:
        before = imap.bodies()
    site.run(f"systemctl enable --now {UNIT}.service")
    first = pid_of(site, UNIT)
    # The enrollment is enough.
    site.enroll("carol")
    site.wait(lambda: sealed(site), "the first mails are sealed", seconds=300)
    _require_hardened(site, first)
    # systemd restarts it, and it continues.
    site.run(f"systemctl kill -s KILL {UNIT}")
    assert 0 < sealed(site) < COUNT
    again = f"systemctl show -p MainPID --value {UNIT}"
    site.wait(lambda: site.run(again).strip() not in (first, "0"), "it runs again", seconds=300)
    site.wait(lambda: state(site).get("phase") == "sealing", "it goes on", seconds=300)
    # Quickly from now on.
    site.run(f"sed -i 's/limit_rate: [0-9]*/limit_rate: 1000000/' {CONF}; systemctl restart {UNIT}")
    site.wait(lambda: state(site).get("phase") == "done", "all is sealed", seconds=600)
    assert sealed(site) == COUNT
    assert state(site)["left"] == 0
    assert site.run(f"find {MAIL}/carol/Maildir -path '*/tmp/*'") == ""
    with site.login("carol") as imap:
        assert imap.bodies() == before
        # verify.at_login: the agent's process reads what the owner of the mail opens.
        site.wait(lambda: _checked(site), "the tags are checked", seconds=300)
    there = site.run(f"find {MAIL}/carol/Maildir -path '*/cur/*' -o -path '*/new/*' | wc -l")
    assert _checked(site)["mails"] == int(there) >= len(before)
    assert _checked(site)["counts"] == {}
    assert site.status(f"mailseal verify {USER}") == 0
    said = site.run(f"mailseal status {USER}")
    assert re.search(r"existing mail: sealed on [\d-]{10}\n", said)


def _require_hardened(site: Site, pid: str) -> None:
    """All its processes; those that open the mailbox run as the owner."""
    found = site.run(
        f"cat /sys/fs/cgroup/*/system.slice/{UNIT}.service/cgroup.procs "
        f"/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs 2>/dev/null || true"
    )
    pids = sorted(set(found.split()) | {pid})
    owners = set()
    for number in pids:
        lines = site.run(f"cat /proc/{number}/status || true", check=False)
        fields = dict(re.findall(r"^(\w+):\t(.*)$", lines, re.M))
        if not fields:
            continue  # it has ended in the meantime
        owners.add(fields["Uid"].split()[0])
        assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2", fields
        if fields["Uid"].split()[0] != "0":
            assert int(fields["CapEff"], 16) == 0
        assert site.run(f"ionice -p {number}").strip() == "idle"
        assert site.run(f"ps -o cls= -p {number}").strip() == "IDL"
    assert owners == {"0", site.run("id -u vmail").strip()}
    # There is an empty folder instead.
    assert site.run("ls /var/lib/mailseal/keys") != ""
    assert site.run(f"nsenter -t {pid} -m -- ls /var/lib/mailseal/keys") == ""
