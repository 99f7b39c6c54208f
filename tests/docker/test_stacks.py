# SPDX-License-Identifier: MIT
"""The pages in docs/stacks, on servers configured as these projects do it (tests/docker/stacks).

The commands are those of the page.  They run one after the other on the same host of each Debian.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from tests.docker import page
from tests.docker.site import Site, password_of
from tests.docker.test_mail import MAGIC, a_mail, fresh_word, with_word
from tests.lab.imap import Imap, Refused

_SCRIPTS = "/usr/src/mailseal/tests/docker/stacks"
_SEND = (
    "import smtplib, sys; "
    "smtplib.SMTP('127.0.0.1').sendmail('eve@example.net', sys.argv[1:], sys.stdin.buffer.read())"
)

# As on a new machine or in a new container: nothing of mailseal is left, not even its user.
_NO_MAILSEAL = """
if command -v mailseal >/dev/null; then
    systemctl disable --now mailseal-agent mailseal-lmtp
    make -s uninstall
    systemctl daemon-reload
fi
systemctl stop supervisor
rm -rf /etc/mailseal /run/mailseal /var/lib/mailseal /tmp/docker-mailserver
rm -f /etc/supervisor/conf.d/*.conf
for user in mailseal 5001; do  # 5001: a system user of another test
    if name=$(getent passwd $user); then userdel "${name%%:*}"; fi
done
"""


@dataclasses.dataclass(frozen=True)
class Stack:
    """A project.

    script   in tests/docker/stacks: sets its configuration up
    store    where it stores mail
    page     in docs/stacks
    files    where the files on the page are in the container; then the script is its start
    control  what stops and starts the daemons
    """

    script: str
    version: str
    page: str
    store: str
    junk: str = "Junk"
    spam: bytes = b"X-Spam: Yes"
    files: tuple[tuple[str, str], ...] = ()
    control: str = "systemctl"

    @property
    def name(self) -> str:
        """For test ids, which begin with the version of Dovecot."""
        return f"{self.version}-{self.script}"


_PATCHES = (("user-patches.sh", "/tmp/docker-mailserver/user-patches.sh"),)

COMMON = (
    Stack("ispmail-13", "2.4", "ispmail.md", "/var/vmail"),
    Stack("ispmail-12", "2.3", "ispmail.md", "/var/vmail", "INBOX.Junk"),
    *(
        Stack(
            "docker-mailserver",
            version,
            "docker-mailserver.md",
            "/var/mail/example.org",
            files=_PATCHES,
            control="supervisorctl",
        )
        for version in ("2.3", "2.4")
    ),
)


@dataclasses.dataclass
class Running:
    """A stack on its host.  Its mail arrives from the host itself, so that no DNS is needed."""

    stack: Stack
    site: Site

    @property
    def page(self) -> str:
        return f"stacks/{self.stack.page}"

    def install(self) -> None:
        """What the page says."""
        if self.stack.files:
            # The packages are there, so that no network is needed.
            self.site.run(page.image(self.page).replace("apt-get update && ", ""))
            for name, text in page.files(self.page).items():
                path = dict(self.stack.files)[name]
                self.site.run(f"mkdir -p $(dirname {path}); cat >{path}", stdin=text.encode())
            self.start()
        self.site.run(page.whole_page("do", self.stack.version, self.page))

    def wait_for_agent(self) -> None:
        """supervisorctl does not wait until it answers."""
        self.site.wait(
            lambda: self.site.status("mailseal status") == 0, "the agent answers", seconds=120
        )

    def leave(self) -> None:
        """What the page says, after all users have left."""
        self.site.run(page.whole_page("undo", self.stack.version, self.page))
        if self.stack.files:
            self.site.run("rm " + " ".join(path for _, path in self.stack.files))
            self.start()

    def start(self) -> None:
        """Set up the project's configuration, and start its servers."""
        self.site.run(f"bash -eu {_SCRIPTS}/{self.stack.script}")

    def receive(self, *names: str, spam: bool = False) -> str:
        """A mail to these users, which is delivered; returns a word in it."""
        word = self.send(*names, spam=spam)
        self.site.wait_delivered(seconds=120)
        return word

    def send(self, *names: str, spam: bool = False) -> str:
        """A mail to these users; returns a word in it."""
        word = fresh_word()
        mail = (self.stack.spam + b"\r\n" if spam else b"") + a_mail(word)
        users = " ".join(f"{name}@example.org" for name in names)
        self.site.run(f'python3 -c "{_SEND}" {users}', stdin=mail)
        return word

    def login(self, name: str) -> Imap:
        return Imap(self.site.address(993), f"{name}@example.org", password_of(name), tls=True)

    def reads(self, name: str, word: str, folder: str = "INBOX") -> None:
        with self.login(name) as imap:
            with_word(imap.bodies(folder), word)

    def saves(self, name: str) -> str:
        """The user's client saves a mail in Sent; returns a word in it."""
        word = fresh_word()
        with self.login(name) as imap:
            with contextlib.suppress(Refused):  # it may be there already
                imap.command(b"CREATE Sent")
            imap.append("Sent", a_mail(word))
            with_word(imap.bodies("Sent"), word)
        return word

    def in_clear(self, word: str, name: str = "") -> bool:
        """Whether the word is in a file of the mail store, or in one of this user."""
        return self.site.status(f"grep -rl {word} {self.stack.store} | grep -q '/{name}'") == 0

    def settings(self) -> str:
        return self.site.look()[1]


@pytest.fixture
def running(request: pytest.FixtureRequest, hosts: dict[str, Site]) -> Iterator[Running]:
    """The stack on the host, without mailseal; afterwards the host is as before."""
    stack: Stack = request.param
    site = hosts["kinds" + stack.version.replace(".", "")]
    saved = "/etc/dovecot /etc/postfix /etc/aliases.db /usr/share/dovecot"
    site.run(f"tar -cf /root/before-stack.tar {saved} 2>/dev/null || true")
    site.run(_NO_MAILSEAL)
    here = Running(stack, site)
    here.start()
    yield here
    site.run(
        f"{_NO_MAILSEAL} systemctl stop dovecot postfix mariadb\n"
        f"rm -rf /etc/dovecot /etc/postfix {stack.store}/example.org\n"
        "tar -C / -xf /root/before-stack.tar; rm /root/before-stack.tar\n"
        "systemctl start dovecot postfix"
    )


def of_stacks(stacks: tuple[Stack, ...]) -> pytest.MarkDecorator:
    ids = [stack.name for stack in stacks]
    return pytest.mark.parametrize("running", stacks, ids=ids, indirect=True)


@of_stacks(COMMON)
def test_page(running: Running) -> None:
    follow(running)


def follow(here: Running) -> None:
    """Install as the page says, use it, and leave as the page says."""
    site, stack = here.site, here.stack
    before = here.settings()
    old = here.receive("alice", "carol")
    assert here.in_clear(old)

    here.install()
    here.wait_for_agent()
    assert site.status("mailseal check-config") in (0, 1)
    site.enroll("alice")

    word = here.receive("alice")
    here.reads("alice", word)
    here.reads("alice", old)
    spam = here.receive("alice", spam=True)
    here.reads("alice", spam, stack.junk)
    sent = here.saves("alice")
    for each in (word, spam, sent):
        assert not here.in_clear(each)
    newest = site.run(f"ls -t $(find {stack.store} -path '*/alice*/[cn][ue][rw]/*' -type f)")
    assert site.read(newest.splitlines()[0]).startswith(MAGIC)

    # Who is not enrolled needs no agent.
    site.run(f"{stack.control} stop mailseal-agent")
    both = here.receive("alice", "carol")
    assert not here.in_clear(both, "alice")
    here.reads("carol", both)
    here.saves("carol")
    junk = here.receive("carol", spam=True)
    here.reads("carol", junk, stack.junk)
    assert here.in_clear(junk)
    site.run(f"{stack.control} start mailseal-agent")
    here.wait_for_agent()
    here.reads("alice", both)

    password = password_of("alice").encode() + b"\n"
    site.run("mailseal unseal alice@example.org --stdin", stdin=password)
    site.run("mailseal unenroll alice@example.org")
    here.leave()
    assert here.settings() == before
    after = here.receive("alice", "carol")
    assert here.in_clear(after, "alice")
    for each in (old, word, both, after):
        here.reads("alice", each)
    here.reads("carol", after)
