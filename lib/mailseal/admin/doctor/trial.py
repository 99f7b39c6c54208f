# SPDX-License-Identifier: MIT
"""The user for test logins: what the checks save, find on the disk and remove again.

The text of a test mail has a marker that occurs nowhere else.  If it is found in any file of the
user that has changed since, the mail was stored in clear, even if it is sealed elsewhere.
Processes with the rights of the owner read the files.

FAILURES
    NotEnrolled; TemporaryError if the user database does not know the user.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailseal.admin import crew
from mailseal.admin.mail_place import Places, is_in_memory
from mailseal.crypto import dcrypt
from mailseal.daemon import user_ids
from mailseal.delivery.dovecot import settings, userdb
from mailseal.delivery.dovecot.location import Account
from mailseal.errors import MailsealError, NotEnrolled, TemporaryError
from mailseal.keys.names import normalise
from mailseal.keys.public import PublicStore

if TYPE_CHECKING:
    from mailseal.admin.command import Context

FOLDER = "mailseal-doctor-"
"""The beginning of the names of folders that the checks make."""

_SEALED = b"CRYPTED\x03\x07"
_SLACK = 2.0
_BOX = 1 << 16


@dataclasses.dataclass
class Written:
    """What has changed on the disk: numbers of sealed mails, and paths."""

    sealed: int = 0
    foreign: list[str] = dataclasses.field(default_factory=list)
    clear: list[str] = dataclasses.field(default_factory=list)


class Trial:
    """One user, for the time of one run."""

    def __init__(self, context: Context, user: str, password: bytes) -> None:
        self.config = context.config
        self.user = normalise(os.fsencode(user))
        self.password = password

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self.password = b""

    @functools.cached_property
    def account(self) -> Account:
        """Dovecot's answer about the user."""
        found = userdb.from_config(self.config, settings.known(self.config)).lookup(self.user)
        if found is None:
            raise TemporaryError(f"the user database does not know {self.user}")
        return found

    @functools.cached_property
    def key_id(self) -> bytes:
        """The id of the key to which mail must be sealed."""
        key = PublicStore(self.config.public_dir).lookup(self.user)
        if key is None:
            raise NotEnrolled(
                f"{self.user} is not enrolled", hint=f"run `mailseal enroll {self.user}`"
            )
        return key.key_id

    @property
    def owner(self) -> int:
        """The uid that owns the mail."""
        if self.account.uid is not None:
            return self.account.uid
        return user_ids(self.config.delivery.user, "delivery.user")[0]

    @property
    def folder(self) -> str:
        """Where the mail is: the Maildir, or the home if it is in another format."""
        return self.account.maildir or self.account.home

    def _indexes(self) -> list[str]:
        """Folders of Dovecot's index files that are elsewhere, and not in memory."""
        if self.account.maildir is None:
            return []
        place = Places(self.config).of(self.user)
        control = place.files.control
        return [*place.indexes, *([control] if control and not is_in_memory(control) else ())]

    def changed_since(self, moment: float, marker: str) -> Written:
        """Which files of the user have changed since then (seconds since 1970)."""
        owner = self.owner, user_ids(str(self.owner), "uid")[1]
        roots = [self.folder, *self._indexes()]
        look = functools.partial(_look, roots, moment - _SLACK, marker, self.key_id)
        written = Written()
        for message in crew.run(owner if owner[0] else None, [look]):
            written.sealed += message["sealed"]
            written.foreign += message["foreign"]
            written.clear += message["clear"]
        return written


def new_marker() -> str:
    """A word that occurs nowhere else."""
    return f"marker{secrets.token_hex(12)}"


def test_mail(user: str, marker: str) -> bytes:
    """A mail with the marker in subject and text.  Nobody answers it automatically."""
    return (
        f"From: mailseal doctor <{user}>\r\nTo: <{user}>\r\n"
        f"Subject: Test of mailseal, {marker}\r\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime())}\r\n"
        f"Message-ID: <{marker}@mailseal.invalid>\r\n"
        "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        f"A test mail of `mailseal doctor`; it can be deleted. {marker}\r\n"
    ).encode()


def _look(roots: list[str], moment: float, marker: str, key_id: bytes) -> Iterator[crew.Message]:
    """Runs as the owner of the mail."""
    found = Written()
    for root in roots:
        for folder, _, names in os.walk(root):
            is_mails = os.path.basename(folder) in ("cur", "new")
            for name in names:
                path = os.path.join(folder, name)
                data = _new_content(path, moment, is_mails)
                if data is None:
                    continue
                box = name.startswith(("u.", "m."))
                if marker.encode() in data or (is_mails and not data.startswith(_SEALED)):
                    found.clear.append(path)
                elif is_mails or (box and _SEALED in data):
                    start = data.index(_SEALED)
                    found.sealed += 1
                    if not _is_for(data[start : start + _BOX], key_id):
                        found.foreign.append(path)
    yield {"sealed": found.sealed, "foreign": found.foreign, "clear": found.clear}


def _new_content(path: str, moment: float, is_mail: bool) -> bytes | None:
    """The content of a file that has changed since the moment.

    A mail has the time when it was received: an older one that a login moves to cur/ has another
    st_ctime only.
    """
    try:
        state = os.lstat(path)
        if (state.st_mtime if is_mail else state.st_ctime) < moment:
            return None
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as stream:
        return stream.read(1 << 24) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _is_for(start: bytes, key_id: bytes) -> bool:
    try:
        return key_id in dcrypt.inspect(start).key_ids
    except MailsealError:
        return False
