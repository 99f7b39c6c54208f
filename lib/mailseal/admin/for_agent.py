# SPDX-License-Identifier: MIT
"""What the key agent uses of other parts, for users who enroll themselves: the hook hands it over.

`login` does not import `delivery` and `admin`.
"""

from __future__ import annotations

from typing import Any

from mailseal.admin import dovecot_login
from mailseal.admin.seal_jobs import Jobs
from mailseal.config import Config


class Outside:
    """See login/from_config.py."""

    def check_password(self, config: Config, user: str, password: bytes) -> None:
        """Raise WrongPassword unless Dovecot accepts it."""
        dovecot_login.check(config, user, password)

    def old_mail(self, config: Config, user: str) -> dict[str, Any] | None:
        """What mailseal-sealer records about the user's existing mail; None if nothing."""
        job = Jobs(config.sealer_dir).load(user)
        return None if job is None else job.as_json()
