# SPDX-License-Identifier: MIT
"""The page's requests to the key agent: one connection for each, as uid web.user.

FAILURES
    Errors of the agent, with their classes.  AgentUnavailable.
"""

from __future__ import annotations

from typing import Any

from mailseal.admin.command import error_of
from mailseal.keys import record
from mailseal.login.client import AgentClient, Answer

State = dict[str, Any]
"""The state that a user may see: see login/self_service.py."""

_TIMEOUT = 60.0


class Agent:
    """The agent, for a client with this address."""

    def __init__(self, socket: str, remote: str) -> None:
        self._socket = socket
        self._remote = remote

    def ask(self, verb: str, user: str, **fields: str) -> Answer:
        """Send one request; all statuses but "ok" raise an error."""
        raw = {name: value.encode("utf-8", "replace") for name, value in fields.items()}
        if self._remote:
            raw["remote"] = self._remote.encode("utf-8", "replace")[:100]
        with AgentClient(self._socket, _TIMEOUT) as agent:
            answer = agent.request(verb, user=user.encode("utf-8", "replace"), **raw)
        if answer.status != "ok":
            raise error_of(answer)
        return answer

    def sign_in(self, user: str, password: str) -> tuple[str, State]:
        """A token that shows the state, and the state."""
        answer = self.ask("sign_in", user, password=password)
        return answer.text("token"), state_in(answer)

    def state(self, user: str, token: str) -> State:
        """The state.  NotPermitted: sign in again."""
        return state_in(self.ask("state", user, token=token))


def state_in(answer: Answer) -> State:
    """The state in an answer."""
    found: State = record.parse(answer.fields["state"])
    return found
