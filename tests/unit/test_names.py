# SPDX-License-Identifier: MIT
"""User names: one normal form for each, and unique file names without special characters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.errors import BadUserName
from mailseal.keys import names
from mailseal.keys.names import MAX_FILE_NAME, file_name, normalise, user_of_file

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=80
).filter(lambda name: len(name.encode()) <= 254)


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("Alice@Example.ORG", "alice@example.org"),
        (b"Alice@Example.ORG", "alice@example.org"),
        ("a/../b", "a/../b"),
        ("..", ".."),
        # Dovecot's %Lu converts ASCII only: these are two accounts in Dovecot, so also in mailseal.
        ("ÄRGER", "Ärger"),
        ("x" * 254, "x" * 254),
    ],
)
def test_the_normal_form(given_name: str | bytes, expected: str) -> None:
    assert normalise(given_name) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        b"",
        "a\0b",
        "a\nb",
        "a\x7f",
        "a\x85b",
        "a\u2028b",
        b"\xff",
        "x" * 255,
        "ä" * 128,
        "\ud800",
    ],
)
def test_invalid_names(bad: str | bytes) -> None:
    with pytest.raises(BadUserName):
        normalise(bad)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("alice@example.org", "alice@example.org"),
        ("a/b", "a%2fb"),
        ("..", "%2e."),
        (".hidden", "%2ehidden"),
        ("a%2fb", "a%252fb"),
        ("a~b", "a%7eb"),
        ("ü", "%c3%bc"),
        ("locks", "locks"),
    ],
)
def test_file_names(user: str, expected: str) -> None:
    assert file_name(user) == expected


@given(NAMES, NAMES)
def test_file_names_are_unique(one: str, other: str) -> None:
    same = normalise(one) == normalise(other)
    assert (file_name(one) == file_name(other)) is same


@given(NAMES)
def test_a_file_name_is_one_safe_component(user: str) -> None:
    name = file_name(user)
    assert 0 < len(name.encode()) <= MAX_FILE_NAME
    assert name.isascii() and "/" not in name and not name.startswith(".")
    assert normalise(normalise(user)) == normalise(user)


@given(NAMES)
def test_a_file_name_tells_the_user_unless_it_was_cut(user: str) -> None:
    name = file_name(user)
    assert user_of_file(name) == (None if "~" in name else normalise(user))


@pytest.mark.parametrize("name", ["", ".x", "A", "%41", "%zz", "a~b", "a%2", "\u20ac", "%ff"])
def test_other_file_names_are_nobodys(name: str) -> None:
    assert user_of_file(name) is None


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    found = {file_name("ü" * 120 + end) for end in "abc"}
    assert len(found) == 3
    assert all(len(name) <= MAX_FILE_NAME and "~" in name for name in found)


@pytest.mark.parametrize(
    "user",
    ["a@b.c", "user+tag@example.org", "x.", "-", "0" * MAX_FILE_NAME, "0" * (MAX_FILE_NAME + 1)],
)
def test_the_short_way_for_common_names_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    short = normalise(user), file_name(user), user_of_file(user)
    monkeypatch.setattr(names, "_UNESCAPED", re.compile("(?!)"))
    assert (normalise(user), file_name(user), user_of_file(user)) == short
    assert short[:2] == (user, user) or len(user) > MAX_FILE_NAME
