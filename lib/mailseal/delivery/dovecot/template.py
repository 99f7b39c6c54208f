# SPDX-License-Identifier: MIT
"""Users without a user database: a template has the paths of homes and Maildirs."""

from __future__ import annotations

import os

from mailseal.config import Config
from mailseal.delivery.dovecot.location import Account, expand
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise

_MOUNTED = "is the mail store mounted?"


class Template:
    """Users with a home as in `delivery.home`: a user exists if the home does.

    So "unknown user" is certain only if the mail store is mounted.
    """

    def __init__(self, config: Config) -> None:
        self._home = config.delivery.home
        self._maildir = config.delivery.maildir
        self._root = os.path.dirname(self._home.partition("%")[0])

    def lookup(self, address: str) -> Account | None:
        """The account; None if the user certainly does not exist.  Raises TemporaryError."""
        try:
            user = normalise(address)
            home = expand(self._home, user)
            maildir = expand(self._maildir, user, home or "")
        except BadUserName:
            return None
        if home is None or not self._exists(home):
            return None
        return Account(user, home, maildir, None, {}, name=user)

    def _exists(self, home: str) -> bool:
        """Whether this folder exists.  False only if that is certain."""
        if _is_folder(home):
            return True
        missing = home
        while True:
            if os.path.islink(missing):
                raise TemporaryError(f"{missing} leads to no folder", hint=_MOUNTED)
            above = os.path.dirname(missing)  # the folder of the domain can be missing too
            if len(above) <= len(self._root) or _is_folder(above):
                break
            missing = above
        if not _has_entries(above):
            raise TemporaryError(f"{above} is empty", hint=_MOUNTED)
        return False


def _is_folder(path: str) -> bool:
    """Like os.path.isdir(), but raises TemporaryError for errors."""
    try:
        os.stat(os.path.join(path, "."))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise TemporaryError(f"cannot check {path}: {exc.strerror}") from None
    return True


def _has_entries(folder: str) -> bool:
    """Whether something is in the folder: a mount point is empty while nothing is mounted."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError as exc:
        # Who may not list it can count its folders, except on Btrfs: each has a link to it.
        if isinstance(exc, PermissionError) and os.stat(folder).st_nlink > 2:
            return True
        raise TemporaryError(f"cannot check {folder}: {exc.strerror}") from None
