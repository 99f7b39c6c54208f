# SPDX-License-Identifier: MIT
"""Runs a function in its own process and stops it before each of its system calls.

    reached = at_step(17, function, lambda pid: os.kill(pid, signal.SIGKILL))

So the test can do something between any two system calls of the function.  It uses ptrace(2),
like a debugger.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import traceback
from collections.abc import Callable, Iterator

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS = 0, 7, 24, 0x4200
_SYSGOOD_EXITKILL = 0x1 | 0x100000
_TRAP = signal.SIGTRAP | 0x80  # ptrace's signal for a system call
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    result = _libc.ptrace(request, pid, None, ctypes.c_void_p(data))
    assert result == 0, os.strerror(ctypes.get_errno())


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)


def forked(function: Callable[[], object]) -> int:
    """Start the function in a process of its own: its pid.  The status is 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def at_step(step: int, function: Callable[[], None], *actions: Callable[[int], object]) -> bool:
    """Run `function`, stop it at this step (counted from 0), and do an action.

    Further actions are done at the following steps.  Returns False if the function has fewer
    steps.  Its exceptions are printed to standard error.
    """

    def traced() -> None:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        function()

    pid = forked(traced)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, _SYSGOOD_EXITKILL)
    for number in itertools.count():
        _ptrace(_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the function failed"
            return False
        # Each call stops twice, before and after it; one of the two is enough.
        if number % 2 == 0 and number // 2 >= step:
            actions[number // 2 - step](pid)
            if number // 2 - step == len(actions) - 1:
                break
    if kill not in actions:
        _ptrace(_CONT, pid)
    _, status = os.waitpid(pid, 0)
    while os.WIFSTOPPED(status):  # pass on a pending signal
        _ptrace(_CONT, pid, os.WSTOPSIG(status) & 0x7F if os.WSTOPSIG(status) != _TRAP else 0)
        _, status = os.waitpid(pid, 0)
    if kill not in actions:
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, "the function failed"
    return True


def every_step(
    prepare: Callable[[], object], function: Callable[[], None], *actions: Callable[[int], object]
) -> Iterator[int]:
    """at_step() for each step of the function, each after prepare()."""
    for step in itertools.count():
        prepare()
        if not at_step(step, function, *actions):
            return
        yield step
