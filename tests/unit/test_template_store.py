# SPDX-License-Identifier: MIT
"""With a user template: no mail bounces because the mail store is not mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.delivery.dovecot.template import Template
from mailseal.errors import TemporaryError
from tests.lab.place import REPOSITORY, let_others_in

LIB = Path(REPOSITORY) / "lib"


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


def test_a_link_to_what_is_not_mounted(tmp_path: Path) -> None:
    store, second = tmp_path / "store", tmp_path / "second"
    (second / "example.org" / "alice").mkdir(parents=True)
    store.mkdir()
    (store / "example.org").symlink_to(second / "example.org")
    (store / "example.net").mkdir()
    (store / "example.net" / "bob").symlink_to(second / "example.org" / "alice")
    here = users(f"{store}/%d/%n")
    for user in ("alice@example.org", "bob@example.net"):
        assert here.lookup(user) is not None
    for user in ("nobody@example.org", "nobody@example.net"):
        assert here.lookup(user) is None
    second.rename(tmp_path / "away")
    for user in ("alice@example.org", "nobody@example.org", "bob@example.net"):
        with pytest.raises(TemporaryError, match="leads to no folder"):
            here.lookup(user)
    assert here.lookup("nobody@example.net") is None


_AS_NOBODY = """
import os, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.path.insert(0, sys.argv[1])
from mailseal import config, errors
from mailseal.delivery.dovecot.template import Template
here = Template(config.parse(f"delivery: {{userdb: template, home: {sys.argv[2]}/%d/%n}}"))
try:
    print(here.lookup("nobody@example.org"))
except errors.TemporaryError as exc:
    print(exc)
"""


def test_a_store_that_may_not_be_listed(let_in: Path) -> None:
    """It can be entered, so users are found; it must have folders before one can be unknown."""
    store = let_in / "store"
    store.mkdir()
    store.chmod(0o711)
    command = [sys.executable, "-c", _AS_NOBODY, str(LIB), str(store)]

    def answer() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Permission denied" in answer()
    (store / "example.net").mkdir()
    assert answer() == "None\n"


@pytest.fixture
def let_in(tmp_path: Path) -> Path:
    let_others_in(tmp_path)
    return tmp_path
