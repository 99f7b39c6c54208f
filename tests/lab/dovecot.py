# SPDX-License-Identifier: MIT
"""A private Dovecot of the installed version.

The configuration language has changed between 2.3 and 2.4.  So the text comes
from a module for each version (dovecot_23), with a function from Wanted to text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import importlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping

from tests.lab.place import MAIL_UID, REPOSITORY, LabError, Place
from tests.lab.process import Server, members

_DIALECTS = {"2.3": "tests.lab.dovecot_23", "2.4": "tests.lab.dovecot_24"}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The input for a configuration.

    auth     the auth-*.conf of dovecot-conf/; `passwd-file`: Dovecot's own, without
             mailseal's daemons; None: `extra` contains passdb and userdb.
    sealing  whether mailseal's files are used; otherwise it is a plain Dovecot,
             for comparisons.
    extra    configuration text at the end, so that it overrides the rest.
    """

    place: Place
    imap_port: int
    pop3_port: int
    auth: str | None = "mailseal-only"
    sealing: bool = True
    extra: str = ""
    mail_uid: int = MAIL_UID

    @property
    def base_dir(self) -> str:
        return self.place.quick_path("dovecot")

    @property
    def home(self) -> str:
        return self.place.path("mail", "%d", "%n")

    @property
    def log_path(self) -> str:
        return self.place.path("log", "dovecot.log")

    @property
    def users_file(self) -> str:
        """The passwd-file of the `behind-passwd-file` case."""
        return self.place.path("dovecot", "users")

    @property
    def places(self) -> Mapping[str, str]:
        """The changes that a postmaster with other folders would make in the files."""
        return {
            "/run/mailseal": self.place.quick,
            "/var/lib/mailseal/public": self.place.path("state", "public"),
            "/usr/lib/mailseal/hooks": self.place.path("code", "hooks"),
            "/usr/lib/mailseal/dovecot-conf": self.place.path("code", "dovecot-conf"),
            "/etc/dovecot/users": self.users_file,
            "/var/mail/vhosts": self.place.path("mail"),
            "uid=vmail gid=vmail": f"uid={self.mail_uid} gid={self.mail_uid}",
            "uid = vmail": f"uid = {self.mail_uid}",
            "gid = vmail": f"gid = {self.mail_uid}",
        }


class Dovecot:
    """One private Dovecot."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.version = installed_version()
        self.imap = ("127.0.0.1", wanted.imap_port)
        self.pop3 = ("127.0.0.1", wanted.pop3_port)
        self.config = wanted.place.path("dovecot", "dovecot.conf")
        self.lmtp_socket = os.path.join(wanted.base_dir, "mailseal-relay")
        self.userdb_socket = os.path.join(wanted.base_dir, "mailseal-userdb")
        self._write_lookups()
        self.write_config()
        self._server = Server(
            "Dovecot",
            [_program("dovecot"), "-F", "-c", self.config],
            wanted.place.path("log", "dovecot-master.log"),
        )

    def write_config(self, extra: str | None = None) -> None:
        """Write the configuration.  `extra` replaces the first one."""
        wanted = self.wanted
        if extra is not None:
            wanted = dataclasses.replace(wanted, extra=extra)
        with open(self.config, "w", encoding="utf-8") as stream:
            stream.write(_dialect(self.version)(wanted))

    def _write_lookups(self) -> None:
        """The files that the passdbs and userdbs refer to, with the paths of the lab."""
        for path in glob.glob(self.wanted.place.path("code", "dovecot-conf", "2.3", "*.ext")):
            with open(path, "r+", encoding="utf-8") as stream:
                text = stream.read().replace("/run/mailseal", self.wanted.place.quick)
                stream.seek(0)
                stream.write(text)
                stream.truncate()

    def start(self) -> None:
        self._server.start(until=[self.imap, self.pop3, self.lmtp_socket])

    def stop(self) -> None:
        self._server.stop()

    def pids(self) -> list[int]:
        return self._server.pids()

    def restart(self) -> None:
        self.stop()
        self.start()

    def write_users(
        self, entries: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> None:
        """Write the passwd-file: user and password, and the user's extra fields."""
        lines = []
        for user, password in entries.items():
            name, _, domain = user.partition("@")
            home = self.wanted.place.path("mail", domain, name)
            fields = (more or {}).get(user, "")
            uid = self.wanted.mail_uid
            lines.append(f"{user}:{{PLAIN}}{password}:{uid}:{uid}::{home}::{fields}\n")
        with open(self.wanted.users_file, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.writelines(lines)
        if self._server.running and "passwd-file" in (self.wanted.auth or ""):
            time.sleep(1.1)  # Dovecot checks at most once per second whether the file has changed

    def doveadm(self, *args: str, stdin: bytes = b"") -> bytes:
        """Run doveadm with this configuration; returns its output."""
        done = subprocess.run(
            [_program("doveadm"), "-c", self.config, *args], input=stdin, capture_output=True
        )
        if done.returncode:
            error = done.stderr.decode(errors="replace").strip()
            raise LabError(f"doveadm {args[0]} ended with {done.returncode}: {error}")
        return done.stdout

    def processes(self, name: str) -> list[int]:
        """The pids of the processes of this Dovecot with this program."""
        found = []
        for pid in members(self._server.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as stream:
                if stream.read().strip() == name.encode():
                    found.append(pid)
        return found

    def settings(self, name: str, *filters: str) -> str:
        """The value of one setting, from doveconf."""
        command = [_program("doveconf"), "-c", self.config, *filters, "-h", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"doveconf: {done.stderr.strip()}")
        return done.stdout.strip()

    def log_text(self) -> str:
        try:
            with open(self.wanted.log_path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""


def installed_version() -> str:
    """The version of the installed Dovecot: 2.3.19.1."""
    done = subprocess.run([_program("dovecot"), "--version"], capture_output=True, text=True)
    match = re.match(r"[\d.]+", done.stdout)
    if match is None:
        raise LabError("`dovecot --version` does not tell its version")
    return match[0]


def series(version: str) -> str:
    """The part of a version that determines the configuration language: 2.3."""
    return ".".join(version.split(".")[:2])


def snippet(version: str, name: str, places: Mapping[str, str]) -> str:
    """A file of dovecot-conf/, with the paths of the lab."""
    path = os.path.join(REPOSITORY, "dovecot-conf", series(version), f"{name}.conf")
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise LabError(f"there is no {path}") from None
    for shipped in sorted(places, key=len, reverse=True):
        text = text.replace(shipped, places[shipped])
    return text


def _dialect(version: str) -> Callable[[Wanted], str]:
    try:
        module = importlib.import_module(_DIALECTS[series(version)])
    except (KeyError, ModuleNotFoundError):
        raise LabError(f"the lab knows no Dovecot {series(version)}") from None
    made: Callable[[Wanted], str] = module.configuration
    return made


def _program(name: str) -> str:
    for folder in ("/usr/sbin", "/usr/bin"):
        if os.path.exists(path := os.path.join(folder, name)):
            return path
    raise LabError(f"{name} is not installed", hint="run: make lab, which installs what is missing")
