# SPDX-License-Identifier: MIT
"""Does every login get its key, and every look-up the public key: Dovecot's passdbs and userdbs.

Dovecot asks the passdbs in their order.  The first whose result ends the search
decides, and the fields of those behind it are never added: a login that an old
passdb in front accepts by itself gets no key, and saves mail in clear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.doveconf import Block, Doveconf

_SNIPPETS = "see the auth-*.conf files in dovecot-conf"
_DEFAULTS = {"result_success": "return-ok", "result_failure": "continue", "skip": "never"}


def findings(doveconf: Doveconf) -> Iterator[Finding]:
    """What is wrong with the chains of passdbs and userdbs."""
    root = doveconf.settings()
    running = root.get("protocols").split()
    found: dict[Finding, None] = {}  # a chain is mostly the same in all protocols
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
            "auth_debug is on: Dovecot 2.3 logs what mailseal-checkpassword answers, with the "
            "keys; turn it off, or use the Lua snippets of dovecot-conf/2.3"
        )


def password_check(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Whether login.password_check says what Dovecot does: `mailseal enroll` goes by it."""
    chain = [block for block in doveconf.settings().all("passdb") if _checks_passwords(block)]
    if not any(map(_is_ours, chain)):
        return
    alone = all(map(_is_ours, chain))
    if alone != (config.login.password_check == "keyring"):  # noqa: S105 - no password
        yield warning(
            "login.password_check is passdb, but Dovecot has no passdb beside mailseal's: enroll "
            "would refuse every new user; set it to keyring"
            if alone
            else "login.password_check is keyring, but Dovecot has a passdb beside mailseal's: "
            "enroll would take any password; remove the option"
        )


def _passdbs(settings: Block) -> Iterator[Finding]:
    chain = [block for block in settings.all("passdb") if _checks_passwords(block)]
    ours = [number for number, block in enumerate(chain) if _is_ours(block)]
    if not ours:
        yield error(f"no passdb of Dovecot's asks mailseal: no login gets its key; {_SNIPPETS}")
        return
    # A site may have two of ours: one for app passwords, one for the keys.
    first, last = chain[ours[0]], chain[ours[-1]]
    for block in chain[: ours[0]]:
        if not _continues(settings, block):
            yield error(
                f"the passdb {block.driver} stands before that of mailseal and ends the search "
                "when it accepts a password: such a login gets no key, and the user's mail is "
                "saved in clear; give it result_success = continue-ok, or remove it if it stands "
                "there twice"
            )
    ends = {
        name: _ends(_of(settings, last, name)) for name in ("result_failure", "result_internalfail")
    }
    if first is not chain[0]:
        for name, set_so in ends.items():
            if not set_so:
                yield error(
                    f"mailseal's passdb stands behind another one and needs {name} = return-fail: "
                    "without it a login goes through without its key"
                )
    if "--behind-passdb" in last.get("args").split():
        if first is chain[0]:
            yield error(
                "mailseal's passdb has --behind-passdb, but no passdb stands before it: nothing "
                f"checks the passwords of users who are not enrolled; {_SNIPPETS}"
            )
        elif _of(settings, last, "skip") != "unauthenticated":
            yield error(
                "mailseal's passdb has --behind-passdb and needs skip = unauthenticated: a "
                "password that the passdb before it has refused must not be accepted"
            )
    if last is not chain[-1] and not all(ends.values()):
        yield error(
            f"the passdb {chain[ours[-1] + 1].driver} stands behind that of mailseal and may "
            "accept a login that mailseal has refused: it would get no key; remove it, or put it "
            "before mailseal's with result_success = continue-ok"
        )


def _userdbs(settings: Block) -> Iterator[Finding]:
    chain = list(settings.all("userdb"))
    ours = next((number for number, block in enumerate(chain) if _is_ours(block)), None)
    if ours is None:
        yield error(
            "no userdb of Dovecot's asks mailseal: mail that Dovecot delivers to an enrolled user "
            f"would be stored in clear; {_SNIPPETS}"
        )
        return
    # prefetch is for logins only, and hands on what the passdbs have given
    others = [block for block in chain if block.driver != "prefetch" and not _is_ours(block)]
    for block in chain[:ours]:
        if block in others and not _continues(settings, block):
            yield error(
                f"the userdb {block.driver} stands before that of mailseal and ends the search: "
                "mail that Dovecot delivers to an enrolled user would be stored in clear; give it "
                "result_success = continue-ok"
            )
    for block in chain[ours:]:
        if block in others:
            yield error(
                f"the userdb {block.driver} stands behind that of mailseal, which must be the "
                "last: it decides how mail is saved and needs the final user name"
            )
    if others and not _ends(_of(settings, chain[ours], "result_internalfail")):
        yield error(
            "mailseal's userdb needs result_internalfail = return-fail: without it mail could be "
            "stored in clear while mailseal does not answer"
        )


def _user_name_format(settings: Block) -> Iterator[Finding]:
    value = settings.get("auth_username_format")
    # 2.3: %Lu, %{L:user}; 2.4: %{user | lower}
    if not re.search(r"%L|%\{L|\blower\b", value):
        yield error(
            f'auth_username_format is "{value}", which does not turn user names to lower case: '
            "Alice and alice would be two users for Dovecot and one for mailseal; use %Lu "
            "(2.3) or %{user | lower} (2.4)"
        )


def _checks_passwords(block: Block) -> bool:
    """Not for master users, who have no key, and not a list of those who are kept out."""
    return block.get("master") != "yes" and block.get("deny") != "yes"


def _is_ours(block: Block) -> bool:
    # a lua_file of 2.4; the args of 2.3
    program = block.get("lua_file") or block.get("args")
    return block.driver in ("checkpassword", "lua") and "mailseal" in program


def _starts_program(block: Block) -> bool:
    return block.driver == "checkpassword" and _is_ours(block)


def _of(settings: Block, block: Block, name: str) -> str:
    default = settings.get(f"{block.kind}_{name}")  # 2.4 has one default for all
    return block.get(name) or default or _DEFAULTS.get(name, "continue")


def _continues(settings: Block, block: Block) -> bool:
    return _of(settings, block, "result_success").startswith("continue")


def _ends(result: str) -> bool:
    return result in ("return-fail", "return", "return-ok")
