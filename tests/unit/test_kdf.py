"""Argon2id profiles."""

from __future__ import annotations

import pytest

from mailseal.crypto.kdf import PROFILES, Profile, derive
from mailseal.errors import Damaged


def test_default_profile_is_64_mib_three_passes_four_lanes() -> None:
    standard = PROFILES["standard"]
    assert (standard.memory_kib, standard.passes, standard.lanes) == (65536, 3, 4)


def test_known_answer() -> None:
    # made with the argon2 command of the reference implementation:
    # printf password | argon2 somesalt -id -t 2 -k 256 -p 1 -l 32 -r
    key = derive(b"password", b"somesalt", Profile("vector", 256, 2, 1), 32)
    assert key.hex() == "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"


def test_everything_matters() -> None:
    base = derive(b"p", b"s" * 16, PROFILES["insecure-testing"], 32)
    assert base != derive(b"q", b"s" * 16, PROFILES["insecure-testing"], 32)
    assert base != derive(b"p", b"t" * 16, PROFILES["insecure-testing"], 32)
    assert base != derive(b"p", b"s" * 16, Profile("x", 8, 2, 1), 32)
    assert base != derive(b"p", b"s" * 16, Profile("x", 16, 1, 1), 32)


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1), (1 << 30, 1, 1), (64, 0, 1), (64, 1, 0), (64, 99, 1), (8, 1, 2)]
)
def test_absurd_parameters_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(Damaged):
        Profile("x", *numbers)
