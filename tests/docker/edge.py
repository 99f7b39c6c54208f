# SPDX-License-Identifier: MIT
"""Two MX hosts and two IMAP hosts in containers, installed with the commands of docs/edge.md.

They share one volume as the mail store.  PostgreSQL runs on the IMAP hosts, as on that page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.docker.conftest import SUITES
from tests.docker.page import commands
from tests.docker.site import MAIL, SOURCE, Site, password_of
from tests.docker.test_mail import MAGIC, SENDER, a_mail, fresh_word
from tests.lab.place import REPOSITORY
from tests.lab.smtp import send

PAGE = "edge.md"
SECRETS = "/root/mailseal-db"
FIRST, SECOND = ("alice", "carol", "frank", "grace"), ("bob", "dave", "erin")
"""The users of imap1 and of imap2.  alice and bob are enrolled; bob has a Sieve script."""

_OPTIONS = (
    *("-d", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"),
    *("--security-opt", "seccomp=unconfined", "-e", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/sys/fs/cgroup"),
)
"""As in compose.yaml."""

_SETTINGS = "postconf -n; postconf -M; postconf -P"


@dataclasses.dataclass
class Host(Site):
    """One container, reached at its own address."""

    name: str = ""
    ip: str = ""
    settings: str = ""
    """Postfix's settings before mailseal was installed."""

    def address(self, inside: int) -> tuple[str, int]:
        return self.ip, inside

    def do(self, *steps: str, page: str = PAGE, what: str = "do") -> None:
        """Run commands of a page."""
        self.run(commands(what, self.version, steps, page))

    def postgresql(self, action: str) -> None:
        """Run systemctl on the unit of PostgreSQL's only cluster."""
        unit = "postgresql@$(pg_lsclusters -h | cut -d ' ' -f 1)-main"
        self.run(f"systemctl {action} {unit}")

    def wait_synchronous(self) -> None:
        """From now on, this primary waits for the standby with each commit."""
        self.do("synchronous")
        state = "runuser -u postgres -- psql -Atc 'SELECT sync_state FROM pg_stat_replication'"
        self.wait(lambda: self.run(state).strip() == "sync", "the standby follows")

    def postfix_settings(self) -> str:
        return self.run(_SETTINGS)

    def become_mx(self) -> None:
        """Steps 4 of the page; the third user of imap2 is added to its map."""
        self.do("mx", "mx-imap2")
        self.do("postfix", page="install.md")
        self.do("mx-postfix")
        line = "erin@example.org mailseal:unix:/run/mailseal/imap2.sock"
        self.run(f"echo '{line}' >> /etc/postfix/imap-hosts; postfix reload")


@dataclasses.dataclass
class Cluster:
    """`databases`: the hosts whose PostgreSQL is used, the primary first."""

    mx: tuple[Host, Host]
    imap: tuple[Host, Host]
    databases: list[Host]

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (*self.imap, *self.mx)

    def imap_of(self, name: str) -> Host:
        return self.imap[name in SECOND]

    def bodies(self, name: str, folder: str = "INBOX") -> list[bytes]:
        """The user's mail, by IMAP on the user's host."""
        with self.imap_of(name).login(name) as session:
            return session.bodies(folder)

    def has_in_clear(self, words: Iterable[str]) -> list[str]:
        """Files in the mail store with one of these words."""
        script = f"grep -rlaF -f - {MAIL} || [ $? = 1 ]"
        return self.imap[0].run(script, stdin="\n".join(words).encode()).splitlines()

    def is_sealed(self, name: str) -> bool:
        """Whether all mail of the user is sealed."""
        host = self.imap[0]
        script = f"find {MAIL}/{name}/Maildir -path '*/new/*' -o -path '*/cur/*' | xargs head -qc 7"
        heads = host.run(script)
        return bool(heads) and not heads.replace(MAGIC[:7].decode(), "")

    def wait_flushed(self) -> None:
        for mx in self.mx:
            mx.wait_flushed()


class Stream:
    """Sends mail to each of the users by one MX host, until stopped; `sent` has their words."""

    def __init__(self, mx: Host, *names: str) -> None:
        self.sent: dict[str, list[str]] = {name: [] for name in names}
        self._mx = mx
        self._end = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._end.wait(0.2):
                for name, words in self.sent.items():
                    word = fresh_word()
                    send(self._mx.smtp, SENDER, [f"{name}@example.org"], a_mail(word))
                    words.append(word)
        except Exception as exc:
            self._failure = exc

    def wait_for_more(self, count: int = 5) -> dict[str, int]:
        """Wait until each user got `count` more; returns how many each had before."""
        before = {name: len(words) for name, words in self.sent.items()}

        def has_more() -> bool:
            if self._failure is not None:
                raise self._failure
            return all(len(self.sent[n]) >= had + count for n, had in before.items())

        self._mx.wait(has_more, "mail was sent")
        return before

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


@contextlib.contextmanager
def streams(cluster: Cluster, *names: str) -> Iterator[list[Stream]]:
    """Mail arrives at both MX hosts; at the end, it was all sent and the queues are empty."""
    made = [Stream(mx, *names) for mx in cluster.mx]
    try:
        yield made
    finally:
        with contextlib.ExitStack() as ending:
            for stream in made:
                ending.callback(stream.stop)
    cluster.wait_flushed()


@contextlib.contextmanager
def made(version: str) -> Iterator[Cluster]:
    """The four hosts, complete."""
    volume = f"mailseal-edge-{version.replace('.', '')}-{os.getpid()}"
    started: list[str] = []
    try:
        hosts: dict[str, Host] = {}
        # imap1 is the first: the image's folder is copied into the volume once.
        for name in ("imap1", "imap2", "mx1", "mx2"):
            hosts[name] = _started(version, name, volume, started)
        for host in hosts.values():
            host.wait_booted()
        imap, mx = (hosts["imap1"], hosts["imap2"]), (hosts["mx1"], hosts["mx2"])
        cluster = Cluster(mx, imap, list(imap))
        _installed(cluster)
        yield cluster
    finally:
        for container in started:
            _docker("rm", "-fv", container)
        subprocess.run(["docker", "volume", "rm", "-f", volume], capture_output=True)


def _started(version: str, name: str, volume: str, started: list[str]) -> Host:
    image = "kinds" if name.startswith("imap") else "stack"  # "kinds" has PostgreSQL's packages
    store = f"{volume}:/var/mail/vhosts" + ("" if name == "imap1" else ":nocopy")
    container = _docker(
        *("run", *_OPTIONS, "--hostname", name, "-v", f"{REPOSITORY}:{SOURCE}:ro", "-v", store),
        f"mailseal-{image}:{SUITES[version]}",
    )
    started.append(container)
    ip = _docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
    return Host(version, container, lambda inside: inside, name=name, ip=ip)


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def _each(hosts: Iterable[Host], what: Callable[[Host], object]) -> None:
    """On all hosts at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(what, hosts))


def _installed(cluster: Cluster) -> None:
    """Steps 1 to 4 of the page, and two users enrolled."""
    one, two = cluster.imap
    names = "".join(
        f"{host.ip} {host.name}.example.org {host.name.replace('imap', 'db')}.example.org\n"
        for host in cluster.hosts
    )

    def programs(host: Host) -> None:
        host.run("cat >> /etc/hosts; apt-get update -q", stdin=names.encode())
        host.settings = host.postfix_settings()
        host.do("packages", "programs", page="install.md")
        host.do("edge-packages")

    _each(cluster.hosts, programs)
    one.do("secrets")
    for host in (two, *cluster.mx):
        for file in one.run(f"ls {SECRETS}").split() if host is two else _FOR_MX:
            data = one.read(f"{SECRETS}/{file}")
            place = f"install -d -m 700 {SECRETS}; umask 077; cat > {SECRETS}/{file}"
            host.run(place, stdin=data)
    _each(cluster.imap, lambda host: host.do("postgresql"))
    one.do("primary")
    two.do("standby")
    one.wait_synchronous()
    _each(cluster.imap, _imap)
    for name in (*FIRST, *SECOND):
        home = f"{MAIL}/{name}"
        one.run(f"[ -d {home} ] || runuser -u vmail -- mkdir -p -m 700 {home}")
    _each(cluster.mx, _mx)
    script = b'require ["fileinto","mailbox"]; fileinto :create "Fruit";\n'
    place = f"{MAIL}/bob/.dovecot.sieve"
    two.run(f"runuser -u vmail -- tee {place} > /dev/null", stdin=script)
    for name in ("alice", "bob"):
        enroll(cluster.imap_of(name), name)


_FOR_MX = ("db.pem", "replica.password")


def _imap(host: Host) -> None:
    for name in ("erin", "frank", "grace"):
        password = password_of(name)
        host.run(
            f'echo "{name}@example.org:$(doveadm pw -s SHA512-CRYPT -r 5000 -p "{password}")'
            f':5000:5000::{MAIL}/{name}" >> /etc/dovecot/users'
        )
    host.do("imap-configuration")
    host.do("dovecot", "imap-host", page="install.md")
    host.do("dovecot-nfs")


def _mx(host: Host) -> None:
    host.run("systemctl disable --now dovecot.service dovecot.socket 2>/dev/null || true")
    host.run(
        "for name in erin frank grace; do echo $name@example.org ok; done >> /etc/postfix/vmailbox"
        "; postmap /etc/postfix/vmailbox"
    )
    host.become_mx()


def enroll(host: Host, name: str) -> None:
    """Enroll; returns when the command has ended with status 0."""
    command = f"mailseal enroll {name}@example.org --stdin"
    host.run(command, stdin=password_of(name).encode() + b"\n")
