# SPDX-License-Identifier: MIT
"""unenroll, which must not lose mail."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from mailseal.crypto import dcrypt
from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import CHEAP, AgentProcess
from tests.unit.commands.user import USER, opens


class TestUnenroll:
    def test_refuses_while_sealed_mail_remains(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert key is not None
        maildir = tmp_path / "Maildir"
        for part in ("cur", "new", "tmp", ".Sent/cur"):
            (maildir / part).mkdir(parents=True)
        (maildir / "cur" / "1").write_bytes(b"plain\n")
        (maildir / ".Sent" / "cur" / "2").write_bytes(dcrypt.seal(key, b"sealed\n"))
        where = ["--maildir", str(maildir)]
        done = enrolled.run("unenroll", USER, *where)
        assert done.returncode == 64 and b"1 mails of alice@example.org are sealed" in done.stderr
        sentence = f"all sealed mail of {USER} is lost"
        assert sentence.encode() in done.stderr
        assert enrolled.run("unenroll", USER, *where, "--force", "yes").returncode == 64
        assert opens(enrolled, b"pw")
        assert (
            enrolled.run("unenroll", USER, *where, "--kicked", "--force", sentence).returncode == 0
        )
        assert not opens(enrolled, b"pw")
        assert PublicStore(f"{tmp_path}/state/public").lookup(USER) is None

    def test_a_refusal_defers_no_mail(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert key is not None
        (tmp_path / "Maildir").mkdir()
        (tmp_path / "Maildir" / "1").write_bytes(dcrypt.seal(key, b"sealed\n"))
        assert enrolled.run("unenroll", USER, "--maildir", f"{tmp_path}/Maildir").returncode == 64
        assert "unenroll" not in enrolled.log_text() and "suspend" not in enrolled.log_text()

    def test_follows_links_and_counts_again_while_mail_is_kept_back(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        """A mail that was being delivered when the command searched for the first time."""
        enrolled.write_config(f"{CHEAP}delivery: {{userdb: template, home: {tmp_path}/%d}}\n")
        maildir, elsewhere = tmp_path / "example.org" / "Maildir", tmp_path / "other disk"
        for folder in (maildir / "cur", elsewhere / "cur"):
            folder.mkdir(parents=True)
        (maildir / ".Archive").symlink_to(elsewhere)
        (elsewhere / "loop").symlink_to(maildir)
        public = PublicStore(f"{tmp_path}/state/public")
        key = public.lookup(USER)
        assert key is not None
        seen: list[str] = []

        ended = threading.Event()

        def watch() -> None:
            while not seen and not ended.is_set():
                with contextlib.suppress(TemporaryError):
                    if public.lookup(USER) is not None:
                        continue
                seen.append("kept back")
                (elsewhere / "cur" / "1").write_bytes(dcrypt.seal(key, b"sealed\n"))
                seen.append(enrolled.ask("unlock", user=USER.encode(), password=b"pw").status)

        watcher = threading.Thread(target=watch)
        watcher.start()
        done = enrolled.run("unenroll", USER, "--kicked")
        ended.set()
        watcher.join()
        assert done.returncode == 64 and b"1 mails of alice@example.org are sealed" in done.stderr
        assert seen == ["kept back", "temporary"]
        assert public.lookup(USER) is not None and opens(enrolled, b"pw")

    def test_refuses_if_the_mail_location_is_not_known(self, enrolled: AgentProcess) -> None:
        done = enrolled.run("unenroll", USER)
        assert done.returncode == 64 and b"is not known" in done.stderr
        assert opens(enrolled, b"pw")
