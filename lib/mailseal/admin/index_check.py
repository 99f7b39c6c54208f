# SPDX-License-Identifier: MIT
"""Checks the encrypted index folders: file system, owner, key quota, and Dovecot's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.doveconf import Block, Doveconf, DoveconfError
from mailseal.errors import ConfigError

_FIELD = "userdb:mailseal_index"
_MAX_KEYS = "/proc/sys/kernel/keys/maxkeys"
FEW_KEYS = 2000
"""Each unlocked folder needs one key; the default of Linux is 200."""


def findings(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Findings about indexes that are not encrypted.  None of these makes a login fail."""
    folder = config.index.folder
    if folder is None or not config.dovecot_is_here:
        return
    if os.geteuid() == 0:
        yield from _folder(config, folder)
    yield from _keys()
    try:
        settings = doveconf.settings("imap")
    except DoveconfError:
        return  # reported elsewhere
    yield from _namespace(settings)
    location = settings.get("mail_location")
    if location and _FIELD not in location:
        yield warning(
            f"index.folder is set, but Dovecot does not use it: add %{{{_FIELD}}} to the end of "
            "mail_location; see docs/index-privacy.md"
        )


def _namespace(settings: Block) -> Iterator[Finding]:
    """In 2.4, where mail_location does not exist, the agent returns fields for one namespace."""
    names = [one.name for one in settings.all("namespace") if one.get("inbox") == "yes"]
    if "mail_location" not in settings.settings and names and "inbox" not in names:
        yield warning(
            "index.folder is set, but Dovecot does not use it: the namespace with inbox = yes must "
            f"have the name inbox, not {names[0]}"
        )


def _folder(config: Config, folder: str) -> Iterator[Finding]:
    from mailseal.index import fscrypt

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        yield error(f"index.folder: cannot open {folder}: {exc.strerror}; run `mailseal init`")
        return
    try:
        fscrypt.policy(fd)
        agent = config.agent.user
        if os.fstat(fd).st_uid != user_ids(agent, "agent.user")[0]:
            yield error(f"index.folder: {folder} is not owned by {agent}; run `mailseal init`")
    except fscrypt.Unsupported:
        yield error(
            f"index.folder: the file system of {folder} cannot encrypt; for ext4, turn it on "
            "with `tune2fs -O encrypt DEVICE`; see docs/index-privacy.md"
        )
    except ConfigError:
        pass  # reported elsewhere
    finally:
        os.close(fd)


def _keys() -> Iterator[Finding]:
    try:
        with open(_MAX_KEYS, encoding="ascii") as stream:
            allowed = int(stream.read())
    except (OSError, ValueError):
        return
    if allowed < FEW_KEYS:
        yield warning(
            f"kernel.keys.maxkeys is {allowed}: no more index folders than that can be unlocked "
            "at the same time; run `sysctl --system` to use sysctl.d/mailseal.conf"
        )
