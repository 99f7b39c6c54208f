# SPDX-License-Identifier: MIT
"""Users without a user database: a template has the paths of homes and Maildirs."""

from __future__ import annotations

import os

from mailseal.config import Config
from mailseal.delivery.dovecot.location import Account, expand
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise


class Template:
    """Users with a home as in `delivery.home`: a user exists if the home does."""

    def __init__(self, config: Config) -> None:
        self._home = config.delivery.home
        self._maildir = config.delivery.maildir

    def lookup(self, address: str) -> Account | None:
        """The account; None if the user certainly does not exist.  Raises TemporaryError."""
        try:
            user = normalise(address)
            home = expand(self._home, user)
            maildir = expand(self._maildir, user, home or "")
        except BadUserName:
            return None
        if home is None or not _is_folder(home):
            return None
        return Account(user, home, maildir, None, {}, name=user)


def _is_folder(path: str) -> bool:
    """Like os.path.isdir(), but raises TemporaryError for errors."""
    try:
        os.stat(os.path.join(path, "."))
    except (FileNotFoundError, NotADirectoryError):
        # The parent folder shows whether the user is missing or the file system is not mounted.
        if not os.path.isdir(os.path.dirname(os.path.dirname(path))):
            raise TemporaryError(f"the parent folder of {path} is missing") from None
        return False
    except OSError as exc:
        raise TemporaryError(f"cannot check {path}: {exc.strerror}") from None
    return True
