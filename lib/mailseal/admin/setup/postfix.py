# SPDX-License-Identifier: MIT
"""What to change in Postfix, so that it delivers to mailseal-lmtp.

The commands are those of postfix-conf/: they run in a copy of Postfix's configuration, so the new
files are known before anything is changed.

FAILURES
    TemporaryError: a command failed.  What does not fit is appended to a list.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import tempfile

from mailseal import durable
from mailseal.admin.doctor.postconf import Postconf
from mailseal.admin.setup import machine
from mailseal.admin.setup.changes import Change, Content, read

SOCKET = "/run/mailseal/lmtp.sock"

_LDA = re.compile(r"argv=\S*/(dovecot-lda|deliver)\b")
_MAP = re.compile(r"(?:[^\s,{}]|\{[^{}]*\})+")
_HERE = re.compile(r"(unix:.+|(inet:)?(127\.0\.0\.1|\[127\.0\.0\.1\]|localhost|\[::1\])(:\w+)?)")


@dataclasses.dataclass
class Postfix:
    """What was found, and what to change.

    setting    the one that is changed: virtual_transport, mailbox_transport or transport_maps
    before     its value; "" if it is not set
    lda        Dovecot's LDA delivers now
    commands   as people would type them
    changes    main.cf and master.cf
    """

    folder: str
    setting: str
    before: str
    lda: bool
    commands: list[str]
    changes: list[Change]
    cannot: list[str]


def find(postfix: Postconf, user: str, *, system_users: bool) -> Postfix:
    """Look at the running Postfix.  `user`: as stack.py has found it."""
    main = postfix.main
    found = Postfix(main["config_directory"], "", "", False, [], [], [])
    if postfix.folder is None and main.get("multi_instance_directories"):
        found.cannot.append(
            "there are several instances of Postfix: name the one that delivers mail with "
            "`--postfix-config DIR`"
        )
        return found
    if any(service.name.startswith("mailseal") for service in postfix.services):
        found.cannot.append(
            "Postfix has a service mailseal in master.cf already, which `mailseal setup` has not "
            "made"
        )
    domains = main.get("virtual_mailbox_domains", "")
    local = system_users or not domains
    found.setting = "mailbox_transport" if local else "virtual_transport"
    found.before = main.get(found.setting, "")
    _understand(postfix, found)
    if local:
        _local(main, found)
    _maps(postfix, found, user)
    if found.cannot:
        return found
    found.commands = [
        "postconf -M 'mailseal/unix = mailseal unix - - n - - lmtp'",
        "postconf -P 'mailseal/unix/lmtp_line_length_limit=0'",
        "postconf -P 'mailseal/unix/lmtp_send_xforward_command=yes'",
        f"postconf -e '{found.setting} = mailseal:unix:{SOCKET}'",
    ]
    found.changes += _changed(found)
    return found


def _understand(postfix: Postconf, found: Postfix) -> None:
    """Whether the present transport delivers to Dovecot, or into the Maildir."""
    value = found.before
    name, _, place = value.partition(":")
    if value in ("", "virtual", "virtual:"):
        return
    service = next((s for s in postfix.services if s.name == name and s.kind == "unix"), None)
    if service is not None and service.command == "lmtp" and _HERE.fullmatch(place):
        return
    if service is not None and service.command == "pipe":
        found.lda = bool(_LDA.search(postfix.run("postconf", "-M", f"{name}/unix")))
        if found.lda:
            return
        found.cannot.append(
            f"Postfix delivers with {found.setting} = {value}, a program that is not Dovecot's "
            "LDA: its work would not be done any more"
        )
        return
    found.cannot.append(
        f"Postfix delivers with {found.setting} = {value}, which is not a Dovecot on this machine"
    )


def _local(main: dict[str, str], found: Postfix) -> None:
    """local(8): programs that deliver instead of Dovecot."""
    command = main.get("mailbox_command", "")
    if found.before:
        pass  # mailbox_command is not used
    elif re.search(r"/(dovecot-lda|deliver)\b", command):
        found.lda = True
    elif command:
        found.cannot.append(
            f"Postfix delivers with mailbox_command = {command}, which would not run any more"
        )
    for name in ("mailbox_transport_maps", "mailbox_command_maps"):
        if main.get(name):
            found.cannot.append(f"Postfix has {name} = {main[name]}, which was not understood")


def _maps(postfix: Postconf, found: Postfix, user: str) -> None:
    """A transport map takes precedence over the setting."""
    domain = user.partition("@")[2]
    for name in _MAP.findall(postfix.main.get("transport_maps", "")):
        for key in filter(None, (user, domain, "*")):
            value = machine.looked_up("postmap", "-c", found.folder, "-q", key, name)
            if value is not None:
                found.cannot.append(
                    f"Postfix's transport_maps delivers {key} with {value}, whatever "
                    f"{found.setting} is: remove the entry, or let it return "
                    f"mailseal:unix:{SOCKET} by hand, see postfix-conf/transport-map.md"
                )
                return


def _changed(found: Postfix) -> list[Change]:
    """Run the commands in a copy."""
    names = ("master.cf", "main.cf")
    whys = {
        "master.cf": "the transport `mailseal`: lmtp(8) without a chroot, which does not break "
        "long lines and sends queue ids",
        "main.cf": f"mail is delivered to mailseal-lmtp; {found.setting} is "
        f"{found.before or 'not set'} now",
    }
    before: dict[str, Content] = {}
    for name in names:
        content = read(os.path.join(found.folder, name))
        if content is None:
            found.cannot.append(f"{found.folder}/{name} does not exist")
            return []
        before[name] = content
    changes = []
    with tempfile.TemporaryDirectory(prefix="mailseal-setup-") as copy:
        for name, content in before.items():
            durable.create(os.path.join(copy, name), content.data, mode=0o600)
        for line in found.commands:
            words = shlex.split(line)
            machine.output(words[0], "-c", copy, *words[1:])
        machine.output("postconf", "-c", copy, "-n")
        for name, content in before.items():
            with open(os.path.join(copy, name), "rb") as stream:
                after = dataclasses.replace(content, data=stream.read())
            path = os.path.join(found.folder, name)
            changes.append(Change(path, content, after, whys[name], "postfix"))
    return changes
