# SPDX-License-Identifier: MIT
"""A private Postfix with its own configuration and queue, and one smtpd on 127.0.0.1.

Its master program is started directly, not with `postfix start`, whose scripts
check the machine's own installation.  It sends no mail to other hosts: mail for
other domains is refused or bounced.

The transport to mailseal is not defined here: the commands on a page of
postfix-conf/ are run with this configuration, as a postmaster would run them.
"""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Mapping

from tests.lab.place import REPOSITORY, LabError, Place
from tests.lab.process import PATIENCE, Address, Server, wait_until

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60    1 pickup
cleanup   unix n - n -     0 cleanup
qmgr      unix n - n 1     1 qmgr
rewrite   unix - - n -     - trivial-rewrite
bounce    unix - - n -     0 bounce
defer     unix - - n -     0 bounce
trace     unix - - n -     0 bounce
verify    unix - - n -     1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -     - proxymap
showq     unix n - n -     - showq
error     unix - - n -     - error
retry     unix - - n -     - error
discard   unix - - n -     - discard
lmtp      unix - - n -     - lmtp
anvil     unix - - n -     1 anvil
scache    unix - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

# Short delays, so that deferred mail is tried again during a test.  But not in the same second: if
# a delivery agent still has the queue file, the queue manager puts it into the incoming queue for
# 60 s (qmgr_active.c).  It looks there only when new mail arrives, or at the interval in master.cf.
_MAIN = """\
compatibility_level = 3.6
queue_directory = {dir}/postfix/queue
data_directory = {dir}/postfix/data
daemon_directory = {daemons}
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = lab.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = {domains}
virtual_mailbox_maps =
default_transport = error:5.1.2 the lab sends nothing to the outside
relay_transport = error:5.1.2 the lab sends nothing to the outside
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_error_sleep_time = 0
message_size_limit = 104857600
mailbox_size_limit = 0
virtual_mailbox_limit = 0
maillog_file = {dir}/log/postfix.log
maillog_file_prefixes = {dir}/log
maximal_queue_lifetime = 1h
bounce_queue_lifetime = 1h
queue_run_delay = 1s
minimal_backoff_time = 2s
maximal_backoff_time = 2s
transport_retry_time = 1s
in_flow_delay = 0
default_process_limit = 30
biff = no
swap_bangpath = no
append_dot_mydomain = no
smtputf8_enable = yes
"""

_QUEUE = [
    "active",
    "bounce",
    "corrupt",
    "defer",
    "deferred",
    "flush",
    "hold",
    "incoming",
    "private",
    "saved",
    "trace",
]


_marks = itertools.count(1)


class Postfix:
    """One private Postfix; `address` is its smtpd."""

    def __init__(
        self,
        place: Place,
        port: int,
        domains: list[str],
        *,
        page: str = "virtual-transport",
        lmtp_socket: str = "/run/mailseal/lmtp.sock",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.config = place.path("postfix", "etc")
        self.address: Address = ("127.0.0.1", port)
        self.log_path = place.path("log", "postfix.log")
        self._data = place.path("postfix", "data")
        self._queue = place.path("postfix", "queue")
        daemons = _setting("daemon_directory", "/usr/lib/postfix/sbin")
        self._make_folders()
        with open(os.path.join(self.config, "main.cf"), "w", encoding="utf-8") as stream:
            stream.write(_MAIN.format(dir=place.dir, daemons=daemons, domains=" ".join(domains)))
        with open(os.path.join(self.config, "master.cf"), "w", encoding="utf-8") as stream:
            stream.write(_MASTER.format(port=port))
        for name, value in (extra or {}).items():
            self.postconf("-e", f"{name} = {value}")
        self.run_page(page, lmtp_socket=lmtp_socket)
        self._server = Server(
            "Postfix",
            [os.path.join(daemons, "master"), "-c", self.config, "-s"],
            place.path("log", "postfix-master.log"),
            env={"MAIL_CONFIG": self.config},
            cwd=self._queue,
        )

    def _make_folders(self) -> None:
        user = pwd.getpwnam("postfix")
        postdrop = grp.getgrnam("postdrop").gr_gid
        for path in (self.config, self._data, self._queue):
            os.makedirs(path, mode=0o755, exist_ok=True)
        os.chown(self._data, user.pw_uid, user.pw_gid)
        for name, mode, uid, gid in (
            *((name, 0o700, user.pw_uid, -1) for name in _QUEUE),
            ("maildrop", 0o730 | 0o1000, user.pw_uid, postdrop),
            ("public", 0o710 | 0o2000, user.pw_uid, postdrop),
            ("pid", 0o755, 0, -1),
        ):
            path = os.path.join(self._queue, name)
            os.makedirs(path, exist_ok=True)
            os.chown(path, uid, gid)
            os.chmod(path, mode)

    def postconf(self, *args: str) -> str:
        """Run postconf with this configuration; returns its output."""
        printed = self._command("postconf", *args)
        # Postfix waits until main.cf is two seconds old, because it could be incomplete.
        for name in ("main.cf", "master.cf"):
            os.utime(os.path.join(self.config, name), (0, 0))
        return printed

    def run_page(self, page: str, part: str = "Run", *, lmtp_socket: str) -> None:
        """Run the postconf commands under a heading of a page in postfix-conf/."""
        for line in page_commands(page, part):
            command = shlex.split(line.replace("/run/mailseal/lmtp.sock", lmtp_socket))
            if command[0] == "postconf":
                self.postconf(*command[1:])

    def start(self) -> None:
        self._server.start(until=[self.address])

    def stop(self) -> None:
        self._server.stop()

    def pids(self) -> list[int]:
        return self._server.pids()

    def queue(self) -> list[str]:
        """The queue ids of the mails in the queue, sorted."""
        listing = self._command("postqueue", "-c", self.config, "-p")
        return sorted(re.findall(r"^([0-9A-F]{6,}|[0-9B-Zb-z]{10,})[*!# ]", listing, re.M))

    def flush(self) -> None:
        """Try to deliver all mails in the queue now."""
        self._command("postqueue", "-c", self.config, "-f")

    def wait_empty(self, *, timeout: float = PATIENCE) -> None:
        """Wait until every mail is delivered or bounced."""
        wait_until(lambda: not self.queue(), "Postfix's queue is empty", timeout=timeout)
        self.wait_logged()

    def wait_logged(self) -> None:
        """Wait until all lines so far are in the log: postlogd writes them in their order."""
        mark = f"mark {next(_marks)}"
        self._command("postlog", "-c", self.config, "-t", "lab", mark)
        wait_until(lambda: f": {mark}\n" in self.log_text(), "postlogd has written all lines")

    def log_text(self) -> str:
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def _command(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MAIL_CONFIG": self.config},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout


def page_commands(page: str, part: str) -> list[str]:
    """The indented lines under `## part` of postfix-conf/PAGE.md."""
    with open(os.path.join(REPOSITORY, "postfix-conf", f"{page}.md"), encoding="utf-8") as stream:
        text = stream.read()
    body = re.search(rf"^## {part}$(.*?)(^## |\Z)", text, re.M | re.S)
    lines = [line.strip() for line in re.findall(r"^    (.+)$", body[1], re.M)] if body else []
    if not lines:
        raise LabError(f"postfix-conf/{page}.md has no commands under {part!r}")
    return lines


def _setting(name: str, otherwise: str) -> str:
    """A compiled-in default of the installed Postfix."""
    done = subprocess.run(["postconf", "-d", "-h", name], capture_output=True, text=True)
    return done.stdout.strip() or otherwise
