# SPDX-License-Identifier: MIT
"""mailseal-disk-key: encrypted folders for Postfix's queue, logs, and other files of the system.

SYNOPSIS
    mailseal-disk-key encrypt FOLDER... <KEY
    mailseal-disk-key unlock FOLDER <KEY

DESCRIPTION
    KEY is 64 random bytes on standard input.  `encrypt` turns empty folders into encrypted ones
    (fscrypt): all files that are created in them are encrypted.  `unlock` gives the key to the
    kernel, once after each boot.  A key opens all folders of a file system that were encrypted with
    it.  It stays in the kernel until the file system is unmounted.

    Run it as root.  docs/disk.md has the unit for systemd.

DIAGNOSTICS
    Exit status 0, 64 (usage), 65 (not a key), 75 (the kernel refuses).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys

from mailseal.errors import Damaged, MailsealError, TemporaryError, print_error
from mailseal.index import fscrypt


def main(argv: list[str]) -> int:
    """Run mailseal-disk-key; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mailseal-disk-key", description="encrypted folders for Postfix's queue and logs"
    )
    parser.add_argument("action", choices=("encrypt", "unlock"))
    parser.add_argument("folder", nargs="+")
    wanted = parser.parse_args(argv[1:])
    try:
        key = sys.stdin.buffer.read(fscrypt.KEY_SIZE + 1)
        if len(key) != fscrypt.KEY_SIZE:
            raise Damaged(
                f"the key on standard input is not {fscrypt.KEY_SIZE} bytes",
                hint="a new one: head -c 64 /dev/urandom",
            )
        for folder in wanted.folder:
            _apply(folder, key, encrypt=wanted.action == "encrypt")
    except MailsealError as exc:
        print_error("mailseal-disk-key", exc)
        return exc.exit_status
    return 0


def _apply(folder: str, key: bytes, *, encrypt: bool) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            identifier = fscrypt.add_key(fd, key)
            if encrypt:
                fscrypt.set_policy(fd, identifier)
        finally:
            os.close(fd)
    except fscrypt.Unsupported:
        raise TemporaryError(
            f"the file system of {folder} cannot encrypt folders",
            hint="for ext4: tune2fs -O encrypt DEVICE",
        ) from None
    except OSError as exc:
        why = "it is not empty" if exc.errno == errno.ENOTEMPTY else exc.strerror
        raise TemporaryError(f"{folder}: {why}") from None
