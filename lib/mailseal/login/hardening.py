# SPDX-License-Identifier: MIT
"""Protects the agent's memory as far as the system permits; the log says which measures work.

    core dumps      RLIMIT_CORE 0
    dumpable        PR_SET_DUMPABLE 0: no ptrace and no /proc/PID/mem for the agent's own user
    new privileges  PR_SET_NO_NEW_PRIVS: no program that it starts can get more rights
    memory locked   mlockall, so that keys do not reach swap

Locking future memory needs an unlimited RLIMIT_MEMLOCK, because Argon2 needs 64 MiB; only
root can raise the limit.  MCL_ONFAULT locks only pages that are used, not the unused part
of thread stacks.  Argon2id takes the same CPU time with and without it (0.21 s, standard
profile).

LIMITS
    Root can read all memory.  Python and OpenSSL make copies of secrets that cannot be
    overwritten.  A machine that hibernates also writes locked memory to disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def lock_memory() -> str:
    """Lock memory, before root privileges are dropped.  Returns the result as a text."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    libc = ctypes.CDLL(None, use_errno=True)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
        if libc.mlockall(flags) == 0:
            return "yes"
        return f"no ({os.strerror(ctypes.get_errno())})"
    return "no (RLIMIT_MEMLOCK is too low: start as root or with LimitMEMLOCK=infinity)"


def forbid_dumps(*, new_privileges: bool = False) -> dict[str, str]:
    """Forbid core dumps, tracing and new privileges, after root is dropped, which resets this.

    `new_privileges`: they are not forbidden here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    got = {}
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        got["core_dumps"] = "off"
    except (OSError, ValueError):
        got["core_dumps"] = "on (setrlimit failed)"
    measures = [("dumpable", _PR_SET_DUMPABLE, 0)]
    if not new_privileges:
        measures.append(("no_new_privileges", _PR_SET_NO_NEW_PRIVS, 1))
    for name, option, value in measures:
        failed = libc.prctl(option, value, 0, 0, 0) != 0
        done = "yes" if value else "no"
        got[name] = f"unknown ({os.strerror(ctypes.get_errno())})" if failed else done
    return got
