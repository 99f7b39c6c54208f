# SPDX-License-Identifier: MIT
"""Finds files of Dovecot that contain parts of mails in clear, and removes indexes.

FAILURES
    None: a folder that cannot be read is yielded, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from mailseal.mailbox.exchange import overwrite

HOLDS_TEXT = {
    "dovecot.index.cache": "an index cache, with subjects and addresses",
    ".dovecot.lda-dupes": "a list of Message-IDs (Sieve's `duplicate` and `vacation`)",
    "dovecot.lda-dupes": "a list of Message-IDs (Sieve's `duplicate` and `vacation`)",
    "xapian-indexes": "a full-text index (fts-xapian)",
    "fts-flatcurve": "a full-text index (flatcurve)",
    "lucene-indexes": "a full-text index (lucene)",
    "dovecot.index.search": "a full-text index (squat)",
    "dovecot.index.search.uids": "a full-text index (squat)",
}
"""By name of the file, or of the folder if it is not empty."""

REBUILT = frozenset(HOLDS_TEXT) - {".dovecot.lda-dupes", "dovecot.lda-dupes"}
"""Indexes, which Dovecot can make again from the mails."""

_MAILS = frozenset(("cur", "new", "tmp"))


def search(root: str, *, below: bool = True) -> Iterator[tuple[str, str]]:
    """Path and description of each such file in a folder and below it.  Follows no links."""
    # Not recursive: folders may be nested more deeply than Python permits calls to be.
    waiting = [root]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            yield path, f"cannot be searched: {exc.strerror}"
            continue
        folders = []
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if what := HOLDS_TEXT.get(entry.name):
                if not _is_empty(entry, is_folder):
                    yield entry.path, what
            elif is_folder and below and entry.name not in _MAILS:
                folders.append(entry.path)
        waiting += reversed(folders)


def remove(path: str, *, shred: bool = False) -> bool:
    """Remove an index, with `shred` overwritten first; returns whether all of it was removed.

    Follows no links.  The caller is the owner of the mail, not root.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        if shred:
            for root, _, names in os.walk(path):
                for name in names:
                    _shredded(os.path.join(root, name))
        shutil.rmtree(path, ignore_errors=True)
        return not os.path.lexists(path)
    if shred:
        _shredded(path)
    with contextlib.suppress(OSError):
        os.unlink(path)
    return not os.path.lexists(path)


def _shredded(path: str) -> None:
    with contextlib.suppress(OSError):
        overwrite(path)


def _is_empty(entry: os.DirEntry[str], is_folder: bool) -> bool:
    try:
        return not (os.listdir(entry.path) if is_folder else os.lstat(entry.path).st_size)
    except FileNotFoundError:
        return True
    except OSError:
        return False
