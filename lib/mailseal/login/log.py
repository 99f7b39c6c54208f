# SPDX-License-Identifier: MIT
"""Python's logging for the agent's modules; logs.py writes the lines.

Warnings and errors begin with their level: "warning: …", "error: …".
"""

from __future__ import annotations

import logging

from mailseal.logs import ERROR, INFO, WARNING, Log


class _Handler(logging.Handler):
    def __init__(self, lines: Log) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        text, severity = record.getMessage(), INFO
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
            severity = ERROR if record.levelno >= logging.ERROR else WARNING
        self._lines.write(severity, text)


def logger(lines: Log) -> logging.Logger:
    """The agent's logger."""
    made = logging.getLogger("mailseal.agent")
    made.setLevel(logging.INFO)
    made.propagate = False
    made.handlers[:] = [_Handler(lines)]
    return made
