# SPDX-License-Identifier: MIT
"""What check-config says about the passdb and userdb with Dovecot 2.3's driver dict."""

from __future__ import annotations

import re

import pytest

from mailseal.admin.finding import ERROR, WARNING
from tests.unit.dovecot_check.settings import Check, only_23, snippet

pytestmark = only_23

BEHIND = "auth-behind-passwd-file-checkpassword"
DICT = r"{} {{\n  driver = dict\n(?:  .*\n)*}}\n"
PROGRAM = r"userdb \{\n  driver = checkpassword\n(?:  .*\n)*\}\n"


@pytest.mark.parametrize("name", [BEHIND, "auth-mailseal-only-checkpassword"])
def test_a_copy_without_it(check: Check, name: str) -> None:
    """It works as before, but more slowly."""
    text = snippet(name).replace("uid=vmail gid=vmail ", "")
    assert check(auth=text) == []
    older = re.sub(DICT.format("passdb"), "", re.sub(DICT.format("userdb"), "", text))
    assert "driver = dict" not in older
    ((level, found),) = check(auth=older)
    assert level == WARNING and "for each lookup" in found


def test_the_program_must_be_behind_it(check: Check) -> None:
    lacking, number = re.subn(PROGRAM, "", snippet(BEHIND))
    assert number == 1
    levels = check(auth=lacking)
    wanted = "the driver dict needs one with the driver checkpassword after"
    assert any(level == ERROR and f"userdb with {wanted}" in found for level, found in levels)


def test_only_for_accepted_logins(check: Check) -> None:
    block = re.search(DICT.format("passdb"), snippet(BEHIND))
    assert block
    changed = block[0].replace("  skip = unauthenticated\n", "")
    ((level, found),) = check(auth=snippet(BEHIND).replace(block[0], changed))
    assert level == ERROR and "needs skip = unauthenticated" in found
