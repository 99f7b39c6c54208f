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
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.delivery.dovecot import settings, userdb
from mailseal.delivery.dovecot.location import Account, expand
from mailseal.doveconf import Block
from mailseal.errors import NoSuchUser, NotConvertible, TemporaryError
from mailseal.index.folders import folder_name
from mailseal.mailbox.listing import Elsewhere

_IN_MEMORY = ("tmpfs", "ramfs")


@dataclasses.dataclass(frozen=True)
class Place:
    """The paths of one user's mail.

    owner       uid and gid
    control     folder of the dovecot-uidlist files; empty: the Maildir
    index       folder of Dovecot's index files; empty: the Maildir
    private     folder of the index for logins (index.folder); empty: there is no other
    dotlocks    Dovecot locks the index with dotlock files (lock_method)
    others      Maildirs of other namespaces of the user
    not_sealed  prefixes of namespaces whose mail mailseal does not seal, and the reasons
    compressed  Dovecot compresses mail when it saves it
    """

    maildir: str
    home: str
    owner: tuple[int, int]
    control: str = ""
    index: str = ""
    compressed: bool = False
    private: str = ""
    dotlocks: bool = False
    others: tuple[str, ...] = ()
    not_sealed: tuple[tuple[str, str], ...] = ()

    @property
    def maildirs(self) -> tuple[str, ...]:
        """All Maildirs of the user."""
        return (self.maildir, *self.others)

    def elsewhere(self, root: str) -> Elsewhere:
        """Where Dovecot keeps its files for one of the Maildirs."""
        ours = root == self.maildir
        indexes = [(ours and self.index) or root, *([self.private] if self.private else ())]
        return Elsewhere(self.control if ours else "", () if self.dotlocks else tuple(indexes))


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
        return Place(
            account.maildir,
            account.home,
            self._owner(account),
            self._other("CONTROL", "mail_control_path", account),
            self._other("INDEX", "mail_index_path", account),
            _compresses(self._settings),
            os.path.join(self._indexes, folder_name(user)) if self._indexes else "",
            self._settings.get("lock_method") == "dotlock",
            *self._others(account),
        )

    def _others(self, account: Account) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        found = namespaces.others(self._settings, account.user, account.home)
        inside = f"{account.maildir}/"
        own = [one.maildir for one in found if one.maildir]
        return (
            tuple(path for path in own if not f"{path}/".startswith(inside)),
            tuple((one.prefix, one.why) for one in found if one.why),
        )

    def _owner(self, account: Account) -> tuple[int, int]:
        if account.uid is None:
            return self._mail_owner
        gid = account.extra.get("gid", "")
        return account.uid, int(gid) if gid.isdecimal() else user_ids(str(account.uid), "uid")[1]

    def _other(self, option: str, setting: str, account: Account) -> str:
        """A path from the mail location (2.3) or a setting (2.4); empty if it is the Maildir."""
        for word in account.extra.get("mail", "").split(":")[2:]:
            if word.upper().startswith(f"{option}="):
                template = word.partition("=")[2]
                break
        else:
            template = account.extra.get(setting) or self._settings.get(setting)
        path = expand(settings.in_short(template), account.user, account.home) if template else None
        return "" if path is None or path == account.maildir else path


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
