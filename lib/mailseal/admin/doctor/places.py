# SPDX-License-Identifier: MIT
"""Checks places outside the mailboxes where text of mails could reach a disk in clear."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.doctor.check import Check, NotUsed, Outcome, failed, warned
from mailseal.admin.doctor.site import RESTART_DOVECOT, Site
from mailseal.admin.dovecot_folders_check import cache_setting
from mailseal.admin.mail_place import is_in_memory, mounted_on
from mailseal.doveconf import Block

_VARIABLE = re.compile(r"/?[^/]*(%[^/]*).*")


def _cache(site: Site) -> Iterator[Outcome]:
    """Where the index cache is; check-config reports if it has no place of its own."""
    block = site.dovecot("imap")
    folder = _cache_folder(block)
    if not folder:
        raise NotUsed  # the check `dovecot` reports it: this is not a pass
    if not is_in_memory(_existing(folder)):
        place = site.config.index.cache or "/run/mailseal/cache"
        yield failed(
            f"the index cache is in {folder}, on a disk: subjects and addresses of sealed mails "
            "are stored there in clear",
            f"{shipped.put(cache_setting(block, place))}, and remove the old files named "
            "dovecot.index.cache",
        )


def _cache_folder(block: Block) -> str:
    """The part of the path that is the same for all users; empty if it is in the home."""
    path = block.get("mail_cache_path")
    for word in block.get("mail_location").split(":")[2:]:
        if word.upper().startswith("INDEXCACHE="):
            path = word.partition("=")[2]
    return _VARIABLE.sub("", path)


def _existing(folder: str) -> str:
    while folder not in ("", "/") and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def _swap(_: Site) -> Iterator[Outcome]:
    """Memory of Dovecot's processes, with mails in clear, can be written to the swap space."""
    with open("/proc/swaps", encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines()[1:]
    for line in lines:
        device = line.split()[0]
        if not is_encrypted(device) and not os.path.basename(device).startswith("zram"):
            yield warned(
                f"the swap space {device} is not encrypted: parts of mails and keys of Dovecot's "
                "processes can be written there",
                f"run `swapoff {device}` and remove its line from /etc/fstab; or encrypt it with "
                "a random key (crypttab(5), option swap)",
            )


def _queue(site: Site) -> Iterator[Outcome]:
    """Mail in Postfix's queue is in clear until it is delivered."""
    folder = site.postfix.main["queue_directory"]
    if is_in_memory(folder):
        return
    device = mounted_on(folder)
    if not (device and is_encrypted(device)) and not _is_encrypted_folder(folder):
        yield warned(
            f"Postfix's queue {folder} is on a disk that is not encrypted ({device or 'unknown'})",
            "run the commands in docs/disk.md; `postconf queue_directory` shows where the queue is",
        )


def is_encrypted(device: str) -> bool:
    """Whether a block device, or one below it, is encrypted with dm-crypt.  False for a file."""
    name = os.path.basename(os.path.realpath(device))
    folder = f"/sys/class/block/{name}"
    try:
        with open(f"{folder}/dm/uuid", encoding="ascii", errors="replace") as stream:
            if stream.read().startswith("CRYPT-"):
                return True
    except OSError:
        pass
    try:
        below = os.listdir(f"{folder}/slaves")
    except OSError:
        return False
    return bool(below) and all(map(is_encrypted, below))


def _is_encrypted_folder(folder: str) -> bool:
    """Whether files in it are encrypted with fscrypt, as in docs/disk.md."""
    from mailseal.index import fscrypt

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fscrypt.policy(fd) is not None
    except OSError:
        return False
    finally:
        os.close(fd)


CHECKS = (
    Check(
        "index-cache",
        "the index cache, with parts of mails in clear, is in memory",
        f"use the lines in mailseal.conf of dovecot-conf, then run {RESTART_DOVECOT}",
        _cache,
    ),
    Check(
        "swap",
        "there is no swap space, or it is encrypted",
        "run `swapoff -a`",
        _swap,
    ),
    Check(
        "queue-disk",
        "Postfix's queue is in memory or on an encrypted disk",
        "see docs/disk.md; `postconf queue_directory` shows where the queue is",
        _queue,
    ),
)
