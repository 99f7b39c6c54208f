# SPDX-License-Identifier: MIT
"""App passwords and recovery codes: tolerant reading, detection of errors, separate kinds."""

from __future__ import annotations

import pytest

from mailseal.keys import codes

RECOVERY = "abc0-1234-5678-9abc-defg-hjkm-npqr-s0hp"
APP = "abc0-1234-5678-9abc-defg-hjkm-npqr-sbn6"


def test_shape() -> None:
    code = codes.make("app", "abc")
    groups = code.split("-")
    assert len(groups) == 8 and all(len(group) == 4 for group in groups)
    plain = codes.read("app", code.encode())
    assert plain is not None and codes.slot_of(plain) == "abc"
    # 26 letters of 5 bits: the secret has 130 bits
    assert len(plain) - 3 - 3 == 26


def test_typed_in_capitals_with_spaces_and_look_alikes() -> None:
    for _ in range(50):
        code = codes.make("recovery", "0a1")
        typed = code.upper().replace("-", " ").replace("0", "O").replace("1", "I")
        assert codes.read("recovery", typed.encode()) == codes.read("recovery", code.encode())


def test_every_mistyped_letter_is_detected() -> None:
    """With one code: for 1 of 32,768 mistyped codes the checksum is right by chance."""
    code = RECOVERY.replace("-", "")
    assert codes.read("recovery", code.encode()) == code.encode()
    seen = 0
    for at, right in enumerate(code):
        for letter in codes.ALPHABET:
            if letter != right:
                wrong = code[:at] + letter + code[at + 1 :]
                seen += codes.read("recovery", wrong.encode()) is None
    assert seen == 32 * 31


@pytest.mark.parametrize("kind", ["recovery", "login"])
def test_kinds_are_not_mixed_up(kind: str) -> None:
    assert codes.read("app", APP.encode()) is not None
    assert codes.read(kind, APP.encode()) is None


@pytest.mark.parametrize("junk", [b"", b"-", b"\xff" * 32, b"u" * 32, b"0" * 31, b"0" * 10_000_000])
def test_invalid_codes(junk: bytes) -> None:
    assert codes.read("app", junk) is None


def test_new_ids_are_free() -> None:
    taken = {a + b + c for a in codes.ALPHABET for b in codes.ALPHABET for c in codes.ALPHABET}
    taken.remove("zzz")
    assert codes.new_id(taken) == "zzz"
