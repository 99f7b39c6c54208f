# SPDX-License-Identifier: MIT
"""A crash or a full disk at each step of enroll and passwd."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailseal.errors import AlreadyEnrolled, TemporaryError
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import Vault
from tests.unit.vaults import USER, killed_at, open_vault, opens


def test_enroll_killed_at_every_step(tmp_path: Path) -> None:
    """After a kill at any step, no mail is sealed without a keyring, and enroll works again."""
    step = 0
    died = True
    while died:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        vault = open_vault(folder)
        died = killed_at(step, lambda vault=vault: vault.enroll(USER, b"pw"))  # type: ignore[misc]
        try:
            published = vault.public.lookup(USER)
        except TemporaryError:
            published = None  # mail is deferred
        if published is not None:
            assert vault.unlock(USER, b"pw").keys[-1].public == published
        try:
            vault.enroll(USER, b"pw")
        except AlreadyEnrolled:
            assert opens(vault, b"pw")
        published = vault.public.lookup(USER)
        assert published is not None
        assert vault.unlock(USER, b"pw").keys[-1].public == published
    assert step > 20


def test_enroll_failed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: after a failure the user is not enrolled, and mail is not deferred."""
    names = ("open", "write", "fsync", "fchmod", "rename", "link")
    step, failed, taken_back = 0, True, 0
    while failed:
        step += 1
        (folder := tmp_path / str(step)).mkdir()
        vault = open_vault(folder)
        left = step

        def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, wrap(getattr(os, name)))
            try:
                vault.enroll(USER, b"pw")
                failed = False
            except TemporaryError:
                taken_back += 1
        published = vault.public.lookup(USER)
        if published is None:
            assert failed and vault.store.revision(USER) is None, step
            vault.enroll(USER, b"another")
            assert opens(vault, b"another"), step
        else:  # it was there already, mail may be sealed to it
            assert vault.unlock(USER, b"pw").keys[-1].public == published, step
    assert taken_back > 15


def test_login_completes_an_interrupted_enrollment(tmp_path: Path) -> None:
    finished = 0
    step = 0
    died = True
    while died:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        vault = open_vault(folder)
        died = killed_at(step, lambda vault=vault: vault.enroll(USER, b"pw"))  # type: ignore[misc]
        if vault.store.revision(USER) is not None:
            key = vault.unlock(USER, b"pw").keys[-1].public
            assert vault.public.lookup(USER) == key
            finished += died
    assert finished > 5


def test_passwd_killed_at_every_step(vault: Vault) -> None:
    """Either the old or the new password opens, never neither, never both."""
    vault.enroll(USER, b"pw 0")
    number = step = 0
    outcomes = set()
    died = True
    while died:
        step += 1
        old, new = b"pw %d" % number, b"pw %d" % (number + 1)
        died = killed_at(step, lambda old=old, new=new: Lifecycle(vault).passwd(USER, old, new))  # type: ignore[misc]
        working = (opens(vault, old), opens(vault, new))
        assert working in ((True, False), (False, True))
        outcomes.add(working)
        number += working[1]
    assert len(outcomes) == 2 and step > 8
