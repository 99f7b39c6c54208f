# SPDX-License-Identifier: MIT
"""A wrong command, and a configuration file that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.admin.cli import main


def test_a_command_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for word, hint in (("enrol", "did you mean `mailseal enroll`?"), ("zz", "try `mailseal -h`")):
        assert main(["mailseal", word, "alice@example.org"]) == 64
        said = f"mailseal: error: there is no command {word}\nmailseal: hint: {hint}\n"
        assert capsys.readouterr().err == said
    assert main(["mailseal"]) == 64
    assert "COMMAND" in capsys.readouterr().err


def test_no_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["mailseal", "-c", f"{tmp_path}/none.yaml", "status"]) == 78
    said = capsys.readouterr().err
    assert said.startswith(f"mailseal: error: there is no {tmp_path}/none.yaml\nmailseal: hint: ")
