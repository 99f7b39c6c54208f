# SPDX-License-Identifier: MIT
"""What all checks share: the configurations of mailseal, Dovecot and Postfix, read once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mailseal.admin.doctor.check import NotUsed
from mailseal.admin.doctor.postconf import Postconf
from mailseal.admin.status import all_status
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.doveconf import Block, Doveconf
from mailseal.errors import AgentUnavailable, MailsealError
from mailseal.login import startup
from mailseal.login.client import AgentClient

if TYPE_CHECKING:
    from mailseal.admin.command import Context
    from mailseal.admin.doctor.trial import Trial
    from mailseal.admin.verify_result import Result

_PATIENCE = 10.0
"""Seconds to wait for the agent."""

RESTART_DOVECOT = "`systemctl restart dovecot`"


class Site:
    """The mail server that is checked.  `trial`: the user for test logins, if there is one."""

    def __init__(self, context: Context, trial: Trial | None = None) -> None:
        self.context = context
        self.config: Config = context.config
        self.trial = trial
        self.plain_user: str | None = context.arguments.plain_user
        self.examined: list[Result] | None = None
        self.postfix = Postconf(context.arguments.postfix_config)

    @functools.cached_property
    def doveconf(self) -> Doveconf:
        """The configuration of the Dovecot that mailseal asks; else that in /etc/dovecot."""
        return settings.of_running(self.config) or Doveconf()

    def dovecot(self, protocol: str = "") -> Block:
        """Dovecot's settings.  Raises DoveconfError, or NotUsed if Dovecot is on another host."""
        if not self.config.dovecot_is_here:
            raise NotUsed
        return self.doveconf.settings(protocol)

    @functools.cached_property
    def protocols(self) -> list[str]:
        """The names in Dovecot's `protocols`."""
        return self.dovecot().get("protocols").split()

    @functools.cached_property
    def series(self) -> str:
        """Dovecot's version: 2.3 or 2.4.  Raises ConfigError."""
        return startup.dovecot_version(self.config)

    @functools.cached_property
    def users(self) -> list[dict[str, Any]]:
        """The agent's status of all enrolled users, or of the user for test logins."""
        if not self.config.dovecot_is_here:
            raise NotUsed
        if not self.agent_answers:
            raise AgentUnavailable(
                "the key agent does not answer", hint="run `systemctl restart mailseal-agent`"
            )
        only = self.trial.user if self.trial else None
        found: list[dict[str, Any]] = all_status(self.context, only)["users"]
        return found

    @functools.cached_property
    def agent_answers(self) -> bool:
        """Whether the key agent answers.  If it hangs, only one check waits for it."""
        try:
            with AgentClient(self.config.agent.socket, _PATIENCE) as agent:
                return agent.request("sessions", newer=b"1").status == "ok"
        except MailsealError:
            return False
