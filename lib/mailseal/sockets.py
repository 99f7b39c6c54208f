# SPDX-License-Identifier: MIT
"""Makes the unix sockets of both daemons safely, also as root.

CONTRACT
    The socket gets its mode and group when it is made.  Root never changes mode or
    owner of a name afterwards, because another user could have replaced it.  The owner is
    the user that the daemon was started as.  The folder is opened with paths.py.
    A socket that was left by a killed daemon is replaced.  A socket that is in use, and a file
    that is not a socket, are never replaced.

FAILURES
    ConfigError with the path: the folder is missing or not safe, or another process
    listens.  OSError for other failures.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence

from mailseal.errors import ConfigError
from mailseal.paths import Folder, open_folder

_NOBODY = 0xFFFFFFFF


def listen(
    path: str, *, mode: int, group: int | None, backlog: int, users: Iterable[int] = ()
) -> socket.socket:
    """A listening socket at `path`.  Only root can set its group.

    `users` may connect with any mode, because of an ACL entry for each.  Otherwise they would
    need a common group, or mode 0666, with which everybody could connect.
    """
    name = os.path.basename(path)
    with open_folder(os.path.dirname(path)) as folder:
        _remove_stale(folder, name, path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with made_with(0o777 & ~mode, group):
                made.bind(folder.entry(name))
            if users := sorted(users):
                if not folder.own:
                    raise ConfigError(
                        f"cannot give {path} an ACL: users other than root can change its folder",
                        hint="agent.panel_users needs a folder that only root can change, such as "
                        "/run/mailseal",
                    )
                _let_in(folder, name, mode, users, path)
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
        raise ConfigError(f"cannot listen on {path}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(folder.entry(name))
        except OSError:
            os.unlink(name, dir_fd=folder.fd)
            return
    raise ConfigError(f"cannot listen on {path}: another process already listens there")


def _let_in(folder: Folder, name: str, mode: int, users: Sequence[int], path: str) -> None:
    """Give the socket an ACL, see acl(5) and linux/posix_acl_xattr.h."""
    owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = [(0x01, owner, _NOBODY), *((0x02, 6, uid) for uid in users)]
    entries += [(0x04, group, _NOBODY), (0x10, group | 6, _NOBODY), (0x20, others, _NOBODY)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.setxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access", acl)
    except OSError as exc:
        raise ConfigError(
            f"cannot give {path} an ACL: {exc.strerror}",
            hint="agent.panel_users needs a file system with ACLs for the socket, for example "
            "tmpfs",
        ) from None
    finally:
        os.close(fd)


@contextlib.contextmanager
def made_with(umask: int, group: int | None) -> Iterator[None]:
    """Files that are made in the block get this umask and group."""
    old_umask, old_group = os.umask(umask), os.getegid()
    try:
        if group is not None and os.geteuid() == 0:
            os.setegid(group)
        yield
    finally:
        os.setegid(old_group)
        os.umask(old_umask)
