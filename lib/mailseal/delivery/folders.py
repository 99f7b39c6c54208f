# SPDX-License-Identifier: MIT
"""Chooses the folder of a Maildir for a mail: by header rules, then by `user+folder`.

    HEADER: VALUE => FOLDER     delivery.header_rules, the first that matches
    user+folder@domain          delivery.detail_folder

A folder in a rule is made if it is missing, because the administrator has configured
it.  A folder in an address is made only if this is configured, because any sender
can write an address.  If the name is not a valid folder name, INBOX is used.

Names of Dovecot's own files in a Maildir are not valid: with a folder of such a name Dovecot
could not open the mailbox.

Folders have the same layout as in Dovecot: Maildir++ (`.name.sub`, names in
modified UTF-7, RFC 3501 5.1.3) or LAYOUT=fs (`name/sub`).
"""

from __future__ import annotations

import base64
import fnmatch
import os
import re
from collections.abc import Iterable

from mailseal import durable
from mailseal.delivery.message import Message
from mailseal.mailbox import maildir

_RULE = re.compile(r"([!-9;-~]+):\s*(\S(?:.*\S)?)\s*=>\s*(\S(?:.*\S)?)")
_DOVECOTS = re.compile(r"dovecot.*|maildirfolder|maildirsize|subscriptions", re.I)
"""Names that no level of a folder can have.  A dot separates levels, so lock and index files are
refused because of their first level: `dovecot-uidlist.lock`."""

_MAILDIRS = ("cur", "new", "tmp")
"""The same, with LAYOUT=fs."""

_MAX_HEAD = 64 * 1024
_MAX_NAME = 200


def parse_rule(text: str) -> tuple[bytes, re.Pattern[str], str]:
    """Parse a rule: header in lower case, pattern of its value, folder.  Raises ValueError."""
    match = _RULE.fullmatch(text.strip())
    if match is None or folder_path("/", "maildir++", match[3]) is None:
        raise ValueError
    return match[1].lower().encode(), re.compile(fnmatch.translate(match[2]), re.I), match[3]


class Folders:
    """Chooses folders; used by the writer threads."""

    def __init__(self, rules: Iterable[str], detail_folder: str) -> None:
        self._rules = [parse_rule(rule) for rule in rules]
        self._detail_folder = detail_folder

    def choose(self, root: str, layout: str, detail: str, message: Message) -> str:
        """The Maildir for this mail: `root` or a folder in it, which is made if necessary."""
        if self._rules:
            values = header_values(message, {header for header, _, _ in self._rules})
            for header, pattern, name in self._rules:
                if any(pattern.fullmatch(value) for value in values.get(header, ())):
                    path = folder_path(root, layout, name)
                    if path is not None:
                        return path if path == root else _made(root, path)
        if not detail or self._detail_folder == "ignore":
            return root
        path = folder_path(root, layout, detail)
        if path is None or path == root or _is_taken(root, path):
            return root
        if maildir.is_maildir(path):
            return path
        return _made(root, path) if self._detail_folder == "create" else root


def _is_taken(root: str, path: str) -> bool:
    """Whether a file or a broken link has the name of the folder or of a parent folder."""
    while len(path) > len(root):
        if os.path.lexists(path) and not os.path.isdir(path):
            return True
        path = os.path.dirname(path)
    return False


def _made(root: str, path: str) -> str:
    """Make the folder if it is missing; for Maildir++ with Dovecot's file `maildirfolder`."""
    if not maildir.is_maildir(path):
        if not maildir.is_maildir(root):
            maildir.create(root)
        maildir.create(path)
        if os.path.basename(path).startswith("."):
            durable.replace(os.path.join(path, "maildirfolder"), b"")
    return path


def folder_path(root: str, layout: str, name: str) -> str | None:
    """The path of a folder; None if `name` is not valid.  "/" and "." separate levels."""
    parts = re.split(r"[/.]", name)
    if len(parts) == 1 and name.upper() == "INBOX":
        return root
    encoded = [modified_utf7(part) for part in parts]
    if not all(parts) or any(ord(c) < 32 or c in "*%~\x7f" for c in name):
        return None
    if len("".join(encoded)) > _MAX_NAME or layout not in ("maildir++", "fs"):
        return None
    if any(map(_DOVECOTS.fullmatch, parts)):
        return None
    if layout == "fs":
        if any(part in _MAILDIRS for part in parts):
            return None
        return os.path.join(root, *encoded)
    return f"{root}/.{'.'.join(encoded)}"


def modified_utf7(text: str) -> str:
    """A mailbox name in IMAP's encoding."""

    def shifted(match: re.Match[str]) -> str:
        raw = base64.b64encode(match[0].encode("utf-16-be", "replace")).decode()
        return f"&{raw.rstrip('=').replace('/', ',')}-"

    return re.sub(r"[^\x20-\x7e]+", shifted, text.replace("&", "&-"))


def header_values(message: Message, wanted: set[bytes]) -> dict[bytes, list[str]]:
    """Values of the wanted header fields, unfolded."""
    found: dict[bytes, list[str]] = {}
    for field in re.split(rb"\r\n(?![ \t])", message.head(_MAX_HEAD)):
        if not field:
            break
        name, colon, value = field.partition(b":")
        name = name.rstrip().lower()
        if colon and name in wanted:
            text = value.replace(b"\r\n", b"").strip().decode("utf-8", "replace")
            found.setdefault(name, []).append(text)
    return found
