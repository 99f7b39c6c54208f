# SPDX-License-Identifier: MIT
"""Looking for words of a mail in files: plain, in base64 and in quoted-printable.

A sealed store shows none.  A search that finds nothing proves something only
if it finds the words where they are: callers search a place that has them too.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Found(NamedTuple):
    """A word in a file, and the form in which it stands there."""

    path: str
    word: str
    form: str


def forms(word: str) -> Mapping[bytes, str]:
    """The byte sequences that betray a word, in lower case, but base64, each with its name.

    In base64 a word looks different at each of three offsets; the characters
    at both ends that depend on the neighbours are left out.  Words should have
    eight letters or more, or chance finds them in ciphertext.
    """
    raw = word.encode()
    found = {raw.lower(): "plain", word.encode("utf-16-le").lower(): "utf-16"}
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + raw)
        start = (offset * 8 + 5) // 6
        end = (offset + len(raw)) * 8 // 6
        found[whole[start:end]] = "base64"
    quoted = binascii.b2a_qp(raw, istext=False).replace(b"=\n", b"")
    found.setdefault(quoted.lower(), "quoted-printable")
    return found


def search_bytes(data: bytes, words: Iterable[str]) -> list[tuple[str, str]]:
    """Word and form of all that stand in `data`; line ends inside base64 do not hide a word."""
    lower = data.lower()
    unbroken = data.replace(b"\r\n", b"").replace(b"\n", b"")
    soft = lower.replace(b"=\r\n", b"").replace(b"=\n", b"")
    hits = []
    for word in words:
        for needle, form in forms(word).items():
            places = (unbroken,) if form == "base64" else (lower, soft)
            if any(needle in place for place in places):
                hits.append((word, form))
    return hits


def search_folder(folder: str, words: Iterable[str], *, skip: Iterable[str] = ()) -> list[Found]:
    """Search file names and contents below a folder; `skip` are folders to leave out."""
    words, left_out = list(words), {os.path.abspath(path) for path in skip}
    hits: list[Found] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(root, name) not in left_out]
        for name in names:
            path = os.path.join(root, name)
            hits += [Found(path, *hit) for hit in search_bytes(os.fsencode(name), words)]
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as stream:
                    hits += [Found(path, *hit) for hit in search_bytes(stream.read(), words)]
    return hits


def count_files(folder: str, *, skip: Iterable[str] = ()) -> int:
    """How many files a search of the folder reads."""
    left_out = {os.path.abspath(path) for path in skip}
    total = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(root, name) not in left_out]
        total += len(names)
    return total
