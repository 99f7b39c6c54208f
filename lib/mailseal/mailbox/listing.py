# SPDX-License-Identifier: MIT
"""Prevents that Dovecot lists a folder while names in it are exchanged, where this is needed.

    locks = Elsewhere(control="/var/lib/lists").locks(folder, root)
    with kept_out("/home/a/Maildir/.Sent", locks):
        ...                                                     # exchange names

WHY
    If Dovecot lists cur/ and a mail is missing, it treats the mail as expunged, and assigns a new
    UID when the mail appears again.  A listing with more than one getdents(2) (over 300 mails) can
    miss names that are exchanged at the same time on Btrfs (19 of 2,064 listings of 2,000 names),
    tmpfs (178 of 1,325) and overlayfs: they move an exchanged name, and also one that rename(2)
    replaces, to another position in the listing.  This did not happen on ext4 and XFS, so there
    nothing is locked.

WHICH LOCK
    The lock of the index, for which Dovecot always waits: index_lock.py.  Only if a folder has no
    index, the lock of its dovecot-uidlist: folder_lock.py says why it is the second choice.
    Not both: a Dovecot that waits for the first holds the second.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NamedTuple

from mailseal import durable
from mailseal.mailbox import folder_lock, index_lock
from mailseal.mailbox.folders import Folder
from mailseal.mailbox.report import beside, uid_list_of

# ext2, ext3 and ext4 have the same number.
_STABLE = (0xEF53, 0x58465342)
"""Magic numbers of ext4 and XFS (statfs(2))."""


class Locks(NamedTuple):
    """The files of Dovecot with the locks of one folder.  They need not exist.

    index_logs: one for each index; empty if they are not known.
    """

    uid_list: str
    index_logs: tuple[str, ...] = ()


class Elsewhere(NamedTuple):
    """Where Dovecot keeps its files.

    control  folder of the dovecot-uidlist files; empty: the Maildir
    indexes  folders of index files, all that Dovecot may use; empty: not known
    """

    control: str = ""
    indexes: tuple[str, ...] = ()

    def locks(self, folder: Folder, root: str) -> Locks:
        """The locks of a folder."""
        logs = (beside(folder, root, index, index_lock.NAME) for index in self.indexes)
        return Locks(uid_list_of(folder, root, self.control), tuple(logs))


NOWHERE = Elsewhere()


def is_stable(maildir: str) -> bool:
    """Whether a listing on this file system contains each name that is exchanged meanwhile."""
    return durable.file_system(maildir) in _STABLE


@contextlib.contextmanager
def kept_out(maildir: str, locks: Locks) -> Iterator[None]:
    """See the module's docstring.  Raises TemporaryError if a lock is not free for minutes."""
    if is_stable(maildir):
        yield
        return
    with _not_suspended(), contextlib.ExitStack() as stack:
        if not stack.enter_context(index_lock.held(*locks.index_logs)):
            # Dovecot could begin to use the missing one now.
            stack.enter_context(folder_lock.held(locks.uid_list))
        yield


@contextlib.contextmanager
def _not_suspended() -> Iterator[None]:
    """Ctrl-Z is obeyed later: Dovecot would have to wait until this process is continued."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTSTP,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
