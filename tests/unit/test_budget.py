# SPDX-License-Identifier: MIT
"""The memory of mails in progress: never above the limit, and every mail can be finished."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailseal.delivery.daemon.budget import Budget, Hold, Request

LIMIT, LARGEST, CLIENTS, STEP = 1000, 400, 10, 20


class Mail:
    """A mail that grows by STEP up to its size."""

    def __init__(self, budget: Budget, size: int) -> None:
        self.budget = budget
        self.wanted = size
        self.hold: Hold = budget.begin()
        self.request: Request | None = None

    @property
    def complete(self) -> bool:
        return self.hold.size >= self.wanted

    def go_on(self) -> None:
        """Grow once, or wait."""
        if not self.complete and self.request is None and not self.budget.grow(self.hold, STEP):
            self.request = self.budget.wait_to_grow(self.hold, STEP, self.answered)

    def answered(self, granted: bool) -> None:
        assert granted
        self.request = None


@given(
    st.lists(st.integers(1, LARGEST - STEP), min_size=1, max_size=CLIENTS),
    st.lists(st.integers(0, CLIENTS - 1), max_size=300),
)
def test_all_are_finished_whatever_the_order_and_never_beyond_the_limit(
    sizes: list[int], order: list[int]
) -> None:
    budget = Budget(LIMIT, LARGEST, CLIENTS, 1000)
    mails = [Mail(budget, size) for size in sizes]
    for number in order:
        mails[number % len(mails)].go_on()
        # A complete mail without a reply yet, for example because Dovecot is slow.
        assert sum(mail.hold.size for mail in mails) <= LIMIT
    while mails:
        for mail in mails:
            mail.go_on()
        assert sum(mail.hold.size for mail in mails) <= LIMIT
        done = [mail for mail in mails if mail.complete]
        assert done or any(mail.request is None for mail in mails), "all wait for each other"
        for mail in done:
            budget.release(mail.hold)
            mails.remove(mail)
        budget.serve()
    assert budget.fits(LARGEST)
    assert budget.grow(budget.begin(), LARGEST - budget.own)


def test_a_small_mail_does_not_need_shared_memory() -> None:
    budget = Budget(LIMIT, LARGEST, CLIENTS, 1000)
    for _ in range(3):
        Mail(budget, LARGEST).go_on()
    big = budget.begin()
    while budget.grow(big, STEP):
        pass
    small = budget.begin()
    assert small.size == budget.own > 0
    assert budget.fits(budget.own)
    assert not budget.fits(LIMIT)


def test_mails_that_wait_too_long_are_refused_the_newest_first() -> None:
    budget = Budget(LIMIT, LARGEST, CLIENTS, -1)
    mails = [budget.begin() for _ in range(3)]
    for mail in mails:
        while mail.size < 250 and budget.grow(mail, STEP):
            pass
    answers: list[tuple[int, bool]] = []
    waiting = [mail for mail in mails if not mail.largest]

    def wait(number: int) -> None:
        def answer(granted: bool) -> None:
            answers.append((number, granted))
            if not granted:
                budget.release(waiting[number])

        budget.wait_to_grow(waiting[number], 80, answer)

    assert len(waiting) == 2
    wait(0)
    wait(1)
    budget.serve()
    assert answers == [(1, False), (0, True)]
