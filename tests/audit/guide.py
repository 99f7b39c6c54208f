# SPDX-License-Identifier: MIT
"""Settings of common guides beside mailseal's: compression, quota and its copy for other programs,
virtual mailboxes, mail_log, and a script that learns from mails that are moved (imapsieve).

None of them may put words of mails anywhere else.
"""

from __future__ import annotations

import os

from tests.audit.day import Day
from tests.audit.machine import Setup
from tests.lab.dovecot import installed_version, series
from tests.lab.place import LabError

_DOVECOT = {
    "2.3": """
mail_plugins = $mail_plugins zlib quota quota_clone virtual notify mail_log
protocol imap {
  mail_plugins = $mail_plugins zlib quota quota_clone imap_quota virtual notify mail_log imap_sieve
}
protocol pop3 {
  mail_plugins = $mail_plugins zlib quota quota_clone virtual notify mail_log
}
protocol lmtp {
  mail_plugins = $mail_plugins zlib quota quota_clone virtual notify mail_log
}
protocol indexer-worker {
  mail_plugins = $mail_plugins zlib quota virtual
}
plugin {
  zlib_save = gz
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=1G
  quota_clone_dict = file:@DISK@/quota-clone
  sieve_plugins = sieve_imapsieve sieve_extprograms
  sieve_global_extensions = +vnd.dovecot.pipe
  sieve_pipe_bin_dir = @DISK@/bin
  imapsieve_mailbox1_name = Archive
  imapsieve_mailbox1_causes = COPY APPEND
  imapsieve_mailbox1_before = file:@DISK@/learn.sieve
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
  quota_clone = yes
  virtual = yes
  notify = yes
  mail_log = yes
}
mail_compress_write_method = gz
quota "User quota" {
  quota_storage_size = 1G
}
quota_clone {
  dict file {
    path = @DISK@/quota-clone
  }
}
sieve_plugins {
  sieve_imapsieve = yes
  sieve_extprograms = yes
}
sieve_global_extensions {
  vnd.dovecot.pipe = yes
}
sieve_pipe_bin_dir = @DISK@/bin
protocol imap {
  mail_plugins {
    imap_sieve = yes
  }
}
mail_log_events = delete undelete expunge copy save mailbox_create
mail_log_fields = uid box size flags
namespace inbox {
  separator = /
  mailbox Archive {
    sieve_script learn {
      type = before
      cause {
        copy = yes
        append = yes
      }
      path = @DISK@/learn.sieve
    }
  }
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


_SCRIPT = 'require ["vnd.dovecot.pipe", "copy"];\npipe :copy "learn";\n'
_PROGRAM = '#!/bin/sh\ncat >/dev/null\necho learned >>"${0%/*}/../learned"\n'


class GuideDay(Day):
    """Clients list and search in the virtual mailbox too, and a program learns from moved mail."""

    def _scripts(self) -> None:
        super()._scripts()
        for path, text in (
            ("virtual/All/dovecot-virtual", "*\n  all\n"),
            ("learn.sieve", _SCRIPT),
            ("bin/learn", _PROGRAM),
        ):
            name = self._file(path)
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, "w", encoding="ascii") as stream:
                stream.write(text)
        os.chmod(self._file("bin/learn"), 0o755)

    def _file(self, path: str) -> str:
        return self._lab.place.path("tmp", path)

    def _read(self, user: str, *, move: bool = True) -> None:
        super()._read(user, move=move)
        for name in ("learned", "quota-clone"):
            if not os.path.exists(self._file(name)):
                raise LabError(f"the setting that makes the file {name} has no effect")
        word = self._whose[user].word("body 8bit").encode()
        with self._login(user) as imap:
            imap.select("Virtual/All")
            imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER])")
            imap.command(b'SEARCH BODY "%s"' % word)
            imap.command(b"SORT (SUBJECT) UTF-8 ALL")


def setup() -> Setup:
    """The audit with these settings."""
    return Setup(dovecot=_DOVECOT[series(installed_version())], day=GuideDay)
