# SPDX-License-Identifier: MIT
"""Reads Dovecot's settings from doveconf(1), for 2.3 and 2.4.

Both versions print the blocks (`passdb`, `service`, `namespace`) in the order in
which Dovecot uses them.  2.3 prints `passdb {` with `driver = sql` inside; in 2.4 blocks
have names, `passdb sql {`, and the name is the driver if no driver is set.

FAILURES
    DoveconfError if doveconf is not installed or cannot be run; Refused if it does not accept the
    configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator, Sequence

_OPENS = re.compile(r"(\w+)(?: (.*))? \{")
_SETS = re.compile(r"(\S+) = ?(.*)")
_QUOTED = re.compile(r'"(.*)"')


class DoveconfError(Exception):
    """The text contains the message of doveconf(1)."""


class Refused(DoveconfError):
    """doveconf does not accept the configuration: Dovecot would not start with it."""


@dataclasses.dataclass
class Block:
    """`kind name { ... }`; the whole output is a block without kind and name."""

    kind: str = ""
    name: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    blocks: list[Block] = dataclasses.field(default_factory=list)

    def get(self, name: str) -> str:
        """The setting; empty if it is missing.

        2.4 prints some settings with their default, and once more as they are in a block with the
        first part of the name: `mail_ext_attachment_path =`, `mail_ext_attachment { path = … }`.
        """
        for block in self.blocks:
            start = "" if block.name else f"{block.kind}_"
            if start and name.startswith(start) and (value := block.get(name[len(start) :])):
                return value
        return self.settings.get(name, "")

    def all(self, kind: str) -> Iterator[Block]:
        """The blocks of this kind directly inside, in order."""
        return (block for block in self.blocks if block.kind == kind)

    @property
    def driver(self) -> str:
        """The driver of a passdb or userdb."""
        return self.get("driver") or self.name


def parse(text: str) -> Block:
    """The output of doveconf."""
    root = Block()
    inside = [root]
    for line in text.splitlines():
        line = line.strip()
        if opened := _OPENS.fullmatch(line):
            block = Block(opened[1], _unquoted(opened[2] or ""))
            inside[-1].blocks.append(block)
            inside.append(block)
        elif line == "}" and len(inside) > 1:
            inside.pop()
        elif (found := _SETS.fullmatch(line)) and not line.startswith("#"):
            inside[-1].settings[found[1]] = _unquoted(found[2])
    return root


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text


class Doveconf:
    """The settings of one Dovecot.  Outputs are cached."""

    def __init__(self, command: Sequence[str] = ("doveconf",)) -> None:
        self._command = list(command)
        self._answers: dict[str, Block] = {}

    def settings(self, protocol: str = "") -> Block:
        """All settings of one protocol, including defaults."""
        if protocol not in self._answers:
            only = ["-f", f"protocol={protocol}"] if protocol else []
            self._answers[protocol] = parse(self._run("-a", *only))
        return self._answers[protocol]

    def plugins(self, protocol: str = "") -> set[str]:
        """The names in mail_plugins.

        The setting may be `</file`: doveconf prints the name of the file, and Dovecot reads it.
        """
        root = self.settings(protocol)
        named: set[str] = set()
        for word in root.get("mail_plugins").split():
            if word.startswith("<"):
                with contextlib.suppress(OSError), open(word[1:], encoding="utf-8") as stream:
                    named.update(stream.read().split())
            else:
                named.add(word)
        for block in root.all("mail_plugins"):
            named |= {name for name, value in block.settings.items() if value == "yes"}
        return named

    def inbox(self, user: str, home: str) -> str:
        """The path of INBOX for a user with this home, if the userdb does not return it (2.4).

        It comes from doveadm, because doveconf does not distinguish an empty mail_inbox_path
        from one that is not set.  Empty if doveadm does not print it; only root may run it.
        """
        settings = {"mail_home": home, "mail_uid": "nobody", "mail_gid": "nogroup"}
        options = [word for pair in settings.items() for word in ("-o", "=".join(pair))]
        command = [*self._command[1:], *options, "mailbox", "path", "--no-userdb-lookup"]
        # Without a type, doveadm prints the path of the index.
        command += ["-t", "mailbox", "INBOX"]
        try:
            return _output(["doveadm", *command], USER=user).strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    def _run(self, *arguments: str) -> str:
        try:
            return _output([*self._command, *arguments])
        except FileNotFoundError:
            raise DoveconfError("doveconf is not installed here") from None
        except subprocess.CalledProcessError as exc:
            said = exc.stderr.decode("utf-8", "replace").strip().splitlines()
            raise Refused(said[-1] if said else "doveconf failed") from None
        except (OSError, subprocess.SubprocessError) as exc:
            raise DoveconfError(f"cannot run doveconf: {exc}") from None


def search_path() -> str:
    """Where Dovecot's tools are: in /usr/bin and /usr/sbin, which may be missing in cron's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin:/usr/local/bin"


def _output(command: Sequence[str], **environment: str) -> str:
    surroundings = {"PATH": search_path(), **environment}
    done = subprocess.run(command, capture_output=True, timeout=10, check=True, env=surroundings)
    return done.stdout.decode("utf-8", "replace")
