# SPDX-License-Identifier: MIT
"""The options in mailseal.yaml that this mail server needs: only those whose default does not fit.

FAILURES
    ConfigError: the file has options with other values, or cannot be used.
"""

from __future__ import annotations

import grp
import os
import pwd
from typing import Any

from mailseal import config as configuration
from mailseal.admin.doctor.postconf import Postconf
from mailseal.admin.setup import dovecot
from mailseal.admin.setup.changes import Change, Content, read
from mailseal.admin.setup.postfix import SOCKET
from mailseal.admin.setup.stack import Stack
from mailseal.config import Config
from mailseal.errors import ConfigError

_DELIMITERS = "+-_=/#"


def change(path: str, stack: Stack, postfix: Postconf) -> Change | None:
    """The change of mailseal.yaml; None if the file has all that is needed."""
    wanted = _wanted(stack, postfix.main)
    before = read(path)
    if before is None:
        data, mode = _written(wanted), 0o644
    else:
        text = before.data.decode("utf-8", "surrogateescape")
        if _says_something(text, path):
            _require(configuration.parse(text, path), wanted, path)
            return None
        data, mode = before.data + _written(wanted), before.mode
    configuration.parse(data.decode(), path)
    owner = (0, 0) if before is None else before.owner
    after = Content(data, mode, owner, before.acl if before else None)
    why = "mailseal's options, where a default does not fit"
    return Change(path, before, after, why, "mailseal")


def _wanted(stack: Stack, main: dict[str, str]) -> dict[str, Any]:
    """Values by the names of options.  delivery.user is always written."""
    found: dict[str, Any] = {
        "delivery.user": dovecot.owner_of(stack),
        "delivery.listen": [SOCKET],
    }
    default = Config()
    base = stack.base_dir
    if base != "/run/dovecot":
        found["dovecot.userdb_socket"] = f"{base}/mailseal-userdb"
        found["dovecot.auth_socket"] = f"{base}/auth-client"
        found["dovecot.indexer_socket"] = f"{base}/indexer"
        found["dovecot.lmtp_socket"] = f"{base}/mailseal-relay"
        found["dovecot.anvil_socket"] = f"{base}/mailseal-anvil"
    if dovecot.uses_quota_status(stack):
        found["dovecot.quota_socket"] = f"{base}/mailseal-quota"
        if not stack.full_waits:
            found["delivery.over_quota"] = "reject"
    if dovecot.relays_all(stack):
        found["delivery.sieve"] = "always"
    elif stack.sieve_script and stack.sieve_script != default.delivery.sieve_script:
        found["delivery.sieve_script"] = stack.sieve_script
    theirs = main.get("recipient_delimiter", "")
    if "+" not in theirs:
        found["delivery.recipient_delimiter"] = theirs if theirs in tuple(_DELIMITERS) else None
    limit = int(main.get("message_size_limit") or 0)
    if limit > default.delivery.message_limit:
        found["delivery.message_limit"] = limit
    runs_as = main.get("mail_owner", "postfix")
    if runs_as != default.delivery.postfix_user:
        found["delivery.postfix_user"] = runs_as
        found["delivery.socket_group"] = grp.getgrgid(pwd.getpwnam(runs_as).pw_gid).gr_name
    return found


def _says_something(text: str, path: str) -> bool:
    """Whether there is any option; the package's file has comments only."""
    configuration.parse(text, path)
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _require(config: Config, wanted: dict[str, Any], path: str) -> None:
    """The file is the administrator's: what is missing is said, and nothing is changed."""
    wrong = []
    for name, value in wanted.items():
        section, _, option = name.partition(".")
        present = getattr(getattr(config, section), option)
        if name == "delivery.listen":
            if SOCKET not in present:
                wrong.append(f"{name}: [{SOCKET}]")
        elif present != value:
            wrong.append(f"{name}: {_shown(value)}")
    if wrong:
        raise ConfigError(
            f"{path} has other options than this mail server needs",
            hint=f"set {', '.join(wrong)} there, then run it again",
        )


def _written(wanted: dict[str, Any]) -> bytes:
    lines = ["# Written by `mailseal setup`; mailseal.yaml(5) describes all options."]
    for section in dict.fromkeys(name.partition(".")[0] for name in wanted):
        lines.append(f"{section}:")
        for name, value in wanted.items():
            if name.startswith(f"{section}."):
                lines.append(f"  {name.partition('.')[2]}: {_shown(value)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if value is None:
        return "null"
    return f'"{value}"' if isinstance(value, str) and not value[:1].isalpha() else str(value)


def folder_of(path: str) -> str:
    """The folder of the copies: beside the keys, on a disk that stays."""
    try:
        state = configuration.load(path).state_dir
    except ConfigError:
        state = Config().state_dir
    return os.path.join(state, "setup")
