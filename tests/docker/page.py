# SPDX-License-Identifier: MIT
"""The commands of docs/install.md, so that the tests do what a postmaster is told to do.

A block of commands stands behind a comment: `<!-- do -->`, `<!-- do 2.3 -->`, `<!-- undo -->`,
`<!-- undo 2.4 -->`.
"""

from __future__ import annotations

import os
import re

from tests.lab.place import REPOSITORY

_BLOCK = re.compile(r"<!-- (do|undo)(?: (2\.\d))? -->\n```sh\n(.*?)^```", re.S | re.M)


def commands(what: str, version: str) -> str:
    """All "do" commands for a version, in order; or all "undo" ones, last step first."""
    with open(os.path.join(REPOSITORY, "docs", "install.md"), encoding="utf-8") as stream:
        blocks = [
            text
            for kind, only, text in _BLOCK.findall(stream.read())
            if kind == what and only in ("", version)
        ]
    if len(blocks) < 5:
        raise ValueError(f"docs/install.md has only {len(blocks)} blocks of `{what}`")
    return "".join(blocks if what == "do" else reversed(blocks))
