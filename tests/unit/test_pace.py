# SPDX-License-Identifier: MIT
"""Who works on stored mail rests while others need the machine, and only then."""

from __future__ import annotations

import dataclasses
import types

import pytest

from mailseal.mailbox import pace
from mailseal.mailbox.pace import Pace


@dataclasses.dataclass
class Machine:
    """What the kernel tells; seconds."""

    now: float = 100.0
    others: float = 50.0
    waited: float = 0.0
    slept: float = 0.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    def sleep(seconds: float) -> None:
        made.slept += seconds

    # Only for this module: threads that other tests have left behind sleep, too.
    clock = types.SimpleNamespace(monotonic=lambda: made.now, sleep=sleep)
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(pace, "_others", lambda: made.others)
    monkeypatch.setattr(pace, "_waited", lambda: made.waited)
    return made


def work(how: Pace, machine: Machine, *, others: float, waited: float = 0.0) -> float:
    """A second's work on 1,000 bytes; how long the rest was."""
    with how.piece() as piece:
        machine.now += 1.0
        machine.others += others
        machine.waited += waited
        piece.size = 1000
    return machine.slept


def test_nobody_rests_on_an_idle_machine(machine: Machine) -> None:
    assert work(Pace(polite=True), machine, others=0.0) == 0


def test_a_rest_while_others_work(machine: Machine) -> None:
    assert work(Pace(polite=True), machine, others=0.5) == pytest.approx(9.0)


def test_waiting_for_the_processor_is_no_work(machine: Machine) -> None:
    assert work(Pace(polite=True), machine, others=1.5, waited=0.9) == pytest.approx(0.9)


def test_who_is_not_polite_keeps_to_the_rate_only(machine: Machine) -> None:
    assert work(Pace(), machine, others=1.0) == 0
    assert work(Pace(rate=100), machine, others=1.0) == pytest.approx(9.0)


def test_what_is_not_known_counts_as_in_use(machine: Machine) -> None:
    machine.others = 0.0
    assert work(Pace(polite=True), machine, others=0.0) == pytest.approx(9.0)


def test_the_kernel_tells() -> None:
    assert pace._others() > 0
    assert pace._waited() >= 0
