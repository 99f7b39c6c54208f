# SPDX-License-Identifier: MIT
"""Where mailseal's files for Dovecot are, and the lines that include them."""

from __future__ import annotations

import os

from mailseal.doveconf import Block

_LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PLACES = (
    os.path.join(os.path.dirname(_LIB), "dovecot-conf"),  # a checkout
    os.path.normpath(os.path.join(_LIB, "../../../share/mailseal/dovecot-conf")),  # make install
)
_USUAL = "/usr/local/share/mailseal/dovecot-conf"

RESTART = "run `systemctl restart dovecot`"


def series(settings: Block) -> str:
    """Dovecot's version, from all its settings: 2.3 or 2.4."""
    return "2.4" if "auth_allow_cleartext" in settings.settings else "2.3"


def include(version: str, name: str) -> str:
    """The line that includes one of mailseal's files; `version` as from series()."""
    folder = next(filter(os.path.isdir, _PLACES), _USUAL)
    return f"!include {folder}/{version}/{name}.conf"


def put(line: str) -> str:
    """A remedy: a setting that overrides all others."""
    return f"put `{line}` at the end of Dovecot's configuration, then {RESTART}"
