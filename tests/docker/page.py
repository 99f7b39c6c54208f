# SPDX-License-Identifier: MIT
"""The commands on the pages in docs/: the tests do what a postmaster does.

Before a block of commands there is a comment with the step and, if it is for one version only, the
version of Dovecot: `<!-- do packages 2.4 -->`, `<!-- undo postfix -->`.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence

from tests.lab.place import REPOSITORY

STEPS = ("packages", "programs", "configuration", "services", "dovecot", "postfix", "old-caches")
SYSTEM_USERS = ("programs", "folders", "services", "dovecot", "postfix")
# In a list, the block is indented.
_BLOCK = re.compile(r"<!-- (do|undo) (\S+?)(?: (2\.\d))? -->\n *```sh\n(.*?)^ *```", re.S | re.M)


def commands(
    what: str, version: str, steps: Sequence[str] = STEPS, page: str = "install.md"
) -> str:
    """The "do" commands of the steps, in order; or the "undo" commands, last step first."""
    with open(os.path.join(REPOSITORY, "docs", page), encoding="utf-8") as stream:
        blocks = _BLOCK.findall(stream.read())
    found = []
    for step in steps if what == "do" else reversed(steps):
        texts = [
            textwrap.dedent(text)
            for kind, of, only, text in blocks
            if (kind, of) == (what, step) and only in ("", version)
        ]
        # The postmaster decides about packages; Dovecot makes caches again.
        if not texts and not (what == "undo" and step in ("packages", "old-caches")):
            raise ValueError(f"docs/{page} has no block `{what} {step}` for {version}")
        found += texts
    return "".join(found)


def whole_page(what: str, version: str, page: str) -> str:
    """All "do" commands of a page in docs/, or all its "undo" commands, in the page's order."""
    with open(os.path.join(REPOSITORY, "docs", page), encoding="utf-8") as stream:
        blocks = _BLOCK.findall(stream.read())
    return "".join(text for kind, _, only, text in blocks if kind == what and only in ("", version))


def image(page: str) -> str:
    """The RUN instructions of a page's Dockerfile, as shell commands."""
    (text,) = _others(page, "image", "Dockerfile").values()
    return "".join(
        line.removeprefix("RUN ") for line in text.splitlines(True) if line.startswith("RUN ")
    )


def files(page: str) -> dict[str, str]:
    """The files on a page by name: `<!-- file NAME -->` before a block of any language."""
    return _others(page, "file", r"\w+")


def _others(page: str, kind: str, language: str) -> dict[str, str]:
    with open(os.path.join(REPOSITORY, "docs", page), encoding="utf-8") as stream:
        text = stream.read()
    block = rf"^( *)<!-- {kind} (\S+) -->\n *```{language}\n(.*?)^ *```"
    return {
        name: re.sub(f"^{indent}", "", body, flags=re.M)
        for indent, name, body in re.findall(block, text, re.S | re.M)
    }
