# SPDX-License-Identifier: MIT
"""A lab for mistakes: runs `mailseal doctor`, and carries out its remedies as they are written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

from mailseal.admin.cli import main
from tests.lab import ALICE, Lab
from tests.lab.dovecot import installed_version, series, snippet

VERSION = series(installed_version())
PLAIN = "plain@example.org"

Result = dict[str, Any]


class Sick:
    """The lab, what its doctor said before any mistake, and how to undo everything."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        with open(lab.dovecot.config, encoding="utf-8") as stream:
            self._dovecot = stream.read()
        with open(lab.config_path, encoding="utf-8") as stream:
            self._yaml = stream.read()
        self.only_written = False
        """Whether Dovecot must not be started with its present configuration."""
        self._undo: list[Callable[[], object]] = []
        self.before = {(one["check"], one["text"]) for one in self.results()}

    def doctor(self, *words: str, stdin: str = "") -> tuple[int, list[Result]]:
        """Exit status and results.  In this process, unless a password is needed."""
        arguments = ["doctor", "--json", "--postfix-config", self.lab.postfix.config, *words]
        if stdin:
            done = self.lab.mailseal(*arguments, "--stdin", stdin=stdin.encode())
            assert done.stdout, done.stderr
            return done.returncode, json.loads(done.stdout)["results"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = main(["mailseal", "-c", self.lab.config_path, *arguments])
        return status, json.loads(printed.getvalue())["results"]

    def results(self) -> list[Result]:
        """What is not a pass, without a login."""
        return [one for one in self.doctor()[1] if one["level"] != "pass"]

    def new(self, check: str) -> list[Result]:
        """What this check finds now, and did not find before the mistake."""
        _, found = self.doctor("--only", check)
        return [
            one
            for one in found
            if one["level"] != "pass" and (check, one["text"]) not in self.before
        ]

    def afterwards(self, undo: Callable[[], object]) -> None:
        self._undo.append(undo)

    def dovecot(self, text: str = "", *, change: Callable[[str], str] = str) -> None:
        """Change Dovecot's configuration: add text at the end, or change the whole."""
        with open(self.lab.dovecot.config, encoding="utf-8") as stream:
            now = stream.read()
        with open(self.lab.dovecot.config, "w", encoding="utf-8") as stream:
            stream.write(f"{change(now)}\n{text}\n")

    def cure(self) -> None:
        """As before all mistakes."""
        self.only_written = False
        while self._undo:
            self._undo.pop()()
        for path, text in (
            (self.lab.dovecot.config, self._dovecot),
            (self.lab.config_path, self._yaml),
        ):
            with open(path, encoding="utf-8") as stream:
                if stream.read() == text:
                    continue
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.utime(path, (0, 0))

    def follow(self, remedy: str) -> None:
        """Do what the words in backticks say, in their order."""
        steps = re.findall(r"`([^`]+)`", remedy)
        assert steps, remedy
        for step in steps:
            self._do(step, remedy)

    def _do(self, step: str, remedy: str) -> None:
        lab = self.lab
        if found := re.fullmatch(r"systemctl (?:re)?start (\S+)", step):
            self.restart(found[1])
        elif step == "postfix reload":
            lab.postfix.stop()
            lab.postfix.start()
        elif step.startswith("!include "):
            self._include(step)
        elif re.fullmatch(r"delivery: \{.*\}", step):
            name, _, value = step.removeprefix("delivery: {").removesuffix("}").partition(": ")
            lab.write_config({f"delivery.{name}": value})
        elif step.startswith("mailseal "):
            done = lab.mailseal(*step.split()[1:], stdin=b"password\n")
            assert done.returncode == 0, (step, done.stderr)
        elif re.match(r"[\w/]+ =", step):
            self._set(self._here(step), remedy)
        else:
            path = f"{lab.hooks}:/usr/sbin:/usr/bin:/sbin:/bin"
            environment = {"PATH": path, "MAIL_CONFIG": lab.postfix.config}
            subprocess.run(["sh", "-ec", step], check=True, env=environment, capture_output=True)

    def _set(self, line: str, remedy: str) -> None:
        """A setting: at the end, or where the remedy says."""
        block = re.search(r" into the block (\w+) with driver = (\S+),", remedy)
        name = line.partition(" ")[0]
        if "in place of that line" in remedy:
            self.dovecot(change=lambda text: re.sub(rf"(?m)^{name} = .*\$\(.*", line, text))
        elif block:
            start = f"{block[1]} {{\n  driver = {block[2]}\n"
            self.dovecot(change=lambda text: text.replace(start, f"{start}  {line}\n", 1))
        else:
            self.dovecot(line)

    def _here(self, line: str) -> str:
        """With the folders of the lab, where the remedy has the usual ones."""
        return line.replace("/run/mailseal", self.lab.place.quick)

    def restart(self, name: str) -> None:
        """`systemctl restart` in the lab."""
        if name == "dovecot":
            if not self.only_written:
                self.lab.dovecot.restart()
        elif name == "mailseal-agent":
            self.lab.restart_agent()
        else:
            assert name == "mailseal-lmtp", name
            self.lab.restart_delivery()

    def _include(self, line: str) -> None:
        """The file as it is, with the paths of the lab; below it, what the lab changes in it."""
        folder, _, name = line.removeprefix("!include ").removesuffix(".conf").rpartition("/")
        assert os.path.isfile(f"{folder}/{name}.conf"), line
        if name.startswith("auth-"):
            self.dovecot(change=lambda _: self._dovecot)  # the site's own blocks give way
            assert snippet(VERSION, name, self.lab.dovecot.wanted.places) in self._dovecot
            return
        text = snippet(VERSION, name, self.lab.dovecot.wanted.places)
        ours = self._dovecot[
            self._dovecot.rindex("service auth {\n  unix_listener mailseal-userdb") :
        ]
        self.dovecot(f"{text}\n{ours}")


__all__ = ["ALICE", "PLAIN", "VERSION", "Result", "Sick"]
