# SPDX-License-Identifier: MIT
"""Where a user's mail and Dovecot's other files for the user are, and who owns them.

The answer comes from Dovecot's user database and the settings of the running Dovecot.

FAILURES
    NoSuchUser: the user database does not know the user.  NotConvertible: the mail is not in a
    Maildir.  TemporaryError: the user database does not answer.
"""

from __future__ import annotations

import dataclasses
import os

from mailseal.admin import namespaces
from mailseal.admin.file_places import Files, files_of, others_have_own_index
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.delivery.dovecot import settings, userdb
from mailseal.delivery.dovecot.location import Account
from mailseal.doveconf import Block
from mailseal.errors import NoSuchUser, NotConvertible, TemporaryError
from mailseal.index.folders import folder_name
from mailseal.mailbox.listing import Elsewhere

_IN_MEMORY = ("tmpfs", "ramfs")


@dataclasses.dataclass(frozen=True)
class Place:
    """The paths of one user's mail.

    files       the Maildir of INBOX, and Dovecot's files for it
    owner       uid and gid
    private     folder of the index for logins (index.folder); empty: there is no other
    others      the same for Maildirs of other namespaces of the user
    not_sealed  prefixes of namespaces whose mail mailseal does not seal, and the reasons
    compressed  Dovecot compresses mail when it saves it
    """

    files: Files
    home: str
    owner: tuple[int, int]
    compressed: bool = False
    private: str = ""
    others: tuple[Files, ...] = ()
    not_sealed: tuple[tuple[str, str], ...] = ()

    @property
    def maildir(self) -> str:
        """The Maildir of INBOX."""
        return self.files.maildir

    @property
    def maildirs(self) -> tuple[str, ...]:
        """All Maildirs of the user."""
        return tuple(files.maildir for files in (self.files, *self.others))

    @property
    def indexes(self) -> tuple[str, ...]:
        """Folders of index files outside the Maildirs, and not in memory."""
        found = (files.index for files in (self.files, *self.others))
        return tuple(path for path in dict.fromkeys(found) if path and not is_in_memory(path))

    def elsewhere(self, root: str) -> Elsewhere:
        """Where Dovecot keeps its files for one of the Maildirs."""
        known = {files.maildir: files for files in (self.files, *self.others)}
        files = known.get(root, Files(root))
        if not files.lockable:
            return Elsewhere(files.control)
        # The index for logins belongs to INBOX's namespace only: docs/index-privacy.md.
        private = self.private if files is self.files else ""
        indexes = dict.fromkeys(path for path in (files.index or root, private) if path)
        return Elsewhere(files.control, tuple(indexes))


class Places:
    """Looks up places; Dovecot's settings are read once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._userdb = userdb.from_config(config, settings.known(config))
        self._settings = settings.imap(config)
        self._indexes = config.index.folder
        self._mail_owner = user_ids(config.delivery.user, "delivery.user")

    def of(self, user: str) -> Place:
        """The place of one user."""
        account = self._userdb.lookup(user)
        if account is None:
            raise NoSuchUser(f"the user database does not know {user}")
        if not account.located:
            raise TemporaryError(
                f"the mail location of {user} is not known, because Dovecot's settings are not",
                hint="run `mailseal check-config`",
            )
        if account.maildir is None:
            raise NotConvertible(
                f"the mail of {user} is not in a Maildir",
                hint="Dovecot can move it to one: docs/sealing.md, Mail in sdbox and mdbox",
            )
        found = namespaces.others(self._settings, account.user, account.home)
        inside = f"{account.maildir}/"
        own = [one.files for one in found if one.files is not None]
        others = [files for files in own if not f"{files.maildir}/".startswith(inside)]
        return Place(
            self._lockable(self._files(account.maildir, account), account),
            account.home,
            self._owner(account),
            _compresses(self._settings),
            os.path.join(self._indexes, folder_name(user)) if self._indexes else "",
            tuple(self._lockable(files, account) for files in others),
            tuple((one.prefix, one.why) for one in found if one.why),
        )

    def _files(self, maildir: str, account: Account) -> Files:
        spaces = self._settings.all("namespace")
        inbox = next((one for one in spaces if one.get("inbox") == "yes"), Block())
        found = (account.extra, inbox, self._settings)
        location = account.extra.get("mail", "")
        return files_of(maildir, location, found, account.user, account.home)

    def _lockable(self, files: Files, account: Account) -> Files:
        lockable = files.lockable and self._settings.get("lock_method") != "dotlock"
        if lockable and others_have_own_index(self._settings, files, account.user, account.home):
            lockable = False
        return dataclasses.replace(files, lockable=lockable)

    def _owner(self, account: Account) -> tuple[int, int]:
        if account.uid is None:
            return self._mail_owner
        gid = account.extra.get("gid", "")
        return account.uid, int(gid) if gid.isdecimal() else user_ids(str(account.uid), "uid")[1]


def _compresses(found: Block) -> bool:
    saves = [found.get("mail_compress_write_method")]
    saves += [block.get("zlib_save") for block in found.all("plugin")]
    return any(saves)


def is_in_memory(path: str) -> bool:
    """Whether a path is on a file system in memory; False if it does not exist."""
    return _mount_of(path)[0] in _IN_MEMORY


def mounted_on(path: str) -> str:
    """The device or other source of the file system with this path; empty if it is not known."""
    return _mount_of(path)[1]


def _mount_of(path: str) -> tuple[str, str]:
    """File-system type and source: proc(5), mountinfo."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return "", ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split()
            after = words.index("-")
            if words[2] == wanted:
                return words[after + 1], words[after + 2]
    return "", ""
