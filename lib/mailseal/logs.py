# SPDX-License-Identifier: MIT
"""Where log lines go: syslog's mail facility, standard error, or a file.

Each line begins with PROGRAM[PID].  Control characters are written as \\xNN, so
that nobody can forge a line through a user name.

FAILURES
    A log that cannot be opened is ConfigError at start.  A machine without
    /dev/log (a container) gets its lines on standard error.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys

from mailseal.errors import ConfigError

_SYSLOG = "/dev/log"


class _OneLine(logging.Formatter):
    """One record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}" for c in text)


def open_log(target: str, program: str, *, level: int = logging.INFO) -> logging.Logger:
    """The logger of a daemon.  `target` is the option log.to."""
    logger = logging.getLogger(f"mailseal.{program}")
    logger.setLevel(level)
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(_handler(target, program))
    return logger


def _handler(target: str, program: str) -> logging.Handler:
    ident = f"{program}[{os.getpid()}]: "
    handler: logging.Handler
    if target == "syslog" and os.path.exists(_SYSLOG):
        syslog = logging.handlers.SysLogHandler(
            _SYSLOG, facility=logging.handlers.SysLogHandler.LOG_MAIL
        )
        syslog.ident = ident
        syslog.setFormatter(_OneLine("%(levelname)s: %(message)s"))
        return syslog
    if target in ("syslog", "stderr"):
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = logging.FileHandler(target, encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"option log.to: cannot open {target}: {exc.strerror}") from None
    handler.setFormatter(
        _OneLine(f"%(asctime)s {ident}%(levelname)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    return handler
