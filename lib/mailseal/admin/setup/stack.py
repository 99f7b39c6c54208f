# SPDX-License-Identifier: MIT
"""Finds what a mail server uses: user database, mail store, delivery, Sieve, quota.

What mailseal cannot be set up for is in `cannot`, each with its reason.  Nothing is changed.

FAILURES
    TemporaryError, ConfigError, DoveconfError: the settings cannot be read.
"""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import re
import subprocess
from collections.abc import Callable
from typing import Any

from mailseal.admin import dovecot_check, dovecot_folders_check, dovecot_format_check, shipped
from mailseal.admin.doctor import sieve
from mailseal.admin.setup import machine
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.location import Account, maildir_of
from mailseal.delivery.dovecot.userdb import DovecotUserdb
from mailseal.doveconf import Block, Doveconf, search_path
from mailseal.errors import ConfigError, TemporaryError

PASSWORDS = ("sql", "ldap", "passwd-file", "pam")
"""Drivers of passdbs behind which mailseal can be."""

USERS = ("sql", "ldap", "passwd-file", "passwd", "static", "prefetch")
_LUA = "/usr/lib/dovecot/modules/auth/libauthdb_lua.so"
_LMTP = "/usr/lib/dovecot/lmtp"
_QUOTA_COUNTS = ("", "count")


@dataclasses.dataclass
class Stack:
    """What was found.

    series        Dovecot's version, 2.3 or 2.4
    conf          Dovecot's configuration file
    base_dir      the folder of Dovecot's sockets
    user          a user whose mail location was looked up
    owner, group  of the mail; empty if each user owns the mail
    system_users  users have accounts on the machine
    site_sieve    there are Sieve scripts for all users, or scripts not in files
    only_lda      plugins of protocol lda, which delivers now, that protocol lmtp does not load
    quota         "": none; "count": quota-status knows it; else only Dovecot counts it
    full_waits    mail for a full mailbox is deferred; else it is refused
    """

    series: str
    conf: str
    base_dir: str
    doveconf: Doveconf
    passdbs: list[Block]
    userdbs: list[Block]
    user: str = ""
    account: Account | None = None
    owner: str = ""
    group: str = ""
    system_users: bool = False
    maildir: str = ""
    sieve_script: str | None = None
    site_sieve: bool = False
    only_lda: tuple[str, ...] = ()
    quota: str = ""
    full_waits: bool = False
    cannot: list[str] = dataclasses.field(default_factory=list)

    @property
    def settings(self) -> Block:
        """All of Dovecot's settings."""
        return self.doveconf.settings()

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "dovecot": self.series,
            "configuration": self.conf,
            "passdb": [block.driver for block in self.passdbs],
            "userdb": [block.driver for block in self.userdbs],
            "auth_username_format": self.settings.get("auth_username_format"),
            "looked_up": self.user,
            "owner": self.owner or "each user",
            "maildir": self.maildir,
            "sieve": "site" if self.site_sieve else self.sieve_script,
            "quota": self.quota or None,
        }


def find(user: str | None) -> Stack:
    """Look at the running Dovecot.  `user`: whose mail location to look up; None: the first one."""
    doveconf = Doveconf()
    root = doveconf.settings()
    conf = _configuration_file()
    passdbs = [b for b in root.all("passdb") if b.get("master") != "yes" and b.get("deny") != "yes"]
    # Dovecot 2.4 does not print it among all settings.
    base = machine.output("doveconf", "-h", "base_dir").strip()
    stack = Stack(shipped.series(root), conf, base, doveconf, passdbs, list(root.all("userdb")))
    _packages(stack)
    _running(stack)
    _auth(stack)
    if not stack.cannot:
        _mail(stack, user)
        _scripts(stack)
        _quota(stack)
        found = [*dovecot_format_check.findings(doveconf), *dovecot_folders_check.shared(doveconf)]
        stack.cannot += [one.text for one in found]
    return stack


def _configuration_file() -> str:
    first = machine.output("doveconf", "-n").partition("\n")[0]
    found = re.fullmatch(r"# \S+ \(\S+\): (/.*)", first)
    if not found:
        raise ConfigError(f"doveconf does not say which file it reads: {first}")
    return found[1]


def _packages(stack: Stack) -> None:
    if not os.path.exists(_LUA):
        stack.cannot.append(
            "Dovecot cannot use Lua scripts: run `apt-get install dovecot-auth-lua lua-socket`"
        )
    if not os.path.exists(_LMTP):
        stack.cannot.append("Dovecot has no LMTP: run `apt-get install dovecot-lmtpd`")


def _running(stack: Stack) -> None:
    """The running Dovecot must be the one whose configuration was read, and the only one."""
    link = os.path.join(stack.base_dir, "dovecot.conf")
    if os.path.realpath(link) != os.path.realpath(stack.conf):
        stack.cannot.append(
            f"Dovecot does not run with {stack.conf}: start it with `systemctl start dovecot`"
        )
    listed = machine.output("doveadm", "instance", "list").splitlines()[1:]
    if sum(line.split()[-1:] == ["yes"] for line in listed) > 1:
        stack.cannot.append(
            "several instances of Dovecot are running: see docs/install.md, and set each one up "
            "by hand"
        )


def _auth(stack: Stack) -> None:
    root, cannot = stack.settings, stack.cannot
    for block in (*stack.passdbs, *stack.userdbs):
        known = PASSWORDS if block.kind == "passdb" else USERS
        if "mailseal" in f"{block.name} {block.get('args')} {block.get('lua_file')}":
            cannot.append(
                "Dovecot uses mailseal already, by lines that `mailseal setup` has not written"
            )
            return
        if block.driver not in known:
            cannot.append(
                f"the {block.kind} {block.driver} is not one of {', '.join(known)}: see "
                "docs/install.md, 5. Dovecot"
            )
        for name in ("result_success", "result_failure", "result_internalfail", "skip"):
            usual = {"result_success": "return-ok", "skip": "never"}.get(name, "continue")
            value = block.get(name) or root.get(f"{block.kind}_{name}") or usual
            if value != usual:
                cannot.append(f"the {block.kind} {block.driver} has {name} = {value}")
        if block.get("pass") == "yes":
            cannot.append(f"the {block.kind} {block.driver} has pass = yes")
    for kind, blocks in (("passdb", stack.passdbs), ("userdb", stack.userdbs)):
        if not blocks:
            cannot.append(f"Dovecot has no {kind}: see docs/install.md, 5. Dovecot")
    format_ = root.get("auth_username_format")
    if not re.search(r"%L|%\{L|\blower\b", format_):
        cannot.append(
            f'auth_username_format is "{format_}", which does not convert user names to lower '
            "case: use %Lu (2.3) or %{user | lower} (2.4)"
        )
    stack.system_users = any(block.driver == "passwd" for block in stack.userdbs)


def _mail(stack: Stack, user: str | None) -> None:
    """Owner and location, of a user in the user database."""
    stack.user = user or _first_user()
    if not stack.user:
        stack.cannot.append(
            "Dovecot's user database lists no users: name one with `--user ADDRESS`, whose owner "
            "and mail location are looked up"
        )
        return
    path = os.path.join(stack.base_dir, "auth-userdb")
    socket = dataclasses.replace(Config().dovecot, userdb_socket=path)
    site = settings.account_fields(stack.settings)
    source = DovecotUserdb(dataclasses.replace(Config(), dovecot=socket), site)
    account = source.lookup(stack.user)
    if account is None:
        stack.cannot.append(f"Dovecot's user database does not know {stack.user}")
        return
    stack.account = account
    fields = {**settings.inbox_fields(stack.doveconf), **account.extra}
    location = fields.get("mail") or fields.get("mail_path") or ""
    if not (fields.get("mail") or fields.get("mail_driver")):
        stack.cannot.append(
            "Dovecot detects the mail location of each user: set it, for example "
            "mail_location = maildir:~/Maildir (2.3)"
        )
    elif (maildir := maildir_of(fields, account.user, account.home, "")) is None:
        stack.cannot.append(
            f"the mail of {stack.user} is not in a Maildir ({location}): see docs/sealing.md, Mail "
            "in sdbox and mdbox"
        )
    else:
        stack.maildir = maildir
    own = account.extra.get("mail", "").upper()
    if stack.series == "2.3" and own and "INDEXCACHE=" not in own and ":INDEX=MEMORY" not in own:
        stack.cannot.append(
            f"the user database returns the mail location {location}, whose index cache would be "
            "on the disk, with subjects in clear: add :INDEXCACHE=/run/mailseal/cache/%u there"
        )
    inbox = next((b for b in stack.settings.all("namespace") if b.get("inbox") == "yes"), Block())
    if inbox.get("location"):
        stack.cannot.append(
            "the namespace of INBOX has a location of its own: use mail_location, or add "
            ":INDEXCACHE=/run/mailseal/cache/%u there and see docs/install.md"
        )
    if not stack.system_users:
        _owner(stack, account)


def _first_user() -> str:
    """One user, not nobody(8); a long list is not read to its end."""
    command = ["doveadm", "user", "*"]
    environment = {"PATH": search_path()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        assert child.stdout is not None  # noqa: S101
        names = (line.decode("utf-8", "replace").strip() for line in child.stdout)
        name = next((name for name in names if name != "nobody"), "")
        child.kill()
    return name


def _owner(stack: Stack, account: Account) -> None:
    """By the userdb, else by mail_uid and mail_gid."""
    root = stack.settings
    uid = _id(str(account.uid or root.get("mail_uid")), lambda name: pwd.getpwnam(name).pw_uid)
    if not uid:
        stack.cannot.append(f"who owns the mail of {stack.user} is not known, or it is root")
        return
    try:
        entry = pwd.getpwuid(uid)
        gid = account.extra.get("gid") or root.get("mail_gid") or str(entry.pw_gid)
        number = _id(gid, lambda name: grp.getgrnam(name).gr_gid)
        stack.owner, stack.group = entry.pw_name, grp.getgrgid(number or entry.pw_gid).gr_name
    except KeyError:
        stack.cannot.append(f"uid {uid} or its group has no name on this machine: add it")
        return
    if number != entry.pw_gid:
        stack.cannot.append(
            f"mail belongs to the group {stack.group}, which is not the group of {stack.owner} in "
            "/etc/passwd"
        )


def _id(name: str, look: Callable[[str], int]) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return look(name)
    except KeyError:
        return None


def _scripts(stack: Stack) -> None:
    doveconf = stack.doveconf
    lda, lmtp = doveconf.plugins("lda"), doveconf.plugins("lmtp")
    loads = next((name for name in ("lmtp", "lda") if "sieve" in doveconf.plugins(name)), None)
    if loads:
        stack.sieve_script = sieve.active(doveconf.settings(loads), stack.series)
        stack.site_sieve = stack.sieve_script is None or bool(
            dovecot_check.site_scripts(doveconf, loads)
        )
    # LMTP has no keys for full-text search.
    stack.only_lda = tuple(sorted(name for name in lda - lmtp if not name.startswith("fts")))


def _quota(stack: Stack) -> None:
    """The backend of 2.3 is before the first colon; 2.4 has a setting."""
    doveconf = stack.doveconf
    if "quota" not in doveconf.plugins("lmtp") | doveconf.plugins("lda"):
        return
    found = doveconf.settings("lmtp")
    kinds = {
        value.partition(":")[0]
        for plugin in found.all("plugin")
        for name, value in plugin.settings.items()
        if re.fullmatch(r"quota\d*", name)
    }
    kinds |= {block.get("driver") or found.get("quota_driver") for block in found.all("quota")}
    stack.quota = "count" if all(kind in _QUOTA_COUNTS for kind in kinds) else ", ".join(kinds)
    stack.full_waits = any(
        doveconf.settings(name).get("quota_full_tempfail") == "yes" for name in ("lmtp", "lda")
    )


def require(stack: Stack) -> Account:
    """The account; it is there if nothing is in `cannot`."""
    if stack.account is None:
        raise TemporaryError(f"Dovecot's user database does not know {stack.user}")
    return stack.account
