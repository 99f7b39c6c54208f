# SPDX-License-Identifier: MIT
"""Dovecot 2.4's configuration language."""

from __future__ import annotations

from tests.lab.dovecot import Wanted, installed_version, snippet

# As in dovecot_23: no delay after wrong passwords.
_SERVER = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = {base_dir}
log_path = {log_path}
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
auth_allow_cleartext = yes
auth_mechanisms = plain login
auth_failure_delay = 0
auth_internal_failure_delay = 0
mail_max_userip_connections = 200
first_valid_uid = 1000
shutdown_clients = yes
mail_driver = maildir
mail_path = ~/Maildir
service imap-login {{
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
namespace inbox {{
  inbox = yes
  mailbox Sent {{
    auto = create
    special_use = \\Sent
  }}
}}
"""

# The passdb and userdb that the files `behind-*` expect and only change.
_PASSWD_FILE = """\
passdb passwd-file {{
  passwd_file_path = {users_file}
}}
userdb passwd-file {{
  passwd_file_path = {users_file}
}}
"""

# The settings that a postmaster adapts to the site: see dovecot_23.
_OURS = """\
service auth {
  unix_listener mailseal-userdb {
    mode = 0777
    user = root
  }
}
service lmtp {
  unix_listener mailseal-relay {
    mode = 0666
    user = root
  }
}
service anvil {
  unix_listener mailseal-anvil {
    mode = 0666
    user = root
  }
}
"""


def configuration(wanted: Wanted) -> str:
    """The complete dovecot.conf: the servers, mailseal's files, and changes for the lab."""
    version = installed_version()
    parts = [
        _SERVER.format(
            base_dir=wanted.base_dir,
            log_path=wanted.log_path,
            imap_port=wanted.imap_port,
            pop3_port=wanted.pop3_port,
        )
    ]
    if wanted.auth in ("passwd-file", "behind-passwd-file"):
        parts.append(_PASSWD_FILE.format(users_file=wanted.users_file))
    if wanted.sealing:
        names = ["mailseal", "lmtp-relay"]
        if wanted.auth not in (None, "passwd-file"):
            names.append(f"auth-{wanted.auth}")
        parts += [snippet(version, name, wanted.places) for name in names]
    parts += [_OURS, wanted.extra]
    return "\n".join(parts)
