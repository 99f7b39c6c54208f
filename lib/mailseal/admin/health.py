# SPDX-License-Identifier: MIT
"""mailseal health: whether the agent and mailseal-lmtp answer, for containers and load balancers.

CONTRACT
    No user and no password is needed, and nothing is written to a log.  A daemon is healthy if it
    answers within _TIMEOUT seconds; what it answers does not matter, so a daemon with too many
    connections is not restarted because of them.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from mailseal.config import Config, socket_address
from mailseal.delivery.dovecot.lines import dial
from mailseal.errors import MailsealError
from mailseal.login.client import AgentClient

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context

_TIMEOUT = 5.0
_AGENT, _LMTP = "agent", "lmtp"


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "health",
        health,
        "ask the daemons for an answer; the exit status is 0 if all of them answer, otherwise 1",
        group="operation",
        example="mailseal health lmtp",
    )
    parser.add_argument(
        "daemon",
        metavar="DAEMON",
        nargs="*",
        help="agent or lmtp; default: both, or lmtp on a host without Dovecot",
    )


def health(context: Context) -> int:
    """One line for each daemon."""
    config = context.config
    names = context.arguments.daemon or ([_AGENT] if config.dovecot_is_here else []) + [_LMTP]
    healthy = True
    for name in names:
        problem = _CHECKS[name](config) if name in _CHECKS else "there is no such daemon"
        sys.stdout.write(f"{name}: {problem or 'ok'}\n")
        healthy = healthy and not problem
    return 0 if healthy else 1


def _agent(config: Config) -> str:
    with AgentClient(config.agent.socket, _TIMEOUT) as agent:
        try:
            # There is no such verb, and each client gets an answer, also one without rights.
            agent.request("health")
        except MailsealError as exc:
            return str(exc)
    return ""


def _lmtp(config: Config) -> str:
    for name in config.delivery.listen:
        try:
            with dial(socket_address(name), _TIMEOUT) as client:
                if not client.recv(512):
                    return f"closes connections at {name}"
                with contextlib.suppress(OSError):
                    client.sendall(b"QUIT\r\n")
                    client.recv(512)
        except TimeoutError:
            return f"does not answer at {name} within {_TIMEOUT:.0f} s"
        except OSError as exc:
            return f"cannot connect to {name}: {exc.strerror}"
    return ""


_CHECKS = {_AGENT: _agent, _LMTP: _lmtp}
