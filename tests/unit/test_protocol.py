# SPDX-License-Identifier: MIT
"""The lines between the agent and its clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.errors import UsageError
from mailseal.login.protocol import decode, encode


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_/]*", fullmatch=True), st.binary()))
def test_round_trip(fields: dict[str, bytes]) -> None:
    line = encode("verb", fields)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode(line) == ("verb", fields)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b" unlock",
        b"unlock  user=00",
        b"unlock user",
        b"unlock user=0",
        b"unlock user=zz",
        b"unlock user=AB",
        b"unlock user=00 user=01",
        b"unlock =00",
        b"unlock user=0 0",
        b"unlock user= 00",
        b"unlock user=00\t",
        b"un lock",
        b"\xff\xfe",
        b"unlock user=00\n\n",
        b"unlock\0",
    ],
)
def test_malformed_lines(line: bytes) -> None:
    with pytest.raises(UsageError):
        decode(line)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_one_error(line: bytes) -> None:
    try:
        word, fields = decode(line)
    except UsageError:
        return
    assert decode(encode(word, fields)) == (word, fields)
