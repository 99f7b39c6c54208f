# SPDX-License-Identifier: MIT
"""A lab with a passwd-file whose users may enroll themselves; the page has its own uid."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from mailseal.crypto import dcrypt
from mailseal.login.client import AgentClient, Answer
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Refused
from tests.lab.dovecot import series, snippet
from tests.lab.process import Server, wait_until

WEB_UID = 60605
PASSWORD = "password"
_USERS = 200
_numbers = itertools.count(1)
# All characters are allowed in user names.
_SETTINGS = "auth_failure_delay = 0\nauth_username_chars =\n"


_PASSWORD_COMMAND = """#!/usr/bin/python3
import os, signal, sys, time
user, new = sys.argv[1], sys.stdin.readline().rstrip("\\n")
if new == "refuse":
    sys.exit(77)
if new == "kill before":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(0)
path, gate = "%s", "%s"
if new == "wait a moment":
    open(gate, "w").write("seen")
    while os.path.exists(gate):
        time.sleep(0.05)
lines = open(path).read().splitlines()
for at, line in enumerate(lines):
    name, _, rest = line.split(":", 2)
    if name == user:
        lines[at] = ":".join((name, "{PLAIN}" + new, rest))
open(path, "w").write("\\n".join(lines) + "\\n")
if new == "kill after":
    os.kill(os.getppid(), signal.SIGKILL)
if new == "unknown":
    sys.exit(1)
"""


class Site:
    """The lab, with the configuration of docs/web.md."""

    def __init__(self, dovecot_extra: str = "", /, **options: Any) -> None:
        # Dovecot notices a changed passwd-file after a second, so all users are added at once.
        ready = {f"user{number}@example.org": PASSWORD for number in range(1, _USERS + 1)}
        self.lab = Lab({}, auth="behind-passwd-file", plain_users=ready)
        lab = self.lab
        folder = lab.place.quick_path("bin")
        os.mkdir(folder)
        wrapper = os.path.join(folder, "doveadm")
        with open(wrapper, "w", encoding="utf-8") as stream:
            stream.write(f'#!/bin/sh\nexec /usr/bin/doveadm -c {lab.dovecot.config} "$@"\n')
        os.chmod(wrapper, 0o755)
        base = lab.dovecot.wanted.base_dir
        self.config = {
            "agent.panel_users": [WEB_UID],
            "web.user": WEB_UID,
            "web.listen": lab.place.quick_path("web.sock"),
            "web.socket_mode": "0666",
            "web.name": "Example Mail",
            "web.contact": "postmaster@example.org",
            "dovecot.auth_socket": os.path.join(base, "mailseal-auth"),
            "web.password_command": [self._password_command()],
            **options,
        }
        lab.write_config(self.config)
        places = {
            **lab.dovecot.wanted.places,
            "mode = 0600\n    user = mailseal": "mode = 0666",
            # The lab's agent has only a uid, no user or group name for Dovecot.  With 0666, a
            # userdb listener would answer only for the user of the client.
            "mode = 0660\n    group = mailseal": "mode = 0777",
        }
        shipped = snippet(lab.dovecot.version, "self-service", places)
        lab.dovecot.write_config(extra=f"{_SETTINGS}{shipped}{dovecot_extra}")
        env = {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}
        command = [os.path.join(lab.hooks, "mailseal-sealer"), "-c", lab.config_path]
        log = lab.place.path("log", "sealer.log")
        self.sealer = Server("mailseal-sealer", command, log, env=env)
        self.web_socket = str(self.config["web.listen"])
        command = [os.path.join(lab.hooks, "mailseal-web"), "-c", lab.config_path]
        self.web = Server("mailseal-web", command, lab.place.path("log", "web.log"))

    def __enter__(self) -> Site:
        self.lab.start()
        os.chmod(self.users_file, 0o666)
        self.web.start(until=[self.web_socket])
        return self

    def __exit__(self, *_: object) -> None:
        self.web.stop()
        self.sealer.stop()
        self.lab.stop()

    @property
    def users_file(self) -> str:
        """Dovecot's passwd-file, which the page's user may write in this lab."""
        return self.lab.dovecot.wanted.users_file

    def _password_command(self) -> str:
        """The password command of a site: it sets the hash.  Some passwords make it fail."""
        path = self.lab.place.path("set-password")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(_PASSWORD_COMMAND % (self.users_file, self.lab.place.path("wait-here")))
        os.chmod(path, 0o755)
        return path

    def configure_web(self, **options: Any) -> None:
        """Restart the page with these options."""
        self.web.stop()
        self.lab.write_config({**self.config, **options})
        self.web.start(until=[self.web_socket])

    @property
    def version(self) -> str:
        return series(self.lab.dovecot.version)

    def user(self, name: str | None = None, password: str = PASSWORD, mails: int = 1) -> str:
        """A user of the passwd-file who is not enrolled, with some mail."""
        user = name or f"user{next(_numbers)}@example.org"
        if name is not None or password != PASSWORD:
            self.set_password(user, password)
        if mails:
            with Imap(self.lab.imap, user, password) as imap:
                for number in range(mails):
                    imap.append("INBOX", HEADERS + b"old mail %d\r\n" % number)
        return user

    def set_password(self, user: str, password: str) -> None:
        """Set a password in the passwd-file."""
        self.lab.users[user] = password
        self.lab.dovecot.write_users({**self.lab.options.plain_users, **self.lab.users})
        os.chmod(self.users_file, 0o666)

    def ask(self, verb: str, **fields: bytes | str) -> Answer:
        """Ask the agent as the uid of the page."""
        raw = {k: v.encode() if isinstance(v, str) else v for k, v in fields.items()}
        with as_user(WEB_UID), AgentClient(self.lab.agent_socket, 60) as agent:
            return agent.request(verb, **raw)

    def ok(self, verb: str, **fields: bytes | str) -> Answer:
        reply = self.ask(verb, **fields)
        assert reply.status == "ok", (verb, reply.status, reply.text("message"))
        return reply

    def refused(self, verb: str, **fields: bytes | str) -> str:
        """Ask the agent; returns the class of the error."""
        reply = self.ask(verb, **fields)
        assert reply.status == "error", (verb, reply.status)
        return reply.text("class")

    def state(self, user: str, password: str = PASSWORD) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.ok("sign_in", user=user, password=password).fields["state"]
        )
        return found

    def enroll(self, user: str, password: str = PASSWORD, **more: bytes) -> str:
        """Enroll a user as the page does; returns the recovery code."""
        begun = self.ok("enroll_begin", user=user, password=password)
        code = begun.text("code")
        self.ok("enroll_finish", user=user, password=password, typed=part(begun), **more)
        return code

    def sealed(self, user: str) -> list[bool]:
        """For each stored mail, whether it is sealed."""
        found = []
        for path in self.lab.stored(user):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
                found.append(dcrypt.is_sealed(stream.read(16)))
        return found

    def reads(self, user: str, password: str = PASSWORD) -> list[bytes] | None:
        """The mails by IMAP; None if the login is refused."""
        try:
            with Imap(self.lab.imap, user, password) as imap:
                return imap.bodies()
        except Refused:
            return None


def enrolled(site: Site, user: str) -> bool:
    return site.lab.mailseal("status", user).returncode == 0


def part(begun: Answer) -> str:
    """The groups that the agent asks for."""
    groups = begun.text("code").split("-")
    return " ".join(groups[int(number) - 1] for number in begun.text("asked").split())


def in_the_first_pause(site: Site, guess: Callable[[str, str], str]) -> tuple[str, list[str]]:
    """12 wrong passwords of an enrolled user, and the right one while the agent makes a pause.

    Returns the user and all answers.  The 10th begins a pause of a second.  If the machine was too
    busy to do the rest within it, another user is taken.
    """
    for _ in range(10):
        user = site.user(mails=0)
        site.enroll(user)
        said = [guess(user, f"guess {number}") for number in range(9)]
        began = time.monotonic()
        said += [guess(user, word) for word in ("guess 9", "guess 10", "guess 11", PASSWORD)]
        if time.monotonic() - began < 1:
            return user, said
    raise AssertionError("the machine is too busy")


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Connect as this user in the block, for SO_PEERCRED."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def wait(
    what: Callable[[], object], why: str = "the condition is true", timeout: float = 400
) -> None:
    wait_until(what, why, timeout=timeout)


def note(text: str) -> None:
    """Print a line about the progress."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
