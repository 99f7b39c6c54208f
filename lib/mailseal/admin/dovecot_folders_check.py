# SPDX-License-Identifier: MIT
"""Checks places where Dovecot could write mail in clear: the index cache and shared folders.

dovecot.index.cache contains subjects and addresses in clear.  If a user saves a mail in
another user's folder, Dovecot seals it with the wrong key or not at all, so ACLs must
not let anybody save there (shared-folders.conf in dovecot-conf).  `mailseal enroll` refuses
while they do: see require().
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.doveconf import Block, Doveconf, DoveconfError
from mailseal.errors import TemporaryError

_INSERT, _POST = "i", "p"


def findings(doveconf: Doveconf) -> Iterator[Finding]:
    """Findings about the index cache and shared folders."""
    yield from _index_cache(doveconf)
    yield from shared(doveconf)


def shared(doveconf: Doveconf) -> Iterator[Finding]:
    """Findings about folders of other users."""
    for namespace in _of_others(doveconf):
        try:
            why = _may_save(doveconf, namespace)
        except OSError as exc:
            why = f"{exc.filename} cannot be read: {exc.strerror}"
        if why:
            yield error(_sentence(namespace, why))


def require(config: Config) -> None:
    """Raise TemporaryError if a user may save in the folders of another one.

    Returns if Dovecot's settings are not known here, or may not be read.
    """
    doveconf = settings.of_running(config)
    if doveconf is None:
        return
    with contextlib.suppress(DoveconfError, PermissionError):
        for namespace in _of_others(doveconf):
            try:
                why = _may_save(doveconf, namespace)
            except FileNotFoundError as exc:
                why = f"{exc.filename} does not exist"
            if why:
                raise TemporaryError(
                    f"nobody can be enrolled: {_sentence(namespace, why)}",
                    hint="change Dovecot's settings, then run `mailseal check-config`",
                )


def _of_others(doveconf: Doveconf) -> Iterator[Block]:
    """The namespaces with folders of other users."""
    for namespace in doveconf.settings("imap").all("namespace"):
        if namespace.get("type") in ("shared", "public") and namespace.get("disabled") != "yes":
            yield namespace


def _index_cache(doveconf: Doveconf) -> Iterator[Finding]:
    """Whether the index cache has a separate location.  Not checked: whether that is on tmpfs."""
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "lmtp"):
        found = doveconf.settings(protocol)
        if protocol not in running or found.get("mail_cache_path"):
            continue
        location = found.get("mail_location")
        if "INDEXCACHE=" in location.upper():
            continue
        # of 2.3, of 2.4
        wrong = "mail_location has no INDEXCACHE" if location else "mail_cache_path is empty"
        yield warning(
            f"Dovecot's {wrong} in protocol {protocol}: dovecot.index.cache, with subjects and "
            "addresses of sealed mails in clear, is stored with the mail; see the index cache in "
            "mailseal.conf of dovecot-conf",
            shipped.put(cache_setting(found, "/run/mailseal/cache")),
        )
        return


def cache_setting(found: Block, folder: str) -> str:
    """The setting that puts the index cache into this folder."""
    if shipped.series(found) == "2.4":
        return f"mail_cache_path = {folder}/%{{user}}"
    words = found.get("mail_location").split(":")
    location = ":".join(word for word in words if not word.upper().startswith("INDEXCACHE="))
    return f"mail_location = {location}:INDEXCACHE={folder}/%u"


def _may_save(doveconf: Doveconf, namespace: Block) -> str:
    """Why the ACLs do not prevent saving in this namespace; empty if they do.  Raises OSError."""
    prefix = namespace.get("prefix")
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "lmtp", "lda"):
        if protocol not in running and protocol != "lda":
            continue
        if "acl" not in doveconf.plugins(protocol):
            return f"the plugin acl is not loaded in protocol {protocol}"
    path = _global_acls(doveconf.settings("imap"))
    if not path:
        return "there is no file of global ACLs"
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines()
    if any(_forbids(line, prefix) for line in lines):
        return ""
    pattern = re.sub(r"(%%?\{?\w+\}?|\$\w+).*", "*", prefix)
    pattern = pattern if pattern.endswith("*") else f"{pattern}*"
    return f"{path} needs the line `{pattern} -anyone ip`"


def _sentence(namespace: Block, why: str) -> str:
    return (
        f"Dovecot has a {namespace.get('type')} namespace with the prefix "
        f"{namespace.get('prefix')}, where users may save mail into folders of other users, in "
        "clear or with a key that the owner does not have: "
        f"{why}; see shared-folders.conf in dovecot-conf"
    )


def _global_acls(found: Block) -> str:
    """The path of the global ACL file; 2.3 has it in `plugin { acl = vfile:PATH:… }`."""
    if path := found.get("acl_global_path"):
        return path
    for plugin in found.all("plugin"):
        driver, _, rest = plugin.get("acl").partition(":")
        if driver == "vfile":
            return rest.partition(":")[0]
    return ""


def _forbids(line: str, prefix: str) -> bool:
    """Whether the line revokes the right to save for anyone, in all mailboxes below the prefix."""
    found = re.fullmatch(r'(?:"((?:[^"\\]|\\.)*)"|([^"#]\S*)) -anyone (\S.*)', line.strip())
    if found is None:
        return False
    letters, _, names = found[3].partition(":")
    words = names.replace(":", " ").split()
    if not all(
        letter in letters or name in words
        for letter, name in ((_INSERT, "insert"), (_POST, "post"))
    ):
        return False
    pattern = re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2]
    as_regex = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    # A folder name that no specific pattern matches.
    sample = re.sub(r"%%?\{?\w+\}?|\$\w+", "some-user@example.org", prefix) + "Some Folder"
    return re.fullmatch(as_regex, sample) is not None
