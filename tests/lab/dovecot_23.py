# SPDX-License-Identifier: MIT
"""Dovecot 2.3's configuration language."""

from __future__ import annotations

from tests.lab.dovecot import Wanted, installed_version, snippet

# auth_failure_delay and the penalty service delay wrong passwords, which only takes time
# in a test.
_SERVER = """\
base_dir = {base_dir}
log_path = {log_path}
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
mail_max_userip_connections = 200
first_valid_uid = 1000
shutdown_clients = yes
mail_location = maildir:~/Maildir{index_cache}
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

# The settings that a postmaster adapts to the site.  The uids have no names here, and
# listeners need names in `user`; but the folder of the sockets belongs to the lab.
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

_PASSWD_FILE = """\
passdb {{
  driver = passwd-file
  args = {users_file}
}}
userdb {{
  driver = passwd-file
  args = {users_file}
}}
"""

# 2.3 passes no settings to Lua.
_LUA = """\
import_environment = $import_environment MAILSEAL_SOCKET={socket} MAILSEAL_PUBLIC={public}
"""


def configuration(wanted: Wanted) -> str:
    """The complete dovecot.conf: the servers, mailseal's files, and changes for the lab."""
    version = installed_version()
    index_cache = (
        f":INDEXCACHE={wanted.place.quick_path('cache')}/%u%{{userdb:mailseal_index}}"
        if wanted.sealing
        else ""
    )
    parts = [
        _SERVER.format(
            index_cache=index_cache,
            base_dir=wanted.base_dir,
            log_path=wanted.log_path,
            imap_port=wanted.imap_port,
            pop3_port=wanted.pop3_port,
        )
    ]
    if wanted.sealing:
        names = ["mailseal", "lmtp-relay"]
        if wanted.auth and wanted.auth != "passwd-file":
            names.append(f"auth-{wanted.auth}")
        parts.append(
            _LUA.format(
                socket=wanted.place.quick_path("agent.sock"),
                public=wanted.place.path("state", "public"),
            )
        )
        parts += [snippet(version, name, wanted.places) for name in names]
    if wanted.auth == "passwd-file":
        parts.append(_PASSWD_FILE.format(users_file=wanted.users_file))
    parts += [_OURS, wanted.extra]
    return "\n".join(parts)
