# SPDX-License-Identifier: MIT
"""What a check of `mailseal doctor` is, and what it results in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from mailseal.admin.finding import ERROR, Finding
from mailseal.doveconf import DoveconfError
from mailseal.errors import MailsealError

if TYPE_CHECKING:
    from mailseal.admin.doctor.site import Site

Level = Literal["pass", "warn", "fail"]

LEVELS: tuple[Level, ...] = ("pass", "warn", "fail")
"""By exit status: 0, 1, 2."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One thing that a check has found.  Without a remedy, it has that of the check."""

    level: Level
    text: str
    remedy: str = ""


def passed(text: str) -> Outcome:
    """Something was proved; this text replaces the check's own."""
    return Outcome("pass", text)


def warned(text: str, remedy: str = "") -> Outcome:
    """Mail is safe, but something may not work as expected, or could not be checked."""
    return Outcome("warn", text, remedy)


def failed(text: str, remedy: str = "") -> Outcome:
    """Mail could be stored in clear or lost, or logins or deliveries fail."""
    return Outcome("fail", text, remedy)


class NotUsed(Exception):
    """What the check is about does not exist at this site: there is no result."""


def found(finding: Finding) -> Outcome:
    """A finding of `mailseal check-config`."""
    return Outcome(
        "fail" if finding.level == ERROR else "warn",
        finding.text,
        finding.remedy,
    )


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    name        for --only, and in docs/doctor.md
    proves      one sentence; it is the result if the check finds nothing
    remedy      what to do, if an outcome has no remedy of its own; with commands in backticks
    run         yields outcomes; raises MailsealError, DoveconfError or OSError if it cannot check
    of_user     it needs USER and the password
    """

    name: str
    proves: str
    remedy: str
    run: Callable[[Site], Iterator[Outcome]]
    of_user: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the list."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def counted(number: int, word: str) -> str:
    """ "1 user", "2 users"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def results(check: Check, site: Site) -> Iterator[Result]:
    """Run a check.  Each result that is not a pass has a remedy."""
    there = False
    try:
        for one in check.run(site):
            there = True
            remedy = "" if one.level == "pass" else one.remedy or check.remedy
            yield Result(check.name, one.level, one.text, remedy)
    except NotUsed:
        return
    except MailsealError as exc:
        yield Result(check.name, "warn", f"not checked: {exc}", exc.hint or check.remedy)
    except (OSError, DoveconfError) as exc:
        yield Result(check.name, "warn", f"not checked: {exc}", check.remedy)
    else:
        if not there:
            yield Result(check.name, "pass", check.proves)
