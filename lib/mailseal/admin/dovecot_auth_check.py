# SPDX-License-Identifier: MIT
"""Checks Dovecot's passdbs and userdbs: each login must get its key, each lookup the public key.

Dovecot tries the passdbs in order.  The search ends at the first one whose result says
so, and fields of later passdbs are not added: if a passdb before mailseal's ends the
search, the login gets no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.doveconf import Block, Doveconf

_SNIPPETS = "see the auth-*.conf files in dovecot-conf"
_DEFAULTS = {"result_success": "return-ok", "result_failure": "continue", "skip": "never"}


def findings(doveconf: Doveconf) -> Iterator[Finding]:
    """Findings about the order and the settings of passdbs and userdbs."""
    root = doveconf.settings()
    running = root.get("protocols").split()
    found: dict[Finding, None] = {}  # usually the same in all protocols
    for protocol in ("imap", "pop3", "submission"):
        if protocol in running:
            settings = doveconf.settings(protocol)
            found |= dict.fromkeys(_passdbs(settings))
            found |= dict.fromkeys(_user_name_format(settings))
    for protocol in ("imap", "pop3", "lmtp", "lda"):
        if protocol in running or protocol == "lda":
            settings = doveconf.settings(protocol)
            found |= dict.fromkeys(_userdbs(settings))
            found |= dict.fromkeys(_user_name_format(settings))
    yield from found
    if any(map(_starts_program, root.all("passdb"))) and root.get("auth_debug") == "yes":
        yield warning(
            "auth_debug is on: Dovecot 2.3 logs the answers of mailseal-checkpassword, with the "
            "keys; turn it off, or use the files for Lua in dovecot-conf/2.3 (those without "
            "-checkpassword in their name)"
        )


def password_check(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Whether login.password_check, which `mailseal enroll` uses, matches Dovecot's passdbs."""
    chain = [block for block in doveconf.settings().all("passdb") if _checks_passwords(block)]
    if not any(map(_is_ours, chain)):
        return
    alone = all(map(_is_ours, chain))
    if alone != (config.login.password_check == "keyring"):  # noqa: S105 - no password
        yield warning(
            "login.password_check is passdb, but mailseal's is Dovecot's only passdb: enroll would "
            "refuse all new users; set it to keyring"
            if alone
            else "login.password_check is keyring, but Dovecot has other passdbs than mailseal's: "
            "enroll would accept any password; remove the option"
        )


def _passdbs(settings: Block) -> Iterator[Finding]:
    chain = [block for block in settings.all("passdb") if _checks_passwords(block)]
    ours = [number for number, block in enumerate(chain) if _is_ours(block)]
    if not ours:
        yield error(
            f"Dovecot has no passdb for mailseal: logins get no keys; {_SNIPPETS}",
            _snippet_for(settings, chain),
        )
        return
    # There may be two passdbs for mailseal: one for app passwords, one for the keys.
    first, last = chain[ours[0]], chain[ours[-1]]
    for block in chain[: ours[0]]:
        if not _continues(settings, block):
            yield error(
                f"the passdb {block.driver} comes before mailseal's and ends the search when it "
                "accepts a password: such a login gets no key, and Dovecot refuses it if the user "
                "is enrolled; give it result_success = continue-ok, or remove it if it is there "
                "twice",
                _continue(settings, block),
            )
    ends = {
        name: _ends(_of(settings, last, name)) for name in ("result_failure", "result_internalfail")
    }
    if first is not chain[0]:
        for name, set_so in ends.items():
            if not set_so:
                yield error(
                    f"mailseal's passdb comes after another one and needs {name} = return-fail: "
                    "without it, a login can succeed without its key"
                )
    if "--behind-passdb" in last.get("args").split():
        if first is chain[0]:
            yield error(
                "mailseal's passdb has --behind-passdb, but no passdb comes before it: the "
                f"passwords of users who are not enrolled are not checked; {_SNIPPETS}"
            )
        elif _of(settings, last, "skip") != "unauthenticated":
            yield error(
                "mailseal's passdb has --behind-passdb and needs skip = unauthenticated: without "
                "it, a password that the other passdb has refused could be accepted"
            )
    for number in ours:
        if chain[number].driver == "dict":
            yield from _lookup_passdb(settings, chain[number], chain[number + 1 :])
    if last is not chain[-1] and not all(ends.values()):
        yield error(
            f"the passdb {chain[ours[-1] + 1].driver} comes after mailseal's and can accept a "
            "login that mailseal has refused; such a login gets no key; remove this passdb, or put "
            "it before mailseal's with result_success = continue-ok"
        )


def _lookup_passdb(settings: Block, block: Block, after: list[Block]) -> Iterator[Finding]:
    """Of the passdb that asks the agent's process for lookups (login/lookups.py)."""
    if _of(settings, block, "skip") != "unauthenticated":
        yield error(
            "mailseal's passdb with the driver dict needs skip = unauthenticated: without it, "
            "logins with a wrong password or an app password fail temporarily"
        )
    if not any(map(_starts_program, after)):
        yield error(
            "mailseal's passdb with the driver dict needs one with the driver checkpassword after "
            f"it: without that one, enrolled users cannot log in; {_SNIPPETS}"
        )


def _userdbs(settings: Block) -> Iterator[Finding]:
    chain = list(settings.all("userdb"))
    ours = next((number for number, block in enumerate(chain) if _is_ours(block)), None)
    if ours is None:
        yield error(
            "Dovecot has no userdb for mailseal: Dovecot cannot save mail, or saves it in clear; "
            f"{_SNIPPETS}",
            _snippet_for(settings, [block for block in chain if block.driver != "prefetch"]),
        )
        return
    # prefetch is for logins only, and returns fields of the passdbs
    others = [block for block in chain if block.driver != "prefetch" and not _is_ours(block)]
    for block in chain[:ours]:
        if block in others and not _continues(settings, block):
            yield error(
                f"the userdb {block.driver} comes before mailseal's and ends the search: Dovecot "
                "cannot save mail, or saves it in clear; give it result_success = continue-ok",
                _continue(settings, block),
            )
    for block in chain[ours:]:
        if block in others:
            yield error(
                f"the userdb {block.driver} comes after mailseal's, which must be the last one: it "
                "decides how mail is saved, and needs the final user name"
            )
    programs = [block for block in chain[ours:] if _starts_program(block)]
    for block in programs:
        if missing := _missing_words(block):
            yield error(
                f"the args of mailseal's userdb have no {' and no '.join(missing)}, as in a copy "
                "of an older file: without them, mail of enrolled users may be stored in clear, or "
                "logins are refused; copy the line again from "
                "dovecot-conf/2.3/*-checkpassword.conf"
            )
    if chain[ours].driver == "dict" and not programs:
        yield error(
            "mailseal's userdb with the driver dict needs one with the driver checkpassword after "
            f"it: without that one, mail could be stored in clear; {_SNIPPETS}"
        )
    elif programs and chain[ours] is programs[0]:
        yield warning(
            "Dovecot starts mailseal-checkpassword for each lookup and each delivery, as in a copy "
            "of an older file; copy the userdb with the driver dict too, from "
            "dovecot-conf/2.3/*-checkpassword.conf: this makes deliveries about six times as fast"
        )
    last = programs[-1] if programs else chain[ours]
    if others and not _ends(_of(settings, last, "result_internalfail")):
        yield error(
            "mailseal's userdb needs result_internalfail = return-fail: without it, mail could be "
            "stored in clear if mailseal does not answer"
        )


def _snippet_for(settings: Block, chain: list[Block]) -> str:
    """The file for the site's user database."""
    driver = chain[0].driver if chain else ""
    name = {"": "mailseal-only", "passwd": "behind-pam"}.get(driver, f"behind-{driver}")
    line = shipped.include(shipped.series(settings), f"auth-{name}")
    place = (
        f"at the end of Dovecot's configuration, in place of the line that includes {driver} now"
        if driver and shipped.series(settings) == "2.3"
        else "at the end of Dovecot's configuration"
    )
    return f"put `{line}` {place}, then {shipped.RESTART}"


def _continue(settings: Block, block: Block) -> str:
    """In 2.4, blocks with the same name are merged; in 2.3 they have no names."""
    if shipped.series(settings) == "2.4":
        return shipped.put(f"{block.kind}/{block.name}/result_success = continue-ok")
    return (
        f"put `result_success = continue-ok` into the block {block.kind} with driver = "
        f"{block.driver}, then {shipped.RESTART}"
    )


def _user_name_format(settings: Block) -> Iterator[Finding]:
    value = settings.get("auth_username_format")
    # 2.3: %Lu, %{L:user}; 2.4: %{user | lower}
    if not re.search(r"%L|%\{L|\blower\b", value):
        yield error(
            f'auth_username_format is "{value}", which does not convert user names to lower case: '
            "Alice and alice would be two users in Dovecot and one in mailseal; use %Lu "
            "(2.3) or %{user | lower} (2.4)"
        )


def _checks_passwords(block: Block) -> bool:
    """Not a passdb for master users, who have no key, or with deny=yes."""
    return block.get("master") != "yes" and block.get("deny") != "yes"


def _is_ours(block: Block) -> bool:
    # a lua_file of 2.4; the args of 2.3
    program = block.get("lua_file") or block.get("args")
    return block.driver in ("checkpassword", "lua", "dict") and "mailseal" in program


def _starts_program(block: Block) -> bool:
    return block.driver == "checkpassword" and _is_ours(block)


def _missing_words(block: Block) -> list[str]:
    """What the helper needs to see what other userdbs say."""
    words = block.get("args").split()
    return [
        word
        for word in ("--key=", "--undoing=", "--mail=")
        if not any(found.startswith(word) for found in words)
    ]


def _of(settings: Block, block: Block, name: str) -> str:
    default = settings.get(f"{block.kind}_{name}")  # 2.4 has one default for all
    return block.get(name) or default or _DEFAULTS.get(name, "continue")


def _continues(settings: Block, block: Block) -> bool:
    return _of(settings, block, "result_success").startswith("continue")


def _ends(result: str) -> bool:
    return result in ("return-fail", "return", "return-ok")
