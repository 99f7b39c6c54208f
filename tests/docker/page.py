# SPDX-License-Identifier: MIT
"""The commands on the pages in docs/: the tests do what a postmaster does.

Before a block of commands there is a comment with the step and, if it is for one version only, the
version of Dovecot: `<!-- do packages 2.4 -->`, `<!-- undo postfix -->`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tests.lab.place import REPOSITORY

STEPS = ("packages", "programs", "configuration", "services", "dovecot", "postfix", "old-caches")
SYSTEM_USERS = ("programs", "folders", "services", "dovecot", "postfix")
_BLOCK = re.compile(r"<!-- (do|undo) (\S+?)(?: (2\.\d))? -->\n```sh\n(.*?)^```", re.S | re.M)


def commands(
    what: str, version: str, steps: Sequence[str] = STEPS, page: str = "install.md"
) -> str:
    """The "do" commands of the steps, in order; or the "undo" commands, last step first."""
    with open(os.path.join(REPOSITORY, "docs", page), encoding="utf-8") as stream:
        blocks = _BLOCK.findall(stream.read())
    found = []
    for step in steps if what == "do" else reversed(steps):
        texts = [
            text
            for kind, of, only, text in blocks
            if (kind, of) == (what, step) and only in ("", version)
        ]
        # The postmaster decides about packages; Dovecot makes caches again.
        if not texts and not (what == "undo" and step in ("packages", "old-caches")):
            raise ValueError(f"docs/{page} has no block `{what} {step}` for {version}")
        found += texts
    return "".join(found)
