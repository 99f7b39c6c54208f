# SPDX-License-Identifier: MIT
"""The man(7) macros that the pages need.

A docstring of a program is written like a manual page: the first line is its name and
purpose, and each heading in capitals stands alone in a line, with an indented text below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r"([A-Z]{4}[A-Z ]*)(?: \((.+)\))?$")
# Columns, or a term and its text: two spaces that do not follow the end of a sentence.
_COLUMNS = re.compile(r"[^\s.:;,!?] {2,}\S|\S {3,}\S")
_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti"})


def text(words: str) -> str:
    """Running text; `quoted words` become bold."""
    parts = []
    for number, part in enumerate(words.split("`")):
        part = part.translate(_ESCAPES)
        parts.append(rf"\fB{part}\fR" if number % 2 else part)
    line = "".join(parts)
    return rf"\&{line}" if line.startswith(".") else line


def heading(title: str) -> str:
    """A section."""
    return f".SH {title}"


def subheading(title: str) -> str:
    """A section within a section."""
    return f".SS {title}"


def term(name: str, about: str) -> str:
    """A word in bold, and below it what it means."""
    return f".TP\n\\fB{text(name)}\\fR\n{text(about)}"


def paragraph(words: str) -> str:
    """One paragraph, filled."""
    return f".PP\n{text(' '.join(words.split()))}"


def example(line: str) -> str:
    """A command line as it is typed."""
    return f".PP\n.RS 4\n.nf\n{text(line)}\n.fi\n.RE"


def body(lines: list[str]) -> Iterator[str]:
    """Indented lines of a docstring: paragraphs, and tables as they are."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.removeprefix("    "))
            continue
        if block:
            if any(_COLUMNS.search(row) or row.startswith("  ") for row in block):
                yield "\n".join([".PP", ".nf", *(text(row) for row in block), ".fi"])
            else:
                yield paragraph(" ".join(block))
        block = []


def sections(docstring: str) -> tuple[str, dict[str, list[str]]]:
    """The first line, and the lines below each heading.  Text before the first has the key ""."""
    first, *rest = docstring.splitlines()
    found: dict[str, list[str]] = {"": []}
    title = ""
    for line in rest:
        if match := _HEADING.match(line):
            title = match[1] if match[2] is None else f"{match[1]} ({match[2]})"
            found[title] = []
        else:
            found[title].append(line)
    return first, found


def title_line(name: str, section: int, version: str) -> str:
    """The beginning of a page."""
    # .nh: an option name that is broken at a hyphen could not be copied.
    return f'.TH {text(name.upper())} {section} "" "mailseal {text(version)}"\n.nh'
