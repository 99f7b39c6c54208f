# SPDX-License-Identifier: MIT
"""Unix sockets of both daemons, made so that root cannot be led astray.

CONTRACT
    listen() gives the socket its mode and group while it is made.  Root changes
    neither mode nor owner of a name that another user could have swapped since;
    its owner is whoever the daemon was started as.  The folder is used as
    paths.py opens it.  A socket that a killed daemon left is replaced, one that
    is in use and a file that is no socket never.

FAILURES
    ConfigError with the path: the folder is missing or not safe, or somebody
    else listens.  OSError for the rest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

from mailseal.errors import ConfigError
from mailseal.paths import Folder, open_folder


def listen(path: str, *, mode: int, group: int | None, backlog: int) -> socket.socket:
    """A listening socket at `path`; only root can give it a group."""
    name = os.path.basename(path)
    with open_folder(os.path.dirname(path)) as folder:
        _remove_stale(folder, name, path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with made_with(0o777 & ~mode, group):
                made.bind(folder.entry(name))
            made.listen(backlog)
        except BaseException:
            made.close()
            raise
    return made


def _remove_stale(folder: Folder, name: str, path: str) -> None:
    try:
        state = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(state.st_mode):
        raise ConfigError(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(folder.entry(name))
        except OSError:
            os.unlink(name, dir_fd=folder.fd)
            return
    raise ConfigError(f"cannot listen on {path}: somebody else already does")


@contextlib.contextmanager
def made_with(umask: int, group: int | None) -> Iterator[None]:
    """Give what is made in the block this umask and group, without naming it again."""
    old_umask, old_group = os.umask(umask), os.getegid()
    try:
        if group is not None and os.geteuid() == 0:
            os.setegid(group)
        yield
    finally:
        os.setegid(old_group)
        os.umask(old_umask)
