# SPDX-License-Identifier: MIT
"""The findings for settings of a test, read with the installed doveconf."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import dovecot_check
from mailseal.doveconf import Doveconf
from tests.unit.dovecot_check.settings import BASE, Check, chain, snippet


@pytest.fixture(autouse=True)
def _a_dovecot_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the Dovecot that runs on this machine from delivery."""
    monkeypatch.setattr("mailseal.delivery.dovecot.settings.known", lambda config: {})


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The findings for Dovecot settings and options of delivery.

    Without `auth`, with a correct chain of passdbs and userdbs.
    """

    def findings(
        *parts: str, auth: str | None = None, password_check: str = "", **delivery: str
    ) -> list[tuple[str, str]]:
        path = tmp_path / "dovecot.conf"
        path.write_text("".join([BASE, snippet("mailseal"), auth or chain(), *parts]))
        text = "\n".join(f"  {name}: {value}" for name, value in delivery.items())
        login = f"login: {{password_check: {password_check or 'passdb'}}}\n"
        config = configuration.parse(login + (f"delivery:\n{text}\n" if text else ""))
        found = dovecot_check.findings(config, Doveconf(["doveconf", "-c", str(path)]))
        return [
            (finding.level, finding.text)
            for finding in found
            if password_check or "login.password_check" not in finding.text
        ]

    return findings
