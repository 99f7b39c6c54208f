# SPDX-License-Identifier: MIT
"""Unique words, and a search for them in bytes, in all encodings.

Each owner has two random strings of eight letters, HEAD and TAIL.  A word is HEAD, two letters
for the part of the mail, and TAIL.  So a search needs only two strings for each owner, and also
finds a word that an index has truncated.

CONTRACT
    find() reports a word in plain text (capital and small letters are the same), in UTF-16, in
    base64 at each of the three alignments (also of UTF-16), in quoted-printable, also if a line
    end is in the middle of it, and inside gzip, zlib, bzip2, xz and zstd data whose beginning is in
    the bytes.  The middle of a compressed stream cannot be read without its beginning.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import ctypes
import functools
import lzma
import random
import re
import string
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

PARTS = (
    "subject",
    "subject in B words",
    "subject in Q words",
    "From name",
    "From address",
    "To name",
    "Cc address",
    "Reply-To",
    "Message-ID",
    "References",
    "List-Id",
    "Comments",
    "X- header",
    "body 7bit",
    "body 8bit",
    "body base64",
    "body quoted-printable",
    "body UTF-16",
    "body HTML",
    "attachment name",
    "attachment name RFC 2231",
    "attachment text",
    "attachment binary",
    "attached mail's subject",
    "attached mail's body",
    "saved by the client",
)
MARGIN = 256
"""Largest size of a word in any encoding, in bytes, with a margin."""

_UNPACKED = 1 << 18
_PACKED = rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd"


class Owner(NamedTuple):
    """The owner of words."""

    name: str
    head: str
    tail: str

    def word(self, part: str) -> str:
        number = PARTS.index(part)
        return f"{self.head}{chr(97 + number // 26)}{chr(97 + number % 26)}{self.tail}"


class Hit(NamedTuple):
    """A word or one end of it; `part` is "?" if the middle is missing."""

    offset: int
    owner: str
    part: str
    form: str


def owners(names: Sequence[str]) -> list[Owner]:
    """New words for each name."""
    letters = random.SystemRandom()

    def fresh() -> str:
        return "".join(letters.choices(string.ascii_lowercase, k=8))

    return [Owner(name, fresh(), fresh()) for name in names]


def find(data: bytes, whose: Sequence[Owner]) -> list[Hit]:
    """Every word of these owners in the bytes, by its offset."""
    hits = _straight(data, whose)
    hits += _over_line_ends(data, whose, len(hits))
    for match in re.finditer(_PACKED, data):
        # Two bytes occur in ciphertext by chance: check first whether it really is a stream.
        start = data[match.start() : match.start() + 4096]
        if match[0][:2] in (b"BZ", b"\xfd7") or len(_unpack(start)) > 16:
            unpacked = _unpack(data[match.start() : match.start() + _UNPACKED])
            inside = _straight(unpacked, whose)
            hits += [h._replace(offset=match.start(), form=f"{h.form}, packed") for h in inside]
    return sorted(set(hits))


def _straight(data: bytes, whose: Sequence[Owner]) -> list[Hit]:
    lower = data.lower()
    hits = []
    for owner in whose:
        for needle, form, is_base64 in _needles(owner):
            where = data if is_base64 else lower
            at = where.find(needle)
            while at >= 0:
                part = _part(where, at, owner, form)
                # A TAIL that follows its HEAD is the same word.
                if part is not None:
                    hits.append(Hit(at, owner.name, part, form))
                at = where.find(needle, at + 1)
    return hits


def _over_line_ends(data: bytes, whose: Sequence[Owner], straight: int) -> Iterator[Hit]:
    """Words that are found only without line ends and soft line breaks."""
    if b"\n" not in data or len(_straight(_joined(data), whose)) <= straight:
        return
    for start in range(0, len(data), 4096):
        piece = data[start : start + 4096 + MARGIN]
        for hit in _straight(_joined(piece), whose)[len(_straight(piece, whose)) :]:
            yield hit._replace(offset=start, form=f"{hit.form} over a line end")


def _joined(data: bytes) -> bytes:
    # Four passes of replace() take a tenth of the time of one re.sub().
    for end in (b"=\r\n", b"=\n", b"\r\n", b"\n"):
        data = data.replace(end, b"")
    return data


@functools.cache
def _needles(owner: Owner) -> tuple[tuple[bytes, str, bool], ...]:
    """The byte sequences of an owner's words, with their encoding, and whether this is base64."""
    found: dict[bytes, tuple[str, bool]] = {}
    for text in (owner.head, owner.tail):
        found[text.encode()] = ("plain", False)
        # Without its outer NUL: the same in both byte orders.
        found["\0".join(text).encode()] = ("utf-16", False)
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        raw = owner.head.encode(encoding)
        for before in range(3):
            whole = base64.b64encode(bytes(before) + raw)
            # The characters at the ends depend on other characters.
            needle = whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
            found.setdefault(needle, (f"base64 of {encoding[:6]}", True))
    return tuple((needle, *about) for needle, about in found.items())


def _part(data: bytes, at: int, owner: Owner, form: str) -> str | None:
    """The part in the middle of a word; None for a TAIL if its HEAD was found too."""
    head = owner.head.encode()
    if form.startswith("base64"):
        starts = [max(0, at - back) for back in range(5)]
        texts = [_decoded(data[start : at + 110]).replace(b"\0", b"") for start in starts]
        text = next((text for text in texts if head in text), b"")
        return _named(text[text.find(head) + len(head) :][:2])
    step = 2 if form == "utf-16" else 1
    start = data[at : at + 16 * step].replace(b"\0", b"")
    if start.startswith(head):
        return _named(data[at + 8 * step : at + 10 * step].replace(b"\0", b""))
    before = data[max(0, at - 10 * step) : at].replace(b"\0", b"")
    return None if before.startswith(head) else "?"


def _named(letters: bytes) -> str:
    if len(letters) != 2 or not letters.isalpha():
        return "?"
    number = (letters[0] - 97) * 26 + letters[1] - 97
    return PARTS[number] if number < len(PARTS) else "?"


def _decoded(text: bytes) -> bytes:
    match = re.match(rb"[A-Za-z0-9+/]*", re.sub(rb"\s", b"", text))
    usable = match[0] if match else b""
    return base64.b64decode(usable[: len(usable) // 4 * 4])


def _unpack(data: bytes) -> bytes:
    """The content of a compressed stream at the start of the bytes, as far as it can be read."""
    makers: dict[bytes, Callable[[], object]] = {
        b"\x1f\x8b": lambda: zlib.decompressobj(31),
        b"\x78": lambda: zlib.decompressobj(15),
        b"BZ": bz2.BZ2Decompressor,
        b"\xfd7": lzma.LZMADecompressor,
    }
    for magic, make in makers.items():
        if data.startswith(magic):
            return _fed(make(), data)
    return _zstd(data)


def _fed(reader: object, data: bytes) -> bytes:
    """Decompress in small parts, so that the content before damage is kept."""
    out = b""
    with contextlib.suppress(zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        for start in range(0, len(data), 2048):
            out += reader.decompress(data[start : start + 2048])  # type: ignore[attr-defined]
            if len(out) > 4 * _UNPACKED:
                break
    return out


class _Buffer(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("used", ctypes.c_size_t))


@functools.cache
def _libzstd() -> ctypes.CDLL | None:
    """Dovecot's packages depend on zstd; without it nothing can have written it."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
    pointer = ctypes.POINTER(_Buffer)
    library.ZSTD_decompressStream.argtypes = [ctypes.c_void_p, pointer, pointer]
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    return library


def _zstd(data: bytes) -> bytes:
    library = _libzstd()
    if library is None:
        return b""
    target = ctypes.create_string_buffer(4 * _UNPACKED)
    source = ctypes.create_string_buffer(data, len(data))
    out = _Buffer(ctypes.addressof(target), len(target), 0)
    taken = _Buffer(ctypes.addressof(source), len(data), 0)
    stream = library.ZSTD_createDStream()
    try:
        while True:
            before = (out.used, taken.used)
            result = library.ZSTD_decompressStream(stream, out, taken)
            if result == 0 or result > 1 << 32 or (out.used, taken.used) == before:
                return target.raw[: out.used]
    finally:
        library.ZSTD_freeDStream(stream)
