# SPDX-License-Identifier: MIT
"""Functions for the key agent, for users who enroll themselves; the hook passes them to it.

`login` does not import `delivery` and `admin`.
"""

from __future__ import annotations

from typing import Any

from mailseal.admin import (
    dovecot_folders_check,
    dovecot_format_check,
    dovecot_login,
    userdb_size_check,
)
from mailseal.admin.seal_jobs import Jobs
from mailseal.config import Config


class Outside:
    """See login/from_config.py."""

    def check_password(self, config: Config, user: str, password: bytes) -> None:
        """Raise WrongPassword if Dovecot does not accept it."""
        dovecot_login.check(config, user, password)

    def require_sealable(self, config: Config, user: str) -> None:
        """Raise TemporaryError if Dovecot's settings would leave mail of this user in clear.

        As for `mailseal enroll`.
        """
        dovecot_format_check.require(config, user)
        dovecot_folders_check.require(config)
        userdb_size_check.require(config, user)

    def old_mail(self, config: Config, user: str) -> dict[str, Any] | None:
        """The state of the user's existing mail, from mailseal-sealer; None if unknown."""
        job = Jobs(config.sealer_dir).load(user)
        return None if job is None else job.as_json()
