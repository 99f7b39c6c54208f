# SPDX-License-Identifier: MIT
"""The output of the demo: numbered steps, output of commands, checks."""

from __future__ import annotations

import sys


class CheckFailed(Exception):
    """A check of the demo has failed; the message says which one."""


class Report:
    """Prints as it goes, so that a reader can follow."""

    def __init__(self) -> None:
        self._step = 0
        self.checks = 0

    def step(self, title: str) -> None:
        self._step += 1
        self._print(f"\n{self._step}. {title}")

    def show(self, text: str) -> None:
        for line in text.splitlines():
            self._print(f"      {line}")

    def check(self, condition: bool, promise: str) -> None:
        """Print the promise as kept, or raise CheckFailed."""
        if not condition:
            raise CheckFailed(promise)
        self.checks += 1
        self._print(f"   ok {promise}")

    def say(self, text: str) -> None:
        self._print(text)

    @staticmethod
    def _print(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def hexdump(data: bytes) -> str:
    """Sixteen bytes a line, as `hexdump -C` shows them."""
    lines = []
    for start in range(0, len(data), 16):
        piece = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start:04x}  {piece.hex(' '):47}  |{text}|")
    return "\n".join(lines)
