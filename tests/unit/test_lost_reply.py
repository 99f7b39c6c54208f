# SPDX-License-Identifier: MIT
"""On NFS, a rename can be done and fail: its reply is lost, and the client sends it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailseal import durable
from mailseal.errors import TemporaryError
from mailseal.mailbox import maildir


def test_a_rename_that_was_done_but_failed_loses_no_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mail is deferred, and will arrive twice; the file in new/ stays."""
    move = durable.move

    def sent_twice(source: str, target: str) -> None:
        move(source, target)
        move(source, target)

    monkeypatch.setattr(durable, "move", sent_twice)
    staged = maildir.stage(str(tmp_path), (b"sealed",))
    (error,) = maildir.store([staged])
    assert isinstance(error, TemporaryError)
    (name,) = os.listdir(tmp_path / "new")
    assert (tmp_path / "new" / name).read_bytes() == b"sealed"
    assert os.listdir(tmp_path / "tmp") == []
