# SPDX-License-Identifier: MIT
"""A Maildir with two mails, and what a conversion must leave in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox import whole
from mailseal.mailbox.forms import Form, Reseal, Seal, Unseal

KEY = PrivateKey.generate("prime256v1")
OLD = PrivateKey.generate("prime256v1")
FORMS: dict[str, Form] = {
    "seal": Seal(KEY.public),
    "unseal": Unseal([KEY, OLD]),
    "reseal": Reseal(KEY.public, [OLD]),
}
FLAGGED = "1700000000.M1P1.host,S=12,W=14:2,S"
FRESH = "1700000001.M2P1.host,S=70000,W=70100"
MAILS = {f"cur/{FLAGGED}": b"Subject: a\n\n", f"new/{FRESH}": b"x" * 70_000}


class Box:
    """A Maildir with two mails, in the form before the conversion."""

    def __init__(self, path: Path, form: str) -> None:
        self.path = path
        self.form = FORMS[form]
        key = {"seal": None, "unseal": KEY, "reseal": OLD}[form]
        self.stored = {
            name: mail if key is None else dcrypt.seal(key.public, mail)
            for name, mail in MAILS.items()
        }

    def fill(self) -> None:
        for entry in list(self.path.iterdir()) if self.path.is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for part in ("cur", "new", "tmp"):
            (self.path / part).mkdir(parents=True)
        for number, (name, data) in enumerate(self.stored.items()):
            (self.path / name).write_bytes(data)
            os.utime(self.path / name, (1_600_000_000, 1_600_000_000 + number))

    def convert(self, *, shred: bool = False) -> whole.Report:
        with whole.held(str(self.path)):
            return whole.run(str(self.path), self.form, shred=shred)

    def convert_all(self) -> None:
        report = self.convert()
        assert report.nothing_left, report

    def convert_some(self) -> None:
        """Convert as much as possible."""
        self.convert()

    def mails(self) -> dict[str, bytes]:
        """The mails in clear, by name, in any form."""
        found = {}
        for part in ("cur", "new"):
            for path in sorted((self.path / part).iterdir()):
                found[f"{part}/{path.name}"] = self.plain(path)
        return found

    def plain(self, path: Path) -> bytes:
        with path.open("rb") as stream:
            if not dcrypt.is_sealed(stream.read(dcrypt.MAX_HEADER)):
                return path.read_bytes()
            return b"".join(dcrypt.open_sealed(stream, [KEY, OLD]))

    def left_over(self) -> list[str]:
        return os.listdir(self.path / "tmp")

    def require_converted(self) -> None:
        """Every mail has the wanted form, and tmp/ is empty."""
        assert self.left_over() == []
        for part in ("cur", "new"):
            for path in (self.path / part).iterdir():
                assert self.form.work(path.read_bytes()) is None, path
