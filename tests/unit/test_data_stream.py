# SPDX-License-Identifier: MIT
"""The data stream gives the same result as a simple definition by lines, for all splits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.delivery.lmtp.data_stream import DataStream, stuffed

# Mostly special bytes, so that their combinations are frequent.
BYTES = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a"]), max_size=40).map(
    b"".join
)


def plainly(wire: bytes) -> tuple[bytes, bytes | None]:
    """RFC 5321, 4.5.2, line by line: the mail, and the bytes after its end (None: no end)."""
    mail = b""
    while True:
        line, end, wire = wire.partition(b"\r\n")
        if not end:
            return mail, None
        if line == b".":
            return mail, wire
        mail += (line[1:] if line.startswith(b".") else line) + end


def in_pieces(wire: bytes, cuts: list[int]) -> tuple[list[bytes], bytes | None]:
    stream = DataStream()
    pieces = []
    points = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    for start, stop in itertools.pairwise(points):
        if stream.rest is not None:
            stream.rest += wire[start:stop]
        else:
            pieces.append(stream.feed(wire[start:stop]))
    return pieces, stream.rest


@given(BYTES, st.lists(st.integers(0, 60), max_size=20))
def test_same_result_as_the_definition(body: bytes, cuts: list[int]) -> None:
    wire = body + b"\r\n.\r\nNOOP\r\n"
    pieces, rest = in_pieces(wire, cuts)
    assert (b"".join(pieces), rest) == plainly(wire)
    full = [piece for piece in pieces if piece]
    for one, next_one in itertools.pairwise(full):
        assert not (one.endswith(b"\r") and next_one.startswith(b"\n"))


@given(BYTES, st.lists(st.integers(0, 60), max_size=20))
def test_stuffing_is_undone(body: bytes, cuts: list[int]) -> None:
    mail = body + b"\r\n"
    wire = stuffed(mail, True) + b".\r\n"
    pieces, rest = in_pieces(wire, cuts)
    assert b"".join(pieces) == mail
    assert rest == b""
    # ... and leading dots can be doubled in each piece separately.
    first, again = True, b""
    for piece in filter(None, pieces):
        again += stuffed(piece, first)
        first = False
    assert again + b".\r\n" == wire


@pytest.mark.parametrize(
    "kin", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\n\n.\n\n", b"\r\n.\r\r\n"]
)
def test_similar_byte_sequences_do_not_end_a_mail(kin: bytes) -> None:
    pieces, rest = in_pieces(b"a" + kin + b"b\r\n.\r\n", list(range(20)))
    assert rest == b""
    assert b"".join(pieces).startswith(b"a")
    assert b"b\r\n" in b"".join(pieces)
