# SPDX-License-Identifier: MIT
"""Postfix, Dovecot, agent and mailseal-lmtp in a container each, as docs/containers.md says.

The containers with Postfix and Dovecot are "somebody else's": the servers of
tests/docker/Dockerfile, without mailseal and without systemd.  `make test-image` runs this with
Dovecot 2.3 too, which takes another half a minute.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import SUITES
from tests.docker.page import commands
from tests.docker.site import password_of
from tests.docker.test_mail import MAGIC, SENDER, a_mail, fresh_word, with_word
from tests.lab.imap import Imap, Refused
from tests.lab.smtp import send

_MAILBOX = "/var/mail/vhosts/example.org"
_THEIRS = """\
services:
  postfix:
    image: example/postfix
  dovecot:
    image: example/dovecot
    volumes: ["mail:/var/mail/vhosts"]
volumes:
  mail:
"""
_IMAGES = {
    "dovecot": "RUN echo 'log_path = /dev/stderr' > /etc/dovecot/conf.d/91-log.conf\n"
    'CMD ["dovecot", "-F"]\nSTOPSIGNAL SIGTERM\n',
    "postfix": "RUN postconf -e maillog_file=/dev/stdout\n"
    'CMD ["postfix", "start-fg"]\nSTOPSIGNAL SIGTERM\n',
}
# The pages say `docker compose`; Debian 12 has docker-compose.
_COMPOSE = """\
docker() {
    if [ "$1" = compose ] && ! command docker compose version >/dev/null 2>&1; then
        shift; command docker-compose "$@"
    else
        command docker "$@"
    fi
}
"""


@dataclasses.dataclass
class Containers:
    """The folder of a compose.yaml, in which the commands are run."""

    version: str
    folder: Path
    locks_memory: bool

    def run(self, script: str, *, stdin: bytes = b"") -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _COMPOSE + script],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            timeout=300,
        )
        said = done.stdout.decode()
        assert done.returncode == 0, said[-3000:] + done.stderr.decode()[-3000:]
        return said

    def status(self, script: str) -> int:
        script = _COMPOSE + script
        return subprocess.run(["bash", "-c", script], cwd=self.folder, timeout=300).returncode

    def id(self, service: str) -> str:
        """The container of a service."""
        # Not `docker compose ps`: on Debian 12 it takes a second.
        labels = f"-f label=com.docker.compose.service={service}"
        folder = f"-f label=com.docker.compose.project={self.folder.name}"
        return self.run(f"docker ps -aq {labels} {folder}").strip()

    def inside(self, service: str, script: str) -> str:
        return self.run(f"docker exec {self.id(service)} sh -c '{script}'")

    def inspect(self, service: str, form: str) -> str:
        return self.run(f"docker inspect -f '{{{{{form}}}}}' {self.id(service)}").strip()

    def is_healthy(self, service: str) -> bool:
        """Run its health check, as Docker does every 30 seconds."""
        kind, *command = json.loads(self.inspect(service, "json .Config.Healthcheck.Test"))
        assert kind == "CMD"
        return self.status(f"docker exec {self.id(service)} {shlex.join(command)}") == 0

    def address(self, service: str, port: int) -> tuple[str, int]:
        network = f'(index .NetworkSettings.Networks "{self.folder.name}_default").IPAddress'
        return self.inspect(service, network), port

    def login(self, name: str) -> Imap:
        address = self.address("dovecot", 143)
        return Imap(address, f"{name}@example.org", password_of(name))

    def deliver(self, name: str, word: str) -> bytes:
        """Send a mail by SMTP, and wait until Postfix's queue is empty."""
        mail = a_mail(word)
        send(self.address("postfix", 25), SENDER, [f"{name}@example.org"], mail)
        self.wait_delivered()
        return mail

    def wait_delivered(self) -> None:
        self.wait(
            lambda: "is empty" in self.inside("postfix", "postqueue -p"), "the queue is empty"
        )

    def stored(self, word: str) -> list[str]:
        """The files of all mails that contain this word in clear."""
        return self.inside("dovecot", f"grep -rl {word} {_MAILBOX} || true").split()

    def wait(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 180
        while not true():
            if time.monotonic() > end:
                logs = self.run("docker compose logs --tail=30 2>&1")
                raise AssertionError(f"waited in vain until {what}\n{logs}")
            time.sleep(0.2)

    def accepts(self, service: str, port: int) -> bool:
        try:
            return bool(Imap(self.address(service, port)).greeting)
        except (OSError, Refused):
            return False


@pytest.fixture(scope="module")
def image(package: Path, images: None) -> str:
    """`make image`, with the package that was built already and this machine's own base image."""
    command = ["make", "-o", "deb", "image", "BASE=mailseal-base:trixie"]
    folder = package.parents[2]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return "mailseal"


@pytest.fixture(scope="module")
def locks_memory(image: str) -> bool:
    """Whether the engine may lift the limit of locked memory; in some containers it may not."""
    command = ["docker", "run", "--rm", "--ulimit", "memlock=-1", image, "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(params=list(SUITES) if os.environ.get("MAILSEAL_CONTAINERS") else ["2.4"])
def containers(
    request: pytest.FixtureRequest, image: str, locks_memory: bool, tmp_path: Path
) -> Iterator[Containers]:
    """Containers with Postfix and Dovecot, to which mailseal is added; alice is enrolled."""
    version = request.param
    folder = tmp_path / f"containers{version.replace('.', '')}-{os.getpid()}"
    folder.mkdir()
    (folder / "compose.yaml").write_text(_THEIRS)
    here = Containers(version, folder, locks_memory)
    for name, lines in _IMAGES.items():
        (folder / name).write_text(f"FROM mailseal-stack:{SUITES[version]}\n{lines}")
        here.run(f"docker build -q -t example/{name} - < {name}")
    try:
        here.run("docker compose up -d")
        steps = ("configuration", "dovecot", "postfix", "compose")
        script = commands("do", version, steps, "containers.md")
        here.run(script if locks_memory else script.replace("memlock: -1, ", ""))
        here.wait(lambda: here.accepts("dovecot", 143), "Dovecot answers")
        here.wait(lambda: here.accepts("postfix", 25), "Postfix answers")
        enroll = "docker compose exec -T agent mailseal enroll alice@example.org --stdin"
        here.run(enroll, stdin=password_of("alice").encode() + b"\n")
        yield here
        here.run(commands("undo", version, ("compose",), "containers.md"))
        assert here.id("agent") == here.id("filter") == ""
    finally:
        here.run("docker compose down -v -t 2 --remove-orphans")


def test_agent_and_filter_beside_postfix_and_dovecot(containers: Containers) -> None:
    here = containers
    word, plain = fresh_word(), fresh_word()
    mail = here.deliver("alice", word)
    here.deliver("carol", plain)
    # The search finds the mail of carol, who is not enrolled.
    assert here.stored(plain) != []
    assert here.stored(word) == []
    first = here.inside("dovecot", f"head -c 9 {_MAILBOX}/alice/Maildir/new/*")
    assert first.encode() == MAGIC
    with here.login("alice") as imap:
        assert with_word(imap.bodies(), word).endswith(mail)
        _hardened(here)

        # An open session continues without the agent, and mail is sealed.
        here.run(f"docker stop {here.id('agent')}")
        later = fresh_word()
        here.deliver("alice", later)
        assert here.stored(later) == []
        imap.command(b"NOOP")
        with_word(imap.bodies(), later)
        with pytest.raises(Refused, match="UNAVAILABLE"):
            here.login("alice")
        here.run(f"docker start {here.id('agent')}")
        here.wait(lambda: here.is_healthy("agent"), "the agent is healthy")
        with_word(imap.bodies(), word)

    # Mail that arrives while the filter is being replaced waits in the queue.
    here.run(f"docker stop {here.id('filter')}")
    waits = fresh_word()
    send(here.address("postfix", 25), SENDER, ["alice@example.org"], a_mail(waits))
    here.wait(
        lambda: "status=deferred" in here.run(f"docker logs {here.id('postfix')}"),
        "the mail is deferred",
    )
    here.run(f"docker start {here.id('filter')}")
    here.wait(
        lambda: (
            here.status(f"docker exec {here.id('filter')} test -e /run/mailseal/lmtp.sock") == 0
        ),
        "the filter listens",
    )
    here.wait(lambda: _is_flushed(here), "the queue is empty")
    with here.login("alice") as imap:
        assert len(imap.bodies()) == 3
        with_word(imap.bodies(), waits)
    assert here.stored(waits) == []


def _is_flushed(here: Containers) -> bool:
    """Postfix is told to try now: a filter that has its socket may not listen yet."""
    return "is empty" in here.inside("postfix", "postqueue -f; postqueue -p")


def _hardened(here: Containers) -> None:
    """No process of ours is root; nothing of the root file systems can be changed."""
    for service, uids in (("agent", {"960", "5000"}), ("filter", {"5000"})):
        processes = here.run(f"docker top {here.id(service)} -eo pid,uid").splitlines()
        assert {line.split()[1] for line in processes[1:]} == uids
        assert here.inspect(service, ".HostConfig.ReadonlyRootfs") == "true"
        assert here.inspect(service, ".HostConfig.NetworkMode") == "none"
    locked = f"memory_locked={'yes' if here.locks_memory else 'no'}"
    assert locked in here.run(f"docker logs {here.id('agent')} 2>&1")
    hidden = {
        "filter": ["/var/lib/mailseal/keys", "/run/mailseal/agent.sock"],
        "agent": [_MAILBOX, "/run/mailseal/lmtp.sock"],
    }
    for service, paths in hidden.items():
        assert here.inside(service, f"ls -d {' '.join(paths)} 2>/dev/null || true") == ""


def test_nothing_secret_is_in_the_image(image: str) -> None:
    """The configuration is the default, and there are no keys."""
    script = "cat /etc/mailseal/*; find /var/lib/mailseal /run/mailseal -type f; env"
    said = subprocess.run(
        ["docker", "run", "--rm", "--read-only", image, "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in said.splitlines() if not re.match(r"(PATH|HOSTNAME|HOME|PWD)=", line)]
    assert lines == ["log:", "  to: stderr", "PYTHONDONTWRITEBYTECODE=1"]
