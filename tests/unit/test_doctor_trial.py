# SPDX-License-Identifier: MIT
"""Which files `mailseal doctor` takes for those that its test has written."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mailseal.admin.doctor import trial


def test_an_older_mail_that_a_login_has_moved_is_not_of_the_test(tmp_path: Path) -> None:
    moment = time.time() - 60
    for name in ("cur", "new"):
        (tmp_path / name).mkdir()
    old, new = (tmp_path / "new" / name for name in ("1.old", "2.new"))
    old.write_bytes(b"Subject: from last year\n\n")
    os.utime(old, (1, 1))
    new.write_bytes(b"Subject: in clear\n\n")
    old.rename(tmp_path / "cur" / "1.old:2,")
    (message,) = trial._look([str(tmp_path)], moment, "a marker", b"")
    assert message == {"sealed": 0, "foreign": [], "clear": [str(new)]}


def test_another_file_with_the_marker_is_found_by_its_change(tmp_path: Path) -> None:
    log = tmp_path / "dovecot.index.log"
    log.write_bytes(b"a marker")
    os.utime(log, (1, 1))
    (message,) = trial._look([str(tmp_path)], time.time() - 60, "a marker", b"")
    assert message["clear"] == [str(log)]
