# SPDX-License-Identifier: MIT
"""Searches files for words of a mail: in clear, in base64 and in quoted-printable.

A sealed mail store contains none.  To prove that the search works, callers also
search a place that contains the words.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Found(NamedTuple):
    """A word in a file, and its encoding there."""

    path: str
    word: str
    form: str


def forms(word: str) -> Mapping[bytes, str]:
    """The encodings of a word as byte sequences with their names; all but base64 in lower case.

    In base64 a word has a different form at each of three offsets.  The characters at
    both ends depend on other characters and are omitted.  Words should have at least
    eight letters, otherwise they can occur in ciphertext by chance.
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
    """Words in `data`, with their encodings; also across line ends in base64."""
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
    """Search file names and contents below a folder; `skip`: folders to omit."""
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


def files_with(folder: str, word: bytes) -> list[str]:
    """Names of the files below a folder that contain these bytes."""
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(where, name), "rb") as stream:
                if word in stream.read():
                    found.append(name)
    return found


def count_files(folder: str, *, skip: Iterable[str] = ()) -> int:
    """Number of files that a search of the folder reads."""
    left_out = {os.path.abspath(path) for path in skip}
    total = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(root, name) not in left_out]
        total += len(names)
    return total
