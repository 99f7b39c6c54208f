# SPDX-License-Identifier: MIT
"""Checks places where Dovecot could write mail in clear: the index cache and shared folders.

dovecot.index.cache contains subjects and addresses in clear.  If a user saves a mail in
another user's folder, Dovecot seals it with the wrong key or not at all, so ACLs must
not let anybody save there (shared-folders.conf in dovecot-conf).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin.finding import Finding, error, warning
from mailseal.doveconf import Block, Doveconf

_INSERT, _POST = "i", "p"


def findings(doveconf: Doveconf) -> Iterator[Finding]:
    """Findings about the index cache and shared folders."""
    yield from _index_cache(doveconf)
    for namespace in doveconf.settings("imap").all("namespace"):
        if namespace.get("type") in ("shared", "public") and namespace.get("disabled") != "yes":
            yield from _shared(doveconf, namespace)


def _index_cache(doveconf: Doveconf) -> Iterator[Finding]:
    """Whether the index cache has a separate location.  Not checked: whether that is on tmpfs."""
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "lmtp"):
        settings = doveconf.settings(protocol)
        if protocol not in running or settings.get("mail_cache_path"):
            continue
        location = settings.get("mail_location")
        if "INDEXCACHE=" in location.upper():
            continue
        # of 2.3, of 2.4
        wrong = "mail_location has no INDEXCACHE" if location else "mail_cache_path is empty"
        yield warning(
            f"Dovecot's {wrong} in protocol {protocol}: dovecot.index.cache, with subjects and "
            "addresses of sealed mails in clear, is stored with the mail; see the index cache in "
            "mailseal.conf of dovecot-conf"
        )
        return


def _shared(doveconf: Doveconf, namespace: Block) -> Iterator[Finding]:
    """Whether the ACLs prevent saving into this namespace."""
    prefix = namespace.get("prefix")
    kind = f"{namespace.get('type')} namespace with the prefix {prefix}"
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "lmtp", "lda"):
        if protocol not in running and protocol != "lda":
            continue
        if "acl" not in doveconf.plugins(protocol):
            yield _may_save(kind, f"the plugin acl is not loaded in protocol {protocol}")
            return
    path = _global_acls(doveconf.settings("imap"))
    if not path:
        yield _may_save(kind, "there is no file of global ACLs")
        return
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError as exc:
        yield _may_save(kind, f"{path} cannot be read: {exc.strerror}")
        return
    if not any(_forbids(line, prefix) for line in lines):
        pattern = re.sub(r"(%%?\{?\w+\}?|\$\w+).*", "*", prefix)
        pattern = pattern if pattern.endswith("*") else f"{pattern}*"
        yield _may_save(kind, f"{path} needs the line `{pattern} -anyone ip`")


def _may_save(kind: str, why: str) -> Finding:
    return error(
        f"Dovecot has a {kind}, where users may save mail into folders of other users, in clear or "
        f"with a key that the owner does not have: {why}; see shared-folders.conf in dovecot-conf"
    )


def _global_acls(settings: Block) -> str:
    """The path of the global ACL file; 2.3 has it in `plugin { acl = vfile:PATH:… }`."""
    if path := settings.get("acl_global_path"):
        return path
    for plugin in settings.all("plugin"):
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
