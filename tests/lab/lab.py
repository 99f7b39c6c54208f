# SPDX-License-Identifier: MIT
"""The lab: all servers together, for tests, the demo and `make lab`.

    with Lab({"alice@example.org": "password"}) as lab:
        send(lab.smtp, "eve@example.net", ["alice@example.org"], mail)
        lab.wait_delivered()
        Imap(lab.imap, "alice@example.org", "password").bodies()

CONTRACT
    After start(), a real Postfix, a real Dovecot, mailseal-agent and
    mailseal-lmtp are ready on 127.0.0.1, and all `users` are enrolled.
    After stop(), and after an exception in start(), no process and no file is
    left, except a folder given by the caller.

FAILURES
    LabError with the last lines of the log of the server that did not start.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from mailseal.login.client import AgentClient
from tests.lab.dovecot import Dovecot, Wanted
from tests.lab.imap import Imap
from tests.lab.place import AGENT_UID, MAIL_UID, REPLICA_UID, LabError, Place, free_ports
from tests.lab.postfix import Postfix
from tests.lab.process import PATIENCE, Server, interrupted_later, wait_until

ALICE = "alice@example.org"
BOB = "bob@example.org"
DOMAIN = "example.org"


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a lab.

    auth           the auth-*.conf of dovecot-conf/; None: see tests.lab.dovecot.Wanted
    plain_users    users of Dovecot's passwd-file who are not enrolled
    dovecot_extra  Dovecot configuration text at the end, so that it overrides the rest
    postfix_extra  main.cf parameters
    postfix_page   the page of postfix-conf/ whose commands are run
    config_extra   mailseal options by their names: "section.option"
    kdf            Argon2id profile of new keyrings
    stores         URLs of a database for the agent and for the replica; None: keys in files
    directory      the lab's folder, which is kept; None: a temporary one
    """

    auth: str | None = "mailseal-only"
    plain_users: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dovecot_extra: str = ""
    postfix_extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    postfix_page: str = "virtual-transport"
    config_extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kdf: str = "insecure-testing"
    stores: tuple[str, str] | None = None
    directory: str | None = None


class Lab:
    """All servers in one temporary folder."""

    def __init__(self, users: Mapping[str, str] | None = None, **options: Any) -> None:
        self.options = Options(**options)
        self.users: dict[str, str] = dict({ALICE: "password"} if users is None else users)
        with interrupted_later():
            self.place = Place.make(self.options.directory)
            # If the caller ends before it enters the lab.
            atexit.register(self.place.remove)
            try:
                self._prepare()
            except BaseException:
                self.place.remove()
                raise

    def _prepare(self) -> None:
        # First, so that a later lab in this folder has the users even if this one is killed.
        self.place.remember(self.users)
        smtp, lmtp, imap, pop3 = free_ports(4)
        self.dir = self.place.dir
        self.smtp = ("127.0.0.1", smtp)
        self.lmtp = ("127.0.0.1", lmtp)
        self.imap = ("127.0.0.1", imap)
        self.pop3 = ("127.0.0.1", pop3)
        self.agent_socket = self.place.quick_path("agent.sock")
        self.lmtp_socket = self.place.quick_path("lmtp.sock")
        self.deliver_socket = self.place.quick_path("deliver.sock")
        self.config_path = self.place.path("mailseal.yaml")
        self.hooks = os.path.join(self.place.copy_code(), "hooks")
        options = self.options
        self.dovecot = Dovecot(
            Wanted(self.place, imap, pop3, auth=options.auth, extra=options.dovecot_extra)
        )
        self.dovecot.write_users({**self.users, **options.plain_users})
        domains = {user.rpartition("@")[2] for user in [*self.users, *options.plain_users]}
        self.postfix = Postfix(
            self.place,
            smtp,
            sorted(domains | {DOMAIN}),
            page=options.postfix_page,
            lmtp_socket=self.lmtp_socket,
            extra=options.postfix_extra,
        )
        self.write_config(options.config_extra)
        self.agent = self._daemon("mailseal-agent", "agent.log")
        self.delivery = self._daemon("mailseal-lmtp", "lmtp.log")
        self.replica = self._daemon("mailseal-replica", "replica.log")

    def _daemon(self, hook: str, log: str) -> Server:
        command = [os.path.join(self.hooks, hook), "-c", self.config_path]
        return Server(hook, command, self.place.path("log", log))

    def write_config(self, extra: Mapping[str, Any]) -> None:
        """Write mailseal.yaml.  `extra` overrides the options of the lab."""
        import yaml

        values: dict[str, Any] = {
            "state_dir": self.place.path("state"),
            "log.to": "stderr",
            "dovecot.userdb_socket": self.dovecot.userdb_socket,
            "dovecot.auth_socket": os.path.join(self.dovecot.wanted.base_dir, "auth-client"),
            "index.cache": self.place.quick_path("cache"),
            "dovecot.anvil_socket": os.path.join(self.dovecot.wanted.base_dir, "mailseal-anvil"),
            "dovecot.lmtp_socket": self.dovecot.lmtp_socket,
            "agent.user": AGENT_UID,
            "agent.socket": self.agent_socket,
            "agent.login_users": ["root", pwd.getpwnam("dovecot").pw_uid],
            "keys.kdf": self.options.kdf,
            "login.password_check": self._password_check,
            "delivery.user": MAIL_UID,
            "delivery.listen": [self.lmtp_socket, "{}:{}".format(*self.lmtp)],
            "delivery.deliver_socket": self.deliver_socket,
            "delivery.hostname": "lab.example.org",
            **self._stores(),
            **extra,
        }
        tree: dict[str, Any] = {}
        for name, value in values.items():
            section, _, option = name.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[option] = value
        with open(self.config_path, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            yaml.safe_dump(tree, stream, sort_keys=False)

    def _stores(self) -> dict[str, Any]:
        if self.options.stores is None:
            return {}
        agent, replica = self.options.stores
        return {"keys.store": agent, "replica.store": replica, "replica.user": REPLICA_UID}

    @property
    def _password_check(self) -> str:
        alone = (self.options.auth or "").startswith("mailseal-only")
        return "keyring" if alone else "passdb"

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all servers and enroll the users."""
        try:
            with interrupted_later():
                subprocess.run(
                    [os.path.join(self.hooks, "mailseal"), "-c", self.config_path, "init"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    timeout=120,
                )
            if self.options.stores is not None:
                self.start_replica()
            self.start_agent()
            self._enroll_all()
            self.dovecot.start()
            self.start_delivery()
            self.postfix.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all servers, in the order of the delivery, and remove the folders.

        Each step is done even if an earlier one fails.
        """
        with contextlib.ExitStack() as last_first:
            last_first.callback(atexit.unregister, self.place.remove)
            last_first.callback(self.place.remove)
            last_first.callback(self.replica.stop)
            last_first.callback(self.agent.stop)
            last_first.callback(self.dovecot.stop)
            last_first.callback(self.delivery.stop)
            last_first.callback(self.postfix.stop)

    def kill(self) -> None:
        """kill -9 of all processes, similar to a crash of the machine."""
        for server in (self.postfix, self.dovecot, self.delivery, self.agent):
            for pid in server.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def start_agent(self) -> None:
        self.agent.start(until=[self.agent_socket])

    def start_replica(self) -> None:
        """Return when there has been a whole copy."""
        self.replica.start(until=[])
        folder = self.place.path("state", "public")
        wait_until(lambda: os.path.exists(f"{folder}/position"), "mailseal-replica has a copy")

    def stop_agent(self) -> None:
        self.agent.stop()

    def restart_agent(self) -> None:
        self.stop_agent()
        self.start_agent()

    def start_delivery(self) -> None:
        self.delivery.start(until=[self.lmtp_socket, self.lmtp])

    def restart_delivery(self, sig: signal.Signals = signal.SIGTERM) -> None:
        self.delivery.stop(sig)
        self.start_delivery()

    def _enroll_all(self) -> None:
        with AgentClient(self.agent_socket, 60) as agent:
            for user, password in self.users.items():
                _enroll(agent, user, password)

    def add_user(self, user: str, password: str = "password") -> None:
        """Enroll another user.  If `auth` uses a passwd-file, the user must be in it too."""
        with AgentClient(self.agent_socket, 60) as agent:
            _enroll(agent, user, password)
        self.users[user] = password
        self.dovecot.write_users({**self.users, **self.options.plain_users})

    def login(self, user: str = ALICE) -> Imap:
        """An IMAP connection, logged in as the user."""
        return Imap(self.imap, user, self.users[user])

    def inbox(self, user: str = ALICE) -> list[bytes]:
        """All mails in a user's INBOX, read with IMAP."""
        with self.login(user) as imap:
            return imap.bodies()

    def mailseal(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the mailseal command with the lab's configuration."""
        return subprocess.run(
            [os.path.join(self.hooks, "mailseal"), "-c", self.config_path, *args],
            input=stdin,
            capture_output=True,
        )

    def home(self, user: str) -> str:
        name, _, domain = user.partition("@")
        return self.place.path("mail", domain, name)

    def maildir(self, user: str, folder: str = "") -> str:
        """The Maildir of a user, or of one folder: "Sent"."""
        return os.path.join(self.home(user), "Maildir", *([f".{folder}"] if folder else []))

    def stored(self, user: str, folder: str = "") -> list[str]:
        """The files of a user's mails in a folder, oldest first."""
        found = []
        for part in ("new", "cur"):
            where = os.path.join(self.maildir(user, folder), part)
            if os.path.isdir(where):
                found += [os.path.join(where, name) for name in os.listdir(where)]
        return sorted(found, key=lambda path: (os.stat(path).st_mtime_ns, path))

    def postfix_queue(self) -> list[str]:
        """The queue ids of the mails in Postfix's queue."""
        return self.postfix.queue()

    def wait_delivered(self, *, timeout: float = PATIENCE) -> None:
        """Wait until Postfix's queue is empty; otherwise LabError with the reason."""
        try:
            self.postfix.wait_empty(timeout=timeout)
        except LabError as exc:
            lines = [x for x in self.log_text().splitlines() if "status=deferred" in x]
            raise LabError("\n    ".join([str(exc), *lines[-3:]])) from None

    def log_text(self) -> str:
        """The text of all logs."""
        parts = []
        for name in sorted(os.listdir(self.place.path("log"))):
            path = self.place.path("log", name)
            with open(path, encoding="utf-8", errors="replace") as stream:
                parts.append(f"== {name}\n{stream.read()}")
        return "\n".join(parts)

    def summary(self) -> dict[str, Any]:
        """Addresses and paths, for `make lab`."""
        return {
            "smtp": list(self.smtp),
            "lmtp": list(self.lmtp),
            "imap": list(self.imap),
            "pop3": list(self.pop3),
            "dir": self.dir,
            "config": self.config_path,
            "users": self.users,
            "dovecot": ".".join(self.dovecot.version.split(".")[:3]),
        }


def _enroll(agent: AgentClient, user: str, password: str) -> None:
    answer = agent.request("enroll", user=user.encode(), password=password.encode())
    if answer.status != "ok" and answer.text("class") != "AlreadyEnrolled":
        raise LabError(f"cannot enroll {user}: {answer.text('message')}")
