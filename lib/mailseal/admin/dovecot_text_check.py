# SPDX-License-Identifier: MIT
"""Checks settings with which Dovecot writes parts of mails in clear to other places, such as logs.

The index cache and mail formats are checked in other modules.  `make audit` shows whether a check
is missing here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.finding import Finding, error, warning
from mailseal.admin.mail_place import is_in_memory
from mailseal.config import Config
from mailseal.doveconf import Block, Doveconf

# Variables of deliver_log_format: %m %s %f %e of 2.3, with their long names; names of 2.4.
_LOGGED = re.compile(r"%[-.0-9]*[msfe](?!\w*\})|%\{(?:msgid|subject|from|from_envelope)\b")
_FIELDS = {"subject", "from", "msgid"}
_RAWLOGS = ("rawlog_dir", "lmtp_rawlog_dir", "lmtp_proxy_rawlog_dir", "submission_relay_rawlog_dir")


def findings(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """All findings about such settings."""
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "pop3", "lmtp", "lda"):
        if protocol in running or protocol == "lda":
            yield from _settings(protocol, doveconf.settings(protocol))
    yield from _namespaces(doveconf.settings("imap"))
    yield from _exporters(doveconf.settings())
    yield from _search(config, doveconf)


def _settings(protocol: str, settings: Block) -> Iterator[Finding]:
    folder = settings.get("mail_temp_dir")
    if folder and not _in_memory(folder):
        yield error(
            f"Dovecot's mail_temp_dir is {folder} in protocol {protocol}: mails over 8 KB are "
            "written there in clear, to the disk; use /run/mailseal/tmp, see mailseal.conf in "
            "dovecot-conf",
            shipped.put("mail_temp_dir = /run/mailseal/tmp"),
        )
    message = "%{message}" if shipped.series(settings) == "2.4" else "%$"
    if protocol in ("lmtp", "lda") and _LOGGED.search(settings.get("deliver_log_format")):
        yield warning(
            f"Dovecot's deliver_log_format in protocol {protocol} writes Message-IDs, senders or "
            "subjects to the log; see mailseal.conf in dovecot-conf",
            shipped.put(f"deliver_log_format = {message}"),
        )
    for name in _RAWLOGS:
        if value := settings.get(name):
            yield error(f"Dovecot's {name} is {value}: complete mails are logged there in clear")
    fields = settings.get("mail_log_fields")
    fields += " ".join(plugin.get("mail_log_fields") for plugin in settings.all("plugin"))
    fields += " ".join(name for block in settings.all("mail_log_fields") for name in block.settings)
    if logged := sorted(_FIELDS & set(fields.replace(",", " ").split())):
        yield warning(f"Dovecot's mail_log_fields writes {', '.join(logged)} of mails to the log")


def _namespaces(settings: Block) -> Iterator[Finding]:
    """2.3: virtual mailboxes have a separate index cache."""
    for namespace in settings.all("namespace"):
        location = namespace.get("location")
        if not location.startswith("virtual:") or "INDEXCACHE=" in location.upper():
            continue
        if ":INDEX=MEMORY" in location.upper() or namespace.get("disabled") == "yes":
            continue
        yield warning(
            f"Dovecot's namespace with the prefix {namespace.get('prefix')!r} has virtual "
            "mailboxes, with parts of mails in clear in their index cache: add "
            ":INDEXCACHE=/run/mailseal/cache/%u/virtual to its location"
        )


def _exporters(settings: Block) -> Iterator[Finding]:
    for exporter in settings.all("event_exporter"):
        yield warning(
            f"Dovecot exports events with event_exporter {exporter.name}: events of deliveries "
            "contain subjects and senders"
        )


def _search(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Full-text search: the programs that use the agent's socket, and logs of its answers."""
    path = config.agent.indexer_socket
    for protocol in ("imap", "lmtp", "lda", "doveadm"):
        if path and doveconf.settings(protocol).get("auth_socket_path") == path:
            yield error(
                f"Dovecot's auth_socket_path in protocol {protocol} is the agent's socket for the "
                "indexer, which gives keys to indexer-worker only; see fts.conf in dovecot-conf"
            )
    if path is None:
        if "fts" in doveconf.plugins("imap"):
            yield warning(
                "Dovecot loads the plugin fts, but agent.indexer_socket is not set: the indexer "
                "has no keys of enrolled users, and logs errors; see docs/search.md"
            )
        return
    settings = doveconf.settings("indexer-worker")
    if settings.get("auth_socket_path") != path:
        yield error(
            "agent.indexer_socket is set, but auth_socket_path in Dovecot's protocol "
            "indexer-worker is different: sealed mail is not indexed; see fts.conf in dovecot-conf"
        )
    service = next((b for b in settings.all("service") if b.name == "indexer-worker"), Block())
    if service.get("user") not in ("", "root"):
        yield error(
            f"Dovecot's service indexer-worker has user = {service.get('user')}: the agent gives "
            "keys to root only; remove the setting"
        )
    if settings.get("log_debug") or settings.get("mail_debug") == "yes":
        yield error(
            "Dovecot's log_debug or mail_debug is set for indexer-worker: it writes the keys of "
            "users to the log, with their passwords; see docs/search.md"
        )
    decoders = [settings.get("fts_decoder_driver")]
    decoders += [p.get("fts_decoder") or p.get("fts_tika") for p in settings.all("plugin")]
    if decoder := next(filter(None, decoders), ""):
        yield warning(
            f"Dovecot gives attachments in clear to the program {decoder} (fts_decoder): data "
            "that this program writes to the disk are not protected"
        )


def _in_memory(folder: str) -> bool:
    """Also of a folder that is made later.  /run is a tmpfs wherever systemd is."""
    if "%" in folder or folder.startswith("/run/"):
        return True
    while not os.path.exists(folder) and folder not in ("", "/"):
        folder = os.path.dirname(folder)
    return is_in_memory(folder)
