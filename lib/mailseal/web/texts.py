# SPDX-License-Identifier: MIT
"""Translations of the page: reads gettext's .po files directly.

    texts = Texts.load([folder, …], "en")
    texts.choose("de-AT,de;q=0.9,en;q=0.5")        "de"
    texts.say("de", "Sign in")                     "Anmelden"

A language is a file LANGUAGE.po.  A file in a later folder adds to those in earlier folders and
overrides them.  English is in the program.  Texts without a translation are shown in English.

FAILURES
    ConfigError with file and line.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence

from mailseal.errors import ConfigError

_LINE = re.compile(r'(msgid|msgstr)?\s*(".*")')
_NAME = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?")


class Texts:
    """All languages."""

    def __init__(self, languages: Mapping[str, Mapping[str, str]], default: str) -> None:
        self._languages = {"en": {"": "English"}, **languages}
        self.default = default if default in self._languages else "en"

    @classmethod
    def load(cls, folders: Sequence[str], default: str) -> Texts:
        """Read every .po file of these folders."""
        found: dict[str, dict[str, str]] = {}
        for folder in folders:
            for name in sorted(os.listdir(folder)):
                language, dot, end = name.partition(".")
                if dot and end == "po" and _NAME.fullmatch(language):
                    found.setdefault(language, {}).update(read(os.path.join(folder, name)))
        return cls(found, default)

    @property
    def languages(self) -> dict[str, str]:
        """Codes and names."""
        return {code: texts.get("", code) for code, texts in sorted(self._languages.items())}

    def choose(self, wanted: str) -> str:
        """The best language for an Accept-Language header (RFC 9110, 12.5.4)."""
        ranked = []
        for at, part in enumerate(wanted[:400].split(",")):
            tag, _, rest = part.strip().partition(";")
            weight = re.fullmatch(r"\s*q=(\d(\.\d{1,3})?)", rest)
            quality = float(weight[1]) if weight else 1.0
            for code in (tag.replace("-", "_"), tag.partition("-")[0].lower()):
                if code in self._languages and quality:
                    ranked.append((-quality, at, code))
        return min(ranked)[2] if ranked else self.default

    def has(self, code: str) -> bool:
        """Whether there is this language."""
        return code in self._languages

    def say(self, language: str, text: str) -> str:
        """A text of the program in this language."""
        return self._languages.get(language, {}).get(text) or text


def read(path: str) -> dict[str, str]:
    """Texts and translations of one file; "" is the language's own name, from the header."""
    found: dict[str, str] = {}
    entry = {"msgid": "", "msgstr": ""}
    part = ""

    def end() -> None:
        if entry["msgid"] == "" and "X-Language-Name:" in entry["msgstr"]:
            found[""] = entry["msgstr"].partition("X-Language-Name:")[2].split("\n")[0].strip()
        elif entry["msgid"] and entry["msgstr"]:
            found[entry["msgid"]] = entry["msgstr"]

    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = _LINE.fullmatch(text)
            try:
                if match is None or (not match[1] and not part):
                    raise ValueError
                value = str(ast.literal_eval(match[2]))
            except (ValueError, SyntaxError):
                raise ConfigError(f"{path}:{number}: not a line of a .po file we read") from None
            if match[1] == "msgid":
                end()
                entry = {"msgid": "", "msgstr": ""}
            part = match[1] or part
            entry[part] += value
    end()
    return found
