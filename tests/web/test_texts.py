# SPDX-License-Identifier: MIT
"""The texts of the page: each is translated, and a site can add a language with a file."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from mailseal.errors import ConfigError
from mailseal.web.texts import Texts, read
from tests.lab.place import REPOSITORY

WEB = Path(REPOSITORY, "lib/mailseal/web")
PO = WEB / "po" / "de.po"


def in_the_program() -> set[str]:
    found = set()
    for path in WEB.glob("templates/*.html"):
        for text in re.findall(r'_\(("(?:[^"\\]|\\.)*"|\'[^\']*\')', path.read_text()):
            found.add(ast.literal_eval(text))
    for path in WEB.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                text = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                if name in ("say", "N_") and isinstance(text, str):
                    found.add(text)
    return found


def test_every_text_is_translated_and_none_is_unused() -> None:
    wanted = in_the_program()
    assert len(wanted) > 150
    assert set(read(str(PO))) - {""} == wanted


def test_translations_have_the_same_placeholders() -> None:
    for text, said in read(str(PO)).items():
        if text:
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", said)), text


@pytest.mark.parametrize(
    ("wanted", "language"),
    [
        ("de", "de"),
        ("de-AT", "de"),
        ("fr,de;q=0.2", "de"),
        ("de;q=0.1,en;q=0.9", "en"),
        ("fr", "en"),
        ("", "en"),
        ("de;q=0", "en"),
        ("*;q=\0,,;;", "en"),
    ],
)
def test_the_browser_chooses_the_language(wanted: str, language: str) -> None:
    assert Texts.load([str(PO.parent)], "en").choose(wanted) == language


def test_a_site_adds_a_language_and_changes_words(tmp_path: Path) -> None:
    (tmp_path / "fr.po").write_text(
        'msgid ""\nmsgstr ""\n"X-Language-Name: Français\\n"\n\n'
        'msgid "Sign "\n"in"\nmsgstr "Se "\n"connecter"\n'
    )
    (tmp_path / "de.po").write_text('msgid "Sign in"\nmsgstr "Einloggen"\n')
    (tmp_path / "readme.txt").write_text("no language")
    texts = Texts.load([str(PO.parent), str(tmp_path)], "fr")
    assert texts.languages == {"de": "Deutsch", "en": "English", "fr": "Français"}
    assert texts.say("fr", "Sign in") == "Se connecter" and texts.choose("xx") == "fr"
    assert texts.say("de", "Sign in") == "Einloggen" and texts.say("de", "Cancel") == "Abbrechen"
    assert texts.say("fr", "Cancel") == "Cancel"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "fr.po").write_text('msgid "Sign in"\nmsgstr "Se\n')
    with pytest.raises(ConfigError, match=r"fr\.po:2"):
        Texts.load([str(tmp_path)], "en")


def test_names_in_the_loop_of_the_documentation_are_no_commands(tmp_path: Path) -> None:
    """GNU sed runs a command for the flag `e`."""
    blocks = Path(REPOSITORY, "docs/web.md").read_text().split("```sh\n")
    loop = next(block for block in blocks if "--without-recovery --names" in block).split("```")[0]
    for name, does in (
        ("mailseal", "printf '%s\\n' alice@example.org ';touch pwned|e #' 'x&y' bob+1@example.org"),
        ("sendmail", "cat >> sent"),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    loop = loop.replace("/usr/local/share/mailseal", REPOSITORY)
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", loop], cwd=tmp_path, env={"PATH": path}, check=True)
    assert not (tmp_path / "pwned").exists()
    sent = (tmp_path / "sent").read_text()
    assert "alice@example.org" in sent and "bob+1@example.org" in sent
    assert "touch" not in sent and "x&y" not in sent
