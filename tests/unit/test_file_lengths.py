# SPDX-License-Identifier: MIT
"""Each source file is short enough to be read at once."""

from __future__ import annotations

from pathlib import Path

from tests.lab.place import REPOSITORY

MOST = 350
TABLES = {"lib/mailseal/options.py"}
"""One entry after the other, without logic."""
DATA = {".json", ".po", ".txt"}


def test_no_source_file_is_long() -> None:
    root = Path(REPOSITORY)
    lines = {
        str(path.relative_to(root)): path.read_bytes().count(b"\n")
        for part in ("lib", "hooks", "tests")
        for path in sorted((root / part).rglob("*"))
        if path.is_file() and path.suffix not in DATA and "__pycache__" not in path.parts
    }
    assert len(lines) > 400
    assert {name for name, number in lines.items() if number > MOST} - TABLES == set()
