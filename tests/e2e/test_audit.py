# SPDX-License-Identifier: MIT
"""`make audit` in one run, and in one with several protections off: it must see each of them."""

from __future__ import annotations

from tests.audit.broken import WithoutShredding, protections
from tests.audit.machine import Setup, audit, with_system_users
from tests.audit.result import Result


def run(setup: Setup) -> Result:
    said: list[str] = []
    return audit(setup, said.append)


def test_no_word_is_on_the_disk() -> None:
    result = run(Setup())
    assert result.leaks() == [], result.table()
    assert not result.blind()


def test_no_word_of_system_users_is_on_the_disk() -> None:
    """Each user has an own uid and a home directory; PAM checks the passwords."""
    result = run(with_system_users())
    assert result.leaks() == [], result.table()
    assert not result.blind()


def test_words_are_found_where_protections_are_off() -> None:
    """What Dovecot's settings switch off, at once; `make audit ARGS=--prove` tries each alone."""
    off = [
        broken for broken in protections() if broken.setup.dovecot and not broken.setup.system_users
    ]
    assert len(off) >= 3
    together = Setup(
        dovecot="".join(broken.setup.dovecot for broken in off),
        encrypted_queue=False,
        index=False,
        day=WithoutShredding,
    )
    result = run(together)
    result.encrypted_queue = True
    expected = {broken.row for broken in off} | {"free blocks"}
    assert expected <= set(result.leaks()), result.table()
    assert result.counts["queue"] or result.counts["queue, free blocks"], result.table()
