# SPDX-License-Identifier: MIT
"""What to change in Dovecot: mailseal's file, and lines for the passdbs and userdbs of the site.

The settings are those of the shipped files (dovecot-conf/), which are included.  In Dovecot 2.4,
blocks with the same name are merged, so no file of the site is changed.  In 2.3 each passdb and
userdb of the site gets a line.

FAILURES
    ConfigError: a file was not understood, or is not safe to change.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets

from mailseal.admin import shipped
from mailseal.admin.dovecot_folders_check import cache_setting
from mailseal.admin.setup.changes import Change, Content, read
from mailseal.admin.setup.dovecot_files import AuthBlock, Tree
from mailseal.admin.setup.stack import Stack
from mailseal.doveconf import Block
from mailseal.errors import ConfigError
from mailseal.paths import open_folder

NAME = "99-mailseal.conf"
CACHE = "/run/mailseal/cache"
CACHE_CONF = "/etc/dovecot/mailseal-cache.conf"
TMPFILES = "/etc/tmpfiles.d/mailseal.conf"
RELAY_USER = "mailseal-lmtp"
"""Runs mailseal-lmtp if each user owns the mail."""

_MARK = "# Written by `mailseal setup`; `mailseal setup --undo` removes it.\n"
_SKIPS = {"passdb": "authenticated", "userdb": "found"}


def owner_of(stack: Stack) -> str:
    """The user that mailseal-lmtp runs as."""
    return stack.owner or RELAY_USER


def changes(stack: Stack) -> list[Change]:
    """In the order in which the files are changed."""
    require_safe(stack)
    ours = os.path.join(os.path.dirname(stack.conf), "conf.d", NAME)
    tree = Tree(stack.conf, ours)
    found = []
    if stack.series == "2.3":
        found += _continued(stack, tree)
    appended = not tree.is_last()
    if appended:
        # There is no conf.d, or something after it has settings of the same names.
        ours = os.path.join(os.path.dirname(stack.conf), NAME)
    name = secrets.token_hex(16)
    if stack.system_users:
        text = f"{_MARK}{_cache(stack, f'{CACHE}/{name}')}\n"
        why = "the index cache, with subjects in clear, is in memory, in a folder nobody can find"
        found.append(_new(CACHE_CONF, text, why, "dovecot", 0o600))
    why = "mailseal's settings, passdb, userdb and listeners, from the shipped files"
    found.append(_new(ours, _main(stack), why, "dovecot"))
    if appended:
        found.append(_included(stack, ours, found))
    return [*_folders(stack, name), *found]


def require_safe(stack: Stack) -> None:
    """The shipped files are read by Dovecot as root: nobody else may be able to change them."""
    folder = os.path.dirname(shipped.include(stack.series, "mailseal").partition(" ")[2])
    for path in (folder, os.path.join(os.path.dirname(folder), "2.4")):
        with open_folder(path) as opened:
            if not opened.own:
                raise ConfigError(
                    f"{path}: other users than root can change mailseal's files for Dovecot",
                    hint="install mailseal with `make install`, or its package",
                )


def _main(stack: Stack) -> str:
    """99-mailseal.conf."""
    series = stack.series
    lines = [_MARK.rstrip()]
    if series == "2.3" and not stack.system_users:
        lines.append(_cache(stack, CACHE))
    lines.append(shipped.include(series, "mailseal"))
    if stack.system_users:
        lines.append(shipped.include(series, "system-users"))
    if series == "2.4":
        for blocks in (stack.passdbs, stack.userdbs):
            for block in blocks:
                lines += [f"{block.kind} {block.name} {{", *_additions(block, blocks), "}"]
    lines += [shipped.include(series, "auth-behind"), shipped.include(series, "lmtp-relay")]
    lines += _listeners(stack)
    lines += _protocols(stack)
    return "".join(f"{line}\n" for line in lines)


def _additions(block: Block, blocks: list[Block]) -> list[str]:
    """The search goes on behind this passdb or userdb; but only one of them is used, as before."""
    lines = ["  result_success = continue-ok"]
    if block is not blocks[0]:
        lines.append(f"  skip = {_SKIPS[block.kind]}")
    return lines


def _cache(stack: Stack, folder: str) -> str:
    return cache_setting(stack.doveconf.settings("imap"), folder)


def _listeners(stack: Stack) -> list[str]:
    """The owner of the sockets, which `make install` has written into the shipped files."""
    user = owner_of(stack)
    lines = []
    for name, service, socket in (
        ("mailseal", "auth", "mailseal-userdb"),
        ("lmtp-relay", "lmtp", "mailseal-relay"),
    ):
        path = shipped.include(stack.series, name).partition(" ")[2]
        with open(path, encoding="utf-8") as stream:
            written = re.search(rf"{socket} \{{[^}}]*?user = (\S+)", stream.read())
        if written is None or written[1] != user:
            lines += [
                f"service {service} {{",
                f"  unix_listener {socket} {{",
                f"    user = {user}",
                "  }",
                "}",
            ]
    if uses_quota_status(stack):
        lines += [
            "service quota-status {",
            "  executable = quota-status -p postfix",
            "  unix_listener mailseal-quota {",
            f"    user = {user}",
            "    mode = 0600",
            "  }",
            "}",
        ]
    return lines


def uses_quota_status(stack: Stack) -> bool:
    """Whether mailseal-lmtp asks for room before it stores a mail itself."""
    return stack.quota == "count" and not relays_all(stack)


def relays_all(stack: Stack) -> bool:
    """Whether Dovecot must deliver the mail of all users: site Sieve, or quotas of other kinds."""
    return stack.site_sieve or stack.quota not in ("", "count")


def _protocols(stack: Stack) -> list[str]:
    """LMTP must run, with what the LDA has done until now."""
    root = stack.settings
    lines = []
    if "lmtp" not in root.get("protocols").split():
        if stack.series == "2.4":
            lines += ["protocols {", "  lmtp = yes", "}"]
        else:
            lines.append(f"protocols = {root.get('protocols')} lmtp")
    if stack.only_lda:
        if stack.series == "2.4":
            names = [f"    {name} = yes" for name in stack.only_lda]
            lines += ["protocol lmtp {", "  mail_plugins {", *names, "  }", "}"]
        else:
            names = ["  mail_plugins = $mail_plugins " + " ".join(stack.only_lda)]
            lines += ["protocol lmtp {", *names, "}"]
    return lines


def _continued(stack: Stack, tree: Tree) -> list[Change]:
    """2.3: a line for each passdb and userdb, in the files in which they are."""
    blocks = tree.auth_blocks()
    for kind, theirs in (("passdb", stack.passdbs), ("userdb", stack.userdbs)):
        mine = [b for b in blocks if b.kind == kind and not _is_apart(b)]
        if [_pair(b.settings) for b in mine] != [_pair(b.settings) for b in theirs]:
            raise ConfigError(
                f"the {kind} blocks in {stack.conf} and its files are not those that doveconf "
                "prints: they were not understood"
            )
    added: dict[str, dict[int, list[str]]] = {}
    seen: set[str] = set()
    for block in blocks:
        if _is_apart(block):
            continue
        lines = ["  result_success = continue-ok"]
        if block.kind in seen:
            lines.append(f"  skip = {_SKIPS[block.kind]}")
        seen.add(block.kind)
        added.setdefault(block.close.path, {})[block.close.number] = lines
    why = "the search goes on behind this passdb and userdb, with mailseal's"
    return [_edited(path, lines, why) for path, lines in added.items()]


def _is_apart(block: AuthBlock) -> bool:
    return block.settings.get("master") == "yes" or block.settings.get("deny") == "yes"


def _pair(settings: dict[str, str]) -> tuple[str, str]:
    return settings.get("driver", ""), settings.get("args", "")


def _edited(path: str, added: dict[int, list[str]], why: str) -> Change:
    """Lines before the lines with these numbers."""
    before = read(path)
    if before is None:
        raise ConfigError(f"{path} does not exist any more")
    lines = before.data.split(b"\n")
    for number, texts in sorted(added.items(), reverse=True):
        lines[number:number] = [text.encode() for text in texts]
    return Change(path, before, dataclasses.replace(before, data=b"\n".join(lines)), why, "dovecot")


def _included(stack: Stack, ours: str, found: list[Change]) -> Change:
    """The line at the end of dovecot.conf; the file may be changed already."""
    earlier = next((one for one in found if one.path == stack.conf), None)
    before = read(stack.conf) if earlier is None else earlier.before
    now = before if earlier is None else earlier.after
    if before is None or now is None:
        raise ConfigError(f"{stack.conf} does not exist any more")
    if earlier is not None:
        found.remove(earlier)
    end = b"" if now.data.endswith(b"\n") or not now.data else b"\n"
    data = now.data + end + f"!include {ours}\n".encode()
    why = "mailseal's file is read after all others"
    if earlier is not None:
        why = f"{earlier.why}; {why}"
    return Change(stack.conf, before, dataclasses.replace(before, data=data), why, "dovecot")


def _folders(stack: Stack, name: str) -> list[Change]:
    """The folders in memory, if they are not those that `make install` has described."""
    if stack.system_users:
        lines = [
            "d /run/mailseal 0755 root root -",
            f"d {CACHE} 0711 root root -",
            f"d {CACHE}/{name} 1733 root root -",
            "d /run/mailseal/tmp 1733 root root -",
        ]
        mode, why = 0o600, "folders in memory; each user has one in a folder nobody can find"
    else:
        if _group_of_tmpfiles() == stack.group:
            return []
        lines = [
            "d /run/mailseal 0755 root root -",
            f"d {CACHE} 0770 root {stack.group} -",
            f"d /run/mailseal/tmp 0770 root {stack.group} -",
        ]
        mode, why = 0o644, f"folders in memory for the group {stack.group}"
    text = "".join(f"{line}\n" for line in lines)
    return [_new(TMPFILES, f"{_MARK}{text}", why, "mailseal", mode)]


def _group_of_tmpfiles() -> str:
    for folder in ("/etc", "/usr/local/lib", "/usr/lib"):
        path = os.path.join(folder, "tmpfiles.d", "mailseal.conf")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as stream:
                found = re.search(rf"^d {CACHE} 0770 root (\S+) -$", stream.read(), re.M)
            return found[1] if found else ""
    return ""


def _new(path: str, text: str, why: str, stage: str, mode: int = 0o644) -> Change:
    if (before := read(path)) is not None:
        raise ConfigError(
            f"{path} exists, and `mailseal setup` has not written it",
            hint="was mailseal set up by hand? then nothing is left to do",
        )
    return Change(path, before, Content(text.encode(), mode, (0, 0)), why, stage)
