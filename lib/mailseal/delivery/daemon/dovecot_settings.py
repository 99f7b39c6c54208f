# SPDX-License-Identifier: MIT
"""Dovecot's settings for mailseal-lmtp, which needs root's rights to read them.

If they are not known at start, because Dovecot has not been started since the machine was, a
process that stays root waits for them.  It does nothing else: it looks for Dovecot's link, reads
the settings, writes them to a pipe, and ends.  Until then mail of enrolled users waits.

CONTRACT
    DovecotSettings() must be called before any socket is opened: the process keeps nothing open
    but the pipe.  After the process has ended (is_from()), take() returns whether there are
    settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

from mailseal.config import Config
from mailseal.delivery.dovecot import settings

_PAUSE = 1.0
"""Seconds between two looks, each an lstat() of the link until Dovecot has been started."""


class DovecotSettings:
    """`known` are the settings; None if they are not known yet."""

    def __init__(self, config: Config) -> None:
        self.known = settings.known(config)
        self._pid, self._pipe = (0, -1) if self.known is not None else _start(config)

    def is_from(self, pid: int) -> bool:
        """Whether this is the process that waits for the settings."""
        return pid == self._pid != 0

    def take(self) -> bool:
        """Take what the process has written before it ended."""
        self._pid = 0
        with open(self._pipe, encoding="utf-8") as stream, contextlib.suppress(ValueError):
            self.known = json.load(stream)
        return self.known is not None


def _start(config: Config) -> tuple[int, int]:
    """The process and the end of its pipe."""
    here, there = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(there)
        return pid, here
    try:
        os.closerange(3, there)
        os.closerange(there + 1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while (found := settings.known(config)) is None:
            time.sleep(_PAUSE)
            # The parent is not root any more, so its end sends no signal here.
            if os.getppid() != parent:
                return 0, -1
        with open(there, "w", encoding="utf-8") as stream:
            json.dump(found, stream)
        return 0, -1
    finally:
        os._exit(0)
