# SPDX-License-Identifier: MIT
"""An upgrade of the .deb while mail arrives and a user reads: nothing is lost, no session ends."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import SUITES
from tests.docker.packages import install
from tests.docker.page import STEPS, commands
from tests.docker.site import MAIL, SOURCE, Site
from tests.docker.test_mail import SENDER, a_mail, fresh_word
from tests.lab.place import REPOSITORY
from tests.lab.smtp import send

_BEFORE, _AFTER = 30, 30
_RUN = (
    "docker run -d --rm --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined"
    " -e SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 --tmpfs /run --tmpfs /run/lock --tmpfs /sys/fs/cgroup"
    " -p 127.0.0.1::25 -p 127.0.0.1::143"
    f" -v {REPOSITORY}:{SOURCE}:ro"
)


@pytest.fixture(params=list(SUITES))
def host(request: pytest.FixtureRequest, images: None, package: Path) -> Iterator[Site]:
    """A server of its own with the package, set up as docs/install.md says; alice is enrolled."""
    version = request.param
    command = [*_RUN.split(), f"mailseal-stack:{SUITES[version]}"]
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def port(inside: int) -> int:
        said = subprocess.run(
            ["docker", "port", container, str(inside)], capture_output=True, text=True, check=True
        ).stdout
        return int(said.split()[0].rpartition(":")[2])

    site = Site(version, container, port)
    try:
        site.wait_booted()
        install(site, package)
        steps = [step for step in STEPS if step not in ("packages", "programs")]
        # As the page says: /usr instead of /usr/local.
        site.run(commands("do", version, steps).replace("/usr/local/", "/usr/"))
        site.enroll("alice")
        yield site
    finally:
        subprocess.run(["docker", "rm", "-fv", container], capture_output=True, check=True)


def test_an_upgrade_while_mail_arrives(host: Site, newer: Path) -> None:
    words = [fresh_word() for _ in range(_BEFORE + _AFTER)]
    half = threading.Event()
    go_on = threading.Event()
    refused: list[Exception] = []

    def deliver() -> None:
        try:
            for number, word in enumerate(words):
                send(host.smtp, SENDER, ["alice@example.org"], a_mail(word))
                if number == _BEFORE // 2:
                    half.set()
                if number == _BEFORE:
                    go_on.wait(300)  # some of the mails arrive after the upgrade in any case
        except Exception as exc:
            refused.append(exc)
        finally:
            half.set()

    sender = threading.Thread(target=deliver)
    units = ("mailseal-agent", "mailseal-lmtp")
    before = [host.run(f"systemctl show -p MainPID --value {unit}") for unit in units]
    with host.login("alice") as imap:
        sender.start()
        half.wait()
        install(host, newer)
        go_on.set()
        sender.join()
        assert refused == []
        host.wait_flushed()  # mail may have been put off while the daemons were restarted
        # The session that was open during the upgrade reads old and new mail.
        bodies = imap.bodies()
    after = [host.run(f"systemctl show -p MainPID --value {unit}") for unit in units]
    assert not set(before) & set(after)
    assert host.run("dpkg-query -W -f '${Version}' mailseal") == "0.1.1"
    found = [sum(word.encode() in body for body in bodies) for word in words]
    assert found == [1] * len(words)
    assert not [word for word in words if host.files_with(word, MAIL)]
    assert "status=bounced" not in host.log()
    with host.login("alice") as imap:
        assert len(imap.bodies()) == len(words)
