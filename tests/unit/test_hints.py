# SPDX-License-Identifier: MIT
"""All commands in messages, help texts and documentation exist, with their options."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.admin.cli import build_parser
from mailseal.errors import UsageError

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(r"`(?:# )?(mailseal(?: [^`]*)?)`")


def _texts(path: Path) -> Iterator[str]:
    """The strings of a module, including docstrings; each value in an f-string becomes a word."""
    tree = ast.parse(path.read_text())
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in joined for part in node.values}
    for node in joined:
        parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
        yield "".join(map(str, parts))
    for part in ast.walk(tree):
        text = part.value if isinstance(part, ast.Constant) else None
        if isinstance(text, str) and id(part) not in inside:
            yield text


MODULES = sorted((ROOT / "lib" / "mailseal").rglob("*.py"))
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "dovecot-conf").rglob("*.conf"),
]


def _said(paths: list[Path]) -> list[tuple[str, str]]:
    found = []
    for path in paths:
        texts = _texts(path) if path.suffix == ".py" else [path.read_text()]
        for text in texts:
            for command in _COMMAND.findall(" ".join(text.split())):
                found.append((str(path.relative_to(ROOT)), command))
    return sorted(set(found))


def test_there_are_some() -> None:
    assert len(_said(MODULES)) > 8


@pytest.mark.parametrize(("where", "command"), _said(MODULES))
def test_a_hint_can_be_typed(where: str, command: str) -> None:
    """Parse a command: its name, its options, and the required arguments."""
    if command in ("mailseal", "mailseal COMMAND -h"):
        return  # the program, or any of its commands
    try:
        build_parser().parse_args(shlex.split(command)[1:])
    except UsageError as exc:
        pytest.fail(f"{where}: `{command}`: {exc}")
    except SystemExit:
        assert command.endswith("-h")


def _commands() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (a.choices for a in build_parser()._actions if a.dest == "command")
    assert isinstance(choices, dict)
    return choices


def test_examples_of_help_can_be_typed() -> None:
    for entry in build_parser().commands.entries:
        words = shlex.split(entry.example)
        assert words[:2] == ["mailseal", entry.name]
        build_parser().parse_args(words[1:])


def test_help_shows_every_command_once() -> None:
    text = build_parser().format_help()
    shown = re.findall(r"^  ([a-z][a-z-]+) ", text, re.M)
    assert sorted(shown) == sorted(_commands())


@pytest.mark.parametrize(("where", "command"), _said(PAGES))
def test_a_page_names_what_there_is(where: str, command: str) -> None:
    words = command.split()[1:]
    if not words or words[0].startswith("-") or words[0].isupper():
        return
    parser = _commands().get(words[0])
    assert parser is not None, f"{where}: there is no `mailseal {words[0]}`"
    options = {option for action in parser._actions for option in action.option_strings}
    for word in words[1:]:
        name = word.strip("[]").partition("=")[0]
        if name == "--then":
            break
        assert not name.startswith("--") or name in options, f"{where}: `{command}`"
