# SPDX-License-Identifier: MIT
"""The manual pages.  Source: the docstring of each program, its arguments, and the option table."""

from __future__ import annotations

import argparse
import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from mailseal import __version__
from mailseal.admin.cli import build_parser
from mailseal.admin.command import Entry
from mailseal.config import written
from mailseal.manual import roff
from mailseal.options import OPTIONS, Options

PROGRAMS = {
    "mailseal-agent": "mailseal.login.agent",
    "mailseal-checkpassword": "mailseal.login.checkpassword",
    "mailseal-deliver": "mailseal.delivery.pipe",
    "mailseal-disk-key": "mailseal.admin.disk_key",
    "mailseal-lmtp": "mailseal.delivery.daemon.supervisor",
    "mailseal-metrics": "mailseal.metrics.server",
    "mailseal-sealer": "mailseal.admin.sealer",
    "mailseal-replica": "mailseal.admin.replica",
    "mailseal-set-hash": "mailseal.panel.set_hash",
    "mailseal-web": "mailseal.web.server",
}
"""Programs that have no commands, each with the module whose docstring describes it."""

_FILES = (
    ("/etc/mailseal/mailseal.yaml", "the configuration, mailseal.yaml(5)"),
    ("/var/lib/mailseal", "keyrings and public keys (keys.state_dir)"),
    ("/run/mailseal/agent.sock", "the socket of mailseal-agent(8) (agent.socket)"),
)


def all_pages() -> dict[str, str]:
    """Text by file name, for example mailseal.1."""
    pages = {"mailseal.1": "\n".join(_command_page()), "mailseal.yaml.5": "\n".join(_options())}
    for name, module in PROGRAMS.items():
        pages[f"{name}.8"] = "\n".join(_program_page(name, module))
    return {name: f"{page}\n" for name, page in pages.items()}


def _beginning(name: str, section: int, purpose: str) -> Iterator[str]:
    yield roff.title_line(name, section, __version__)
    yield roff.heading("NAME")
    yield rf"{roff.text(name)} \- {roff.text(purpose.rstrip('.'))}"


def _docstring(module: str) -> tuple[str, dict[str, list[str]]]:
    # Not imported: Flask, for one, need not be installed where the pages are made.
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None  # noqa: S101 - our own module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    first, sections = roff.sections(ast.get_docstring(tree, clean=False) or "")
    return first.partition(": ")[2], sections


def _program_page(name: str, module: str) -> Iterator[str]:
    purpose, sections = _docstring(module)
    yield from _beginning(name, 8, purpose)
    after = sections.pop("")
    for title, lines in sections.items():
        yield roff.heading(title)
        yield from roff.body(lines)
    yield from roff.body(after)
    yield from _ending(f"{name}(8)")


def _ending(own: str) -> Iterator[str]:
    yield roff.heading("FILES")
    for name, about in _FILES:
        yield roff.term(name, about)
    yield roff.heading("SEE ALSO")
    pages = ["mailseal(1)", "mailseal.yaml(5)", *(f"{name}(8)" for name in PROGRAMS)]
    yield roff.text(", ".join(page for page in pages if page != own))


def _command_page() -> Iterator[str]:
    sections = _docstring("mailseal.admin.cli")[1]
    parser = build_parser()
    yield from _beginning("mailseal", 1, "the command for administrators")
    yield roff.heading("SYNOPSIS")
    yield roff.text(_synopsis(parser))
    yield roff.heading("DESCRIPTION")
    yield from roff.body(sections["DESCRIPTION"])
    for group, entries in parser.commands.in_groups():
        yield roff.heading(f'"COMMANDS: {group.upper()}"')
        for entry in entries:
            yield from _command(entry)
    yield roff.heading("DIAGNOSTICS")
    yield from roff.body(sections["DIAGNOSTICS"])
    yield from _ending("mailseal(1)")


def _synopsis(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().partition(": ")[2].split())


def _command(entry: Entry) -> Iterator[str]:
    yield roff.subheading(entry.name)
    yield roff.paragraph(f"`{_synopsis(entry.parser)}`")
    yield roff.paragraph(f"{entry.text[:1].upper()}{entry.text[1:]}.")
    for names, about in arguments(entry.parser):
        yield roff.term(names, about)
    yield roff.paragraph("Example:")
    yield roff.example(entry.example)


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument that has a help text, and each option: how it is written, and the text."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        if action.choices is not None:
            value = "|".join(map(str, action.choices))
        if action.option_strings:
            names = ", ".join(action.option_strings)
            yield (f"{names} {value}" if value else names), action.help or ""
        elif action.help:
            yield str(value), action.help


def _options() -> Iterator[str]:
    yield from _beginning("mailseal.yaml", 5, "the configuration of mailseal")
    yield roff.heading("DESCRIPTION")
    yield roff.paragraph(
        "All programs of mailseal read `/etc/mailseal/mailseal.yaml`, or the file after `-c`.  "
        "It is a YAML file with one mapping for each section below.  An option that is not in the "
        "file has its default.  An unknown option is an error.  `mailseal check-config` checks the "
        "file; `mailseal print-config` prints all options with their values.  mailseal-lmtp(8) "
        "reads the file again when it gets SIGHUP; the other programs must be restarted."
    )
    yield roff.heading('"OPTIONS OUTSIDE SECTIONS"')
    section = ""
    for option in OPTIONS:
        head, _, name = option.name.rpartition(".")
        if head != section:
            section = head
            yield roff.heading(f'"SECTION {head}"')
            about = type(getattr(Options(), head)).__doc__ or ""
            yield roff.paragraph(_sentence(about.partition(": ")[2]))
        usual = written(option, option.kind.check(option.default))
        yield roff.term(f"{name}:", f"{option.help}")
        yield f".br\nTakes {roff.text(option.kind.takes)}.  Default: {roff.text(usual)}"
    yield roff.heading("FILES")
    yield roff.term("/etc/mailseal/mailseal.yaml", "the configuration")
    yield roff.heading("SEE ALSO")
    yield roff.text(", ".join(["mailseal(1)", *(f"{name}(8)" for name in PROGRAMS)]))


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"
