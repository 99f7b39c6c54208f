# SPDX-License-Identifier: MIT
"""Post-login scripts have the keys in their environment."""

from __future__ import annotations

import pytest

from tests.unit.dovecot_check.settings import Check

SCRIPT = """
service imap {
  executable = imap postlogin
}
service postlogin {
  executable = script-login /usr/local/bin/postlogin.sh
  unix_listener postlogin {
  }
}
"""


def test_a_script_at_each_login_is_a_warning(check: Check) -> None:
    ((level, text),) = check(SCRIPT)
    assert level == "warning"
    assert "service imap has executable = imap postlogin" in text


@pytest.mark.parametrize("executable", ["imap", "/usr/lib/dovecot/imap", "imap -L"])
def test_options_are_not_scripts(check: Check, executable: str) -> None:
    assert check(f"service imap {{\n  executable = {executable}\n}}\n") == []
