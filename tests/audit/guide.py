# SPDX-License-Identifier: MIT
"""Settings of common guides beside mailseal's: compression, quota, virtual mailboxes, mail_log.

None of them may put words of mails anywhere else.
"""

from __future__ import annotations

import os

from tests.audit.day import Day
from tests.audit.machine import Setup
from tests.lab.dovecot import installed_version, series

_DOVECOT = {
    "2.3": """
mail_plugins = $mail_plugins zlib quota virtual notify mail_log
protocol imap {
  mail_plugins = $mail_plugins zlib quota imap_quota virtual notify mail_log
}
protocol pop3 {
  mail_plugins = $mail_plugins zlib quota virtual notify mail_log
}
protocol lmtp {
  mail_plugins = $mail_plugins zlib quota virtual notify mail_log
}
protocol indexer-worker {
  mail_plugins = $mail_plugins zlib quota virtual
}
plugin {
  zlib_save = gz
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=1G
  mail_log_events = delete undelete expunge copy save mailbox_create
  mail_log_fields = uid box size flags
}
namespace inbox {
  separator = /
}
namespace virtual {
  prefix = Virtual/
  separator = /
  location = virtual:@DISK@/virtual:INDEX=~/virtual:INDEXCACHE=@TMPFS@/cache/%u/virtual
}
""",
    "2.4": """
mail_plugins {
  mail_compress = yes
  quota = yes
  virtual = yes
  notify = yes
  mail_log = yes
}
mail_compress_write_method = gz
quota "User quota" {
  quota_storage_size = 1G
}
mail_log_events = delete undelete expunge copy save mailbox_create
mail_log_fields = uid box size flags
namespace inbox {
  separator = /
}
namespace virtual {
  prefix = Virtual/
  separator = /
  mail_driver = virtual
  mail_path = @DISK@/virtual
  mail_index_path = ~/virtual
}
""",
}


class GuideDay(Day):
    """Clients list and search in the virtual mailbox too."""

    def _scripts(self) -> None:
        super()._scripts()
        folder = self._lab.place.path("tmp", "virtual", "All")
        os.makedirs(folder)
        with open(os.path.join(folder, "dovecot-virtual"), "w", encoding="ascii") as stream:
            stream.write("*\n  all\n")

    def _read(self, user: str, *, move: bool = True) -> None:
        super()._read(user, move=move)
        word = self._whose[user].word("body 8bit").encode()
        with self._login(user) as imap:
            imap.select("Virtual/All")
            imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER])")
            imap.command(b'SEARCH BODY "%s"' % word)
            imap.command(b"SORT (SUBJECT) UTF-8 ALL")


def setup() -> Setup:
    """The audit with these settings."""
    return Setup(dovecot=_DOVECOT[series(installed_version())], day=GuideDay)
