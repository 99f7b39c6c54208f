# SPDX-License-Identifier: MIT
"""Checks of the machine itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from mailseal.admin.doctor.check import Check, Outcome, failed, warned
from mailseal.admin.doctor.site import Site

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX = 512  # more than the size of struct timex; modes = 0 changes nothing
_LITTLE = 64 << 20
_NEAR_FULL = 0.02


def _clock(_: Site) -> Iterator[Outcome]:
    """Names of new mails, Dovecot's caches and leases of several hosts depend on it."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX))
    if state == _TIME_ERROR:
        yield warned("the clock of this machine is not synchronized with other clocks")


def _space(site: Site) -> Iterator[Outcome]:
    """Folders in which nothing can be written: mail is deferred, or logins fail."""
    config = site.config
    folders = [config.state_dir, os.path.dirname(config.agent.socket)]
    folders += [config.index.cache] if config.index.cache else []
    for folder in folders:
        try:
            about = os.statvfs(folder)
        except FileNotFoundError:
            continue
        free = about.f_bavail * about.f_frsize
        share = about.f_bavail / max(about.f_blocks, 1)
        if free < _LITTLE and share < _NEAR_FULL:
            yield failed(
                f"the file system of {folder} has only {free >> 20} MB left",
                f"free some space; `df -h {folder}` shows the file system",
            )
        elif about.f_files and not about.f_favail:
            yield failed(
                f"the file system of {folder} has no inode left",
                f"remove files; `df -i {folder}` shows the file system",
            )


CHECKS = (
    Check(
        "clock",
        "the clock is synchronized",
        "run `timedatectl set-ntp true`",
        _clock,
    ),
    Check(
        "space",
        "there is space for keys and for the index cache",
        "run `df -h`",
        _space,
    ),
)
