# SPDX-License-Identifier: MIT
"""Turns off each protection: then the audit must find words in a known place.

This shows that an audit without findings is meaningful.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tests.audit.day import Day
from tests.audit.machine import Setup, audit, with_system_users
from tests.audit.result import Result
from tests.lab import full_text
from tests.lab.dovecot import installed_version, series

_LUA = "dovecot-conf/2.4/mailseal.lua"
_CACHE = {
    "2.3": "mail_location = maildir:~/Maildir\n",
    "2.4": "mail_cache_path =\n",
}
_LOG = {
    "2.3": "deliver_log_format = msgid=%m: %$\n",
    "2.4": "deliver_log_format = msgid=%{msgid}: %{message}\n",
}


class WithoutShredding(Day):
    """`mailseal seal` without --shred: removed mail in clear stays in free blocks."""

    shred = ()


@dataclasses.dataclass(frozen=True)
class Broken:
    """What is turned off, how, and the row of the table that must have words then."""

    name: str
    setup: Setup
    row: str
    judge: Callable[[Result], None] = lambda result: None


def _as_if_encrypted(result: Result) -> None:
    """Treat a queue without encryption as one that should be encrypted."""
    result.encrypted_queue = True
    for row in ("queue", "queue, free blocks"):
        if result.examples[row]:
            result.leaked.add(row)


def protections() -> list[Broken]:
    """All of them, for the installed Dovecot."""
    version = series(installed_version())
    off = "local function sealing_fields(key)\n"
    return [
        Broken("the index is encrypted", Setup(index=False, dovecot=_CACHE[version]), "cache"),
        Broken("caches of system users are on tmpfs", with_system_users(_CACHE[version]), "cache"),
        *_of_full_text(),
        Broken(
            "decrypted mails are on tmpfs", Setup(dovecot="mail_temp_dir = @DISK@\n"), "free blocks"
        ),
        Broken("Dovecot logs no Message-ID", Setup(dovecot=_LOG[version]), "log of Dovecot"),
        Broken(
            "mailseal-lmtp seals",
            Setup(
                patches=[
                    (
                        "lib/mailseal/delivery/seal.py",
                        'dcrypt.seal(key, b"".join(text), secret=secret)',
                        'b"".join(text)',
                    )
                ]
            ),
            "store",
        ),
        Broken(
            "Dovecot seals what it stores",
            Setup(
                patches=[
                    (_LUA, off, f"{off}  do return plain_fields() end\n"),
                    (
                        "lib/mailseal/delivery/dovecot/sealing.py",
                        '    in_24 = "crypt_global_public_key_file" in fields\n',
                        "    return None\n",
                    ),
                ]
            ),
            "store",
        ),
        Broken("mail in clear is overwritten", Setup(day=WithoutShredding), "free blocks"),
        Broken("the queue is encrypted", Setup(encrypted_queue=False), "queue", _as_if_encrypted),
    ]


def _of_full_text() -> list[Broken]:
    """Where it is installed: its index beside the mail."""
    if full_text.missing(installed_version()):
        return []
    patch = (
        "lib/mailseal/login/open_folders.py",
        '        if self._version == "2.4":\n',
        '        return []\n        if self._version == "2.4":\n',
    )
    setup = Setup(patches=[patch])
    return [Broken("the full-text index is in the encrypted folder", setup, "full-text index")]


def main(say: Callable[[str], None]) -> int:
    """Turn off each in turn; returns the exit status."""
    missed = 0
    for broken in protections():
        say(f"switched off: {broken.name}")
        result = audit(broken.setup, lambda line: None)
        broken.judge(result)
        seen = broken.row in result.leaks() and not result.blind()
        missed += not seen
        rows = ", ".join(result.leaks()) or "nothing"
        print(f"{'seen  ' if seen else 'MISSED'}  {broken.name}: {rows}", flush=True)
    print(f"Dovecot {installed_version()}: {missed} missed")
    return 1 if missed else 0
