# SPDX-License-Identifier: MIT
"""With a user template: no mail bounces because the mail store is not mounted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.delivery.dovecot.template import Template
from mailseal.errors import TemporaryError


def users(home: str) -> Template:
    return Template(configuration.parse(f"delivery: {{userdb: template, home: {home}}}"))


def test_an_empty_mount_point_does_not_mean_that_the_user_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "store" / "example.org" / "alice").mkdir(parents=True)
    here = users(f"{tmp_path}/store/%d/%n")
    assert here.lookup("nobody@example.org") is None
    assert here.lookup("nobody@other.example") is None
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(TemporaryError, match="No such file"):
        here.lookup("nobody@example.org")
    (tmp_path / "store").mkdir()
    for user in ("alice@example.org", "nobody@other.example"):
        with pytest.raises(TemporaryError, match="is empty") as caught:
            here.lookup(user)
        assert caught.value.hint == "is the mail store mounted?"
    # Each domain may be a mount of its own.
    (tmp_path / "store" / "example.org").mkdir()
    with pytest.raises(TemporaryError, match=r"example\.org is empty"):
        here.lookup("alice@example.org")
    assert here.lookup("alice@other.example") is None


def test_homes_without_domains(tmp_path: Path) -> None:
    here = users(f"{tmp_path}/home-%n")
    with pytest.raises(TemporaryError, match="is empty"):
        here.lookup("alice@example.org")
    os.mkdir(tmp_path / "home-bob")
    assert here.lookup("alice@example.org") is None
    assert here.lookup("bob@example.org") is not None
