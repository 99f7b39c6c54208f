# SPDX-License-Identifier: MIT
"""Users without a user database: a template has the paths of homes and Maildirs."""

from __future__ import annotations

import os

from mailseal.config import Config
from mailseal.delivery.dovecot.location import Account, expand
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise


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
        if home is None or not self._is_folder(home):
            return None
        return Account(user, home, maildir, None, {}, name=user)

    def _is_folder(self, path: str) -> bool:
        """Like os.path.isdir(), but raises TemporaryError for errors."""
        try:
            os.stat(os.path.join(path, "."))
        except (FileNotFoundError, NotADirectoryError):
            self._require_mounted(path)
            return False
        except OSError as exc:
            raise TemporaryError(f"cannot check {path}: {exc.strerror}") from None
        return True

    def _require_mounted(self, path: str) -> None:
        """Refuse if the folder that should contain this one is an empty mount point.

        This is the nearest folder above that exists: that of the domain can be missing.
        """
        above = os.path.dirname(path)
        while len(above) > len(self._root) and not os.path.isdir(above):
            above = os.path.dirname(above)
        try:
            with os.scandir(above) as entries:
                if next(entries, None) is not None:
                    return
        except OSError as exc:
            raise TemporaryError(f"cannot check {above}: {exc.strerror}") from None
        raise TemporaryError(f"{above} is empty", hint="is the mail store mounted?")
