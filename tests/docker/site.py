# SPDX-License-Identifier: MIT
"""One mail server in a container, seen from outside: ports on 127.0.0.1, and a root shell."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import time
from collections.abc import Callable

from tests.docker.page import commands
from tests.lab.imap import Imap, Pop3

SOURCE = "/usr/src/mailseal"
MAIL = "/var/mail/vhosts/example.org"
NAMES = ("alice", "bob", "carol", "dave")


class CommandFailed(Exception):
    """A command in the container has failed."""


# All files but what runs and what is temporary; pyc files come and go.
_FILES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp -o -path /var/log -o -path /var/cache"
    " -o -path /var/lib/mailseal -o -path /var/mail -o -path /var/spool -o -path /var/lib/postfix"
    " -o -path /var/lib/systemd -o -path /var/tmp -o -path /root -o -name __pycache__ \\) -prune"
    " -o \\( -type f -o -type l \\) -print | sort"
)
# The comments doveconf makes name the host.
_SETTINGS = "postconf -n; postconf -M; postconf -P; doveconf -n 2>/dev/null | grep -v '^#'"


@dataclasses.dataclass
class Site:
    """A container of tests/docker/compose.yaml.

    version    of Dovecot: "2.3", "2.4"
    container  its id
    port       from a port inside to the one on 127.0.0.1
    before     the host's files and settings before mailseal was installed
    """

    version: str
    container: str
    port: Callable[[int], int]
    before: tuple[frozenset[str], str] = (frozenset(), "")

    def run(self, script: str, *, stdin: bytes = b"", check: bool = True) -> str:
        """Run shell commands as root; returns their output.  CommandFailed has the end of it."""
        done = subprocess.run(
            ["docker", "exec", "-i", "-w", SOURCE, self.container, "bash", "-euc", script],
            input=stdin,
            capture_output=True,
            timeout=900,
        )
        if check and done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            raise CommandFailed(f"{script[:200]!r} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def status(self, script: str) -> int:
        """Run shell commands; returns their exit status."""
        return subprocess.run(
            ["docker", "exec", "-w", SOURCE, self.container, "bash", "-euc", script],
            capture_output=True,
            timeout=900,
        ).returncode

    def address(self, inside: int) -> tuple[str, int]:
        return ("127.0.0.1", self.port(inside))

    @property
    def smtp(self) -> tuple[str, int]:
        return self.address(25)

    @property
    def lmtp(self) -> tuple[str, int]:
        return self.address(24)

    @property
    def imap(self) -> tuple[str, int]:
        return self.address(143)

    @property
    def pop3(self) -> tuple[str, int]:
        return self.address(110)

    def login(self, name: str, password: str | None = None) -> Imap:
        """An IMAP session of a user."""
        return Imap(self.imap, f"{name}@example.org", password or password_of(name))

    def pop(self, name: str) -> Pop3:
        return Pop3(self.pop3, f"{name}@example.org", password_of(name))

    def wait_booted(self) -> None:
        """Wait until systemd has started everything."""
        state = ""
        for _ in range(600):
            state = self.run("systemctl is-system-running || true", check=False).strip()
            if state in ("running", "degraded"):
                break
            time.sleep(0.5)
        if state != "running":
            why = self.run("systemctl --failed --no-pager; journalctl --no-pager -p warning -n 20")
            raise CommandFailed(f"the container is {state}: {why}")

    def look(self) -> tuple[frozenset[str], str]:
        """Names of all permanent files, and the settings of Postfix and Dovecot."""
        return frozenset(self.run(_FILES).splitlines()), self.run(_SETTINGS)

    def install(self) -> None:
        """Do all steps of docs/install.md, and add LMTP on TCP for the tests."""
        if not self.before[0]:
            self.before = self.look()
        self.run(commands("do", self.version))
        self.configure('listen: [/run/mailseal/lmtp.sock, "0.0.0.0:24"]')

    def configure(self, line: str) -> None:
        """Replace one option in the section `delivery`; restart the services that read it."""
        name = line.partition(":")[0]
        text = shlex.quote(f"s|^  {name}:.*|  {line}|")
        self.run(f"sed -i {text} /etc/mailseal/mailseal.yaml; systemctl restart mailseal-lmtp")

    def enroll(self, name: str) -> None:
        """Enroll with the login password; the user may be enrolled already."""
        password = password_of(name).encode() + b"\n"
        script = f"mailseal enroll {name}@example.org --stdin || [ $? = 65 ]"
        self.run(script, stdin=password)

    def wait_delivered(self, *, seconds: float = 120) -> None:
        """Wait until Postfix's queue is empty.

        A mail that a delivery agent still has waits in the incoming queue for 60 s.  The queue
        manager looks there every 300 s, so it is asked to look now, as when new mail arrives.
        """

        def is_empty() -> bool:
            if not self.queue():
                return True
            self.run("postkick public qmgr I || true")  # it may be busy; it is asked again
            return False

        self.wait(is_empty, "Postfix's queue is empty", seconds=seconds)

    def wait_flushed(self) -> None:
        """Wait until the queue is empty, and let Postfix try now.

        It is told again and again: a mail that an older process still delivers after a reload is
        put off for 60 s (qmgr_active.c).  This does not wait for that time.
        """

        def is_empty() -> bool:
            self.run("postqueue -f")
            return not self.queue()

        self.wait(is_empty, "Postfix's queue is empty", seconds=120)

    def queue(self) -> list[str]:
        """Queue ids of the mails in Postfix's queue."""
        return re.findall(r"^([0-9A-Za-z]{8,})[*!]? ", self.run("postqueue -p"), re.M)

    def wait(self, true: Callable[[], object], what: str, *, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                log = self.run("journalctl -n 30 --no-pager", check=False)
                raise CommandFailed(f"waited {seconds:.0f} s in vain until {what}\n{log}")
            time.sleep(0.2)

    def stored(self, name: str, folder: str = "") -> list[str]:
        """The files of a user's mails, oldest first."""
        place = f"{MAIL}/{name}/Maildir" + (f"/.{folder}" if folder else "")
        found = self.run(
            f"find {place}/new {place}/cur -type f -printf '%T@ %p\\n' 2>/dev/null || true"
        )
        return [line.partition(" ")[2] for line in sorted(found.splitlines())]

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        return subprocess.run(
            ["docker", "exec", self.container, "cat", path], capture_output=True, check=True
        ).stdout

    def log(self) -> str:
        """The complete journal, with all that was logged until now."""
        return self.run("journalctl --sync; journalctl --no-pager -o short-iso")

    def files_with(self, word: str, *folders: str) -> list[str]:
        """The files in these folders with a word.

        A file that vanishes may have been renamed into a folder that was searched already, so the
        search begins again.
        """
        place = " ".join(folders)
        gone = re.compile("grep: .*: No such file or directory")
        for _ in range(20):
            said = self.run(
                f"ls -d {place} >/dev/null; grep -rl {word} {place} 2>&1 || [ $? -le 2 ]"
            )
            lines = said.splitlines()
            if not any(gone.fullmatch(line) for line in lines):
                assert not any(line.startswith("grep: ") for line in lines), said
                return lines
        raise CommandFailed(f"files in {place} vanish during each search")


def password_of(name: str) -> str:
    """The login password that tests/docker/stack/configure gives a user."""
    return f"{name}'s password"
