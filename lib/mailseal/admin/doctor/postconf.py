# SPDX-License-Identifier: MIT
"""Reads Postfix's settings with postconf(1).

FAILURES
    TemporaryError if Postfix is not installed here, or postconf fails.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess

from mailseal.errors import TemporaryError

_TIMEOUT = 20


@dataclasses.dataclass(frozen=True)
class Service:
    """One line of master.cf.  `options` are its `-o` settings."""

    name: str
    kind: str
    chroot: bool
    command: str
    options: dict[str, str]


class Postconf:
    """One Postfix.  `folder`: its configuration directory; None: the usual one."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder

    @functools.cached_property
    def main(self) -> dict[str, str]:
        """All settings of main.cf with their values, also defaults; $name is replaced."""
        return dict(_pairs(self.run("postconf", "-x")))

    @functools.cached_property
    def services(self) -> tuple[Service, ...]:
        """master.cf."""
        options: dict[str, dict[str, str]] = {}
        for name, value in _pairs(self.run("postconf", "-P")):
            service, _, option = name.rpartition("/")
            options.setdefault(service, {})[option] = value
        found = []
        for line in self.run("postconf", "-M").splitlines():
            words = line.split()
            if line[:1].isspace() or len(words) < 8:
                continue  # further arguments of the command above
            # A `-` means yes before Postfix 3.0; postconf prints what is in the file.
            chroot = words[4] == "y"
            key = f"{words[0]}/{words[1]}"
            found.append(Service(words[0], words[1], chroot, words[7], options.get(key, {})))
        return tuple(found)

    def run(self, *command: str, stdin: bytes = b"") -> str:
        """Run one of Postfix's commands with this configuration; returns its output."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        if folder := self.folder or os.environ.get("MAIL_CONFIG"):
            environment["MAIL_CONFIG"] = folder
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=_TIMEOUT, env=environment
            )
        except FileNotFoundError:
            raise TemporaryError(f"Postfix's {command[0]} is not installed here") from None
        except (OSError, subprocess.SubprocessError) as exc:
            raise TemporaryError(f"cannot run {command[0]}: {exc}") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise TemporaryError(said[-1] if said else f"{command[0]} failed")
        return done.stdout.decode("utf-8", "replace")


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition(" =") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, is_there, value in pairs if is_there]
