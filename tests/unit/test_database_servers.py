# SPDX-License-Identifier: MIT
"""The database servers that other tests use."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.lab import clusters
from tests.lab.databases import Postgresql
from tests.lab.place import let_others_in
from tests.lab.process import suspend


def test_postgresql_starts_again_although_its_processes_outlived_a_kill() -> None:
    with clusters.folder() as folder:
        server = clusters.postgresql(folder).server
        assert isinstance(server, Postgresql)
        try:
            for pid in server.processes():
                with contextlib.suppress(ProcessLookupError):  # the one that answered SELECT 1
                    suspend(pid)
            server.stop(signal.SIGKILL)
            server.start()
            assert server.sql("SELECT 1") == "1\n"
        finally:
            server.stop()


def test_folders_are_opened_to_other_users_and_never_closed(tmp_path: Path) -> None:
    above = os.stat("/tmp").st_mode
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True, mode=0o700)
    (tmp_path / "a").chmod(0o3777)
    let_others_in(inner)
    assert [path.stat().st_mode & 0o7777 for path in (inner, tmp_path / "a")] == [0o755, 0o3777]
    assert os.stat("/tmp").st_mode == above | 0o055
