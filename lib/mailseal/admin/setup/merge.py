# SPDX-License-Identifier: MIT
"""Takes one change out of a file that somebody else has changed since, in other lines."""

from __future__ import annotations

import difflib


def without(found: bytes, before: bytes, after: bytes) -> bytes | None:
    """`found`, without the change from `before` to `after`; None if they touch the same lines."""
    theirs = found.splitlines(keepends=True)
    ours = after.splitlines(keepends=True)
    older = before.splitlines(keepends=True)
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    result = list(theirs)
    hunks = difflib.SequenceMatcher(None, ours, older, autojunk=False).get_opcodes()
    for what, start, end, from_, to in reversed(hunks):
        if what == "equal":
            continue
        # Our lines and their neighbours must be there unchanged.
        first, last = max(start - 1, 0), min(end + 1, len(ours))
        block = next((b for b in blocks if b.a <= first and last <= b.a + b.size), None)
        if block is None:
            return None
        shift = block.b - block.a
        result[start + shift : end + shift] = older[from_:to]
    return b"".join(result)
