# SPDX-License-Identifier: MIT
"""A function is run in a process of its own and held before each of its system calls.

    reached = at_step(17, function, lambda pid: os.kill(pid, signal.SIGKILL))

What the test does while the process is held happens, for the process, between two system calls.
By ptrace(2), as a debugger does it.
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
_TRAP = signal.SIGTRAP | 0x80  # how ptrace marks a system call
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    result = _libc.ptrace(request, pid, None, ctypes.c_void_p(data))
    assert result == 0, os.strerror(ctypes.get_errno())


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)


def at_step(step: int, function: Callable[[], None], *actions: Callable[[int], object]) -> bool:
    """Run `function`; with its process held at this step, counted from 0, do an action.

    Further actions come one at each step after that.
    False if the function has fewer steps.  What it prints of an exception goes to standard error.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, _SYSGOOD_EXITKILL)
    for number in itertools.count():
        _ptrace(_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the function failed"
            return False
        # Each call stops twice: what others do after one and before the next is the same to them.
        if number % 2 == 0 and number // 2 >= step:
            actions[number // 2 - step](pid)
            if number // 2 - step == len(actions) - 1:
                break
    if kill not in actions:
        _ptrace(_CONT, pid)
    _, status = os.waitpid(pid, 0)
    while os.WIFSTOPPED(status):  # a signal on its way: it is handed on
        _ptrace(_CONT, pid, os.WSTOPSIG(status) & 0x7F if os.WSTOPSIG(status) != _TRAP else 0)
        _, status = os.waitpid(pid, 0)
    if kill not in actions:
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, "the function failed"
    return True


def every_step(
    prepare: Callable[[], object], function: Callable[[], None], *actions: Callable[[int], object]
) -> Iterator[int]:
    """at_step() for each step there is, each after prepare()."""
    for step in itertools.count():
        prepare()
        if not at_step(step, function, *actions):
            return
        yield step
