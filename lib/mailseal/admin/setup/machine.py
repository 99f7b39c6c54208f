# SPDX-License-Identifier: MIT
"""Runs the commands of setup: of systemd, Postfix and Dovecot.

FAILURES
    TemporaryError with the last line that the command has written.
"""

from __future__ import annotations

import shlex
import subprocess

from mailseal.errors import TemporaryError

_TIMEOUT = 120
"""Seconds; mailseal-lmtp may need 90 to stop."""

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def output(*command: str) -> str:
    """Run a command; returns what it writes."""
    return _run(*command).stdout.decode("utf-8", "replace")


def status(*command: str) -> int:
    """Run a command that may say no; returns its exit status."""
    return _run(*command, check=False).returncode


def looked_up(*command: str) -> str | None:
    """The answer of postmap(1); None if there is none.  Raises TemporaryError if the map fails."""
    done = _run(*command, check=False)
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace").strip()
    if said := done.stderr.decode("utf-8", "replace").strip():
        raise TemporaryError(f"`{shlex.join(command)}` failed: {said.splitlines()[-1]}")
    return None


def run(line: str) -> None:
    """Run a command as it is printed for people."""
    output(*shlex.split(line))


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    shown = shlex.join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            env={**_ENVIRONMENT, "LC_ALL": "C.UTF-8"},
        )
    except OSError as exc:
        raise TemporaryError(f"cannot run {command[0]}: {exc.strerror}") from None
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"`{shown}` did not end within {_TIMEOUT} seconds") from None
    if check and done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise TemporaryError(
            f"`{shown}` failed: {said[-1] if said else f'status {done.returncode}'}"
        )
    return done
