# SPDX-License-Identifier: MIT
"""Runs a function in its own process and kills it before each call that changes files.

tests/unit/steps.py stops before each system call; a function that looks at many paths has ten times
as many of these, and nothing changes between them.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tests.unit.steps import forked

_CHANGES = ("open", "write", "fsync", "rename", "unlink", "rmdir", "mkdir", "fchmod", "fchown")


def before_each_change(
    prepare: Callable[[], object], function: Callable[[], object]
) -> Iterator[int]:
    """Kill it before the first change, the second one, …; each time after prepare().

    At the end it runs once without being killed.
    """
    for number in itertools.count():
        prepare()
        if not _killed_at(number, function):
            return
        yield number


def _killed_at(number: int, function: Callable[[], object]) -> bool:
    def counted() -> None:
        _count(number)
        function()

    _, ended = os.waitpid(forked(counted), 0)
    if os.WIFSIGNALED(ended):
        assert os.WTERMSIG(ended) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(ended) == 0, "the function failed"
    return False


def _count(number: int) -> None:
    left = itertools.count(number, -1)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reads = real is os_open and not int(arguments[1]) & (os.O_CREAT | os.O_TMPFILE)
            if not reads and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    os_open = os.open
    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
