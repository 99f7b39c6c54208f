# SPDX-License-Identifier: MIT
"""All checks, in the order in which they run.  docs/doctor.md lists them."""

from __future__ import annotations

from mailseal.admin.doctor import (
    arrival,
    configuration,
    daemons,
    folders,
    logins,
    machine,
    places,
    postfix,
    proof,
    sieve,
    users,
)
from mailseal.admin.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *daemons.CHECKS,
    *folders.CHECKS,
    *logins.CHECKS,
    *sieve.CHECKS,
    *postfix.CHECKS,
    *places.CHECKS,
    *machine.CHECKS,
    *users.CHECKS,
    *proof.CHECKS,
    *arrival.CHECKS,
)
