# SPDX-License-Identifier: MIT
"""What in this machine's Dovecot configuration would undo the sealing: asked of doveconf(1).

FAILURES
    None: without doveconf, or where it will not answer, nothing is known and
    nothing is said.
"""

from __future__ import annotations

import os
import subprocess


def warnings() -> list[str]:
    """Sentences for people; empty if nothing is wrong, or nothing can be told."""
    found = []
    for protocol in ("imap", "pop3", "lmtp"):
        plugins = _doveconf("-f", f"protocol={protocol}", "-h", "mail_plugins")
        if plugins is not None and "mail_crypt" not in plugins:
            found.append(
                f"Dovecot does not load mail_crypt in protocol {protocol}: sealed mail cannot be "
                "read there, and new mail would be stored in clear; see mailseal.conf in "
                "dovecot-conf"
            )
    if "checkpassword" in (_doveconf("passdb") or "") and _doveconf("-h", "auth_debug") == "yes":
        found.append(
            "auth_debug is on: Dovecot 2.3 logs what mailseal-checkpassword answers, keys and all; "
            "turn it off, or use the -lua snippets of dovecot-conf/2.3"
        )
    return found


def _doveconf(*arguments: str) -> str | None:
    path = f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin"
    try:
        done = subprocess.run(
            ["doveconf", *arguments],
            capture_output=True,
            timeout=10,
            check=True,
            env={"PATH": path},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()
