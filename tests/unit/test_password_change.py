# SPDX-License-Identifier: MIT
"""A change of the password that is begun, then committed or undone."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from mailseal.errors import ChangeGone, ChangePending, TemporaryError, WrongPassword
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import SETTLE_AFTER
from tests.unit.vaults import USER, killed_at, open_vault


class TestAChangeOfThePassword:
    """Open password changes, and what ends them."""

    @pytest.fixture
    def clock(self) -> list[float]:
        return [1_000_000.0]

    @pytest.fixture
    def life(self, tmp_path: Path, clock: list[float]) -> Lifecycle:
        self.vault = open_vault(tmp_path, clock=lambda: clock[0])
        self.vault.enroll(USER, b"old")
        return Lifecycle(self.vault)

    def open_with(self, *passwords: bytes) -> list[bytes]:
        found = []
        for password in passwords:
            with contextlib.suppress(WrongPassword):
                self.vault.unlock(USER, password)
                found.append(password)
        return found

    def test_an_unused_new_password_does_not_open_for_ever(
        self, life: Lifecycle, clock: list[float]
    ) -> None:
        life.passwd(USER, b"old", b"new", keep_old=True)
        clock[0] += SETTLE_AFTER - 1
        assert not self.vault.unlock(USER, b"old", vouched=True).settled
        assert self.open_with(b"old", b"new") == [b"old", b"new"]
        clock[0] += 1
        assert self.vault.unlock(USER, b"old").settled is False, "no other passdb has accepted it"
        assert self.vault.unlock(USER, b"old", vouched=True).settled
        assert self.open_with(b"old", b"new") == [b"old"]

    def test_a_login_with_the_new_password_removes_the_old_one(
        self, life: Lifecycle, clock: list[float]
    ) -> None:
        for wait, old, new in ((0, b"old", b"two"), (SETTLE_AFTER * 9, b"two", b"three")):
            life.passwd(USER, old, new, keep_old=True)
            clock[0] += wait
            assert self.vault.unlock(USER, new, vouched=True).settled
            assert self.open_with(old, new) == [new]

    @pytest.mark.parametrize("keep", [True, False])
    def test_an_old_change_may_be_superseded_a_young_one_not(
        self, life: Lifecycle, clock: list[float], keep: bool
    ) -> None:
        first = life.passwd(USER, b"old", b"abandoned", keep_old=True)
        clock[0] += SETTLE_AFTER - 1
        for again in (b"old", b"abandoned"):
            with pytest.raises(ChangePending):
                life.passwd(USER, again, b"new", keep_old=keep)
        with pytest.raises(ChangePending):
            life.rewrap(USER, b"old", b"new")
        clock[0] += 1
        life.passwd(USER, b"old", b"new", keep_old=keep)
        assert self.open_with(b"old", b"abandoned", b"new") == [b"old"] * keep + [b"new"]
        for end in (life.commit, life.undo):
            with pytest.raises(ChangeGone):
                end(USER, first)

    def test_a_commit_that_is_sent_again_leaves_a_later_change_alone(self, life: Lifecycle) -> None:
        first = life.passwd(USER, b"old", b"two", keep_old=True)
        life.commit(USER, first)
        second = life.passwd(USER, b"two", b"three", keep_old=True)
        life.commit(USER, first)
        assert self.open_with(b"two", b"three") == [b"two", b"three"]
        life.commit(USER, second)
        assert self.open_with(b"two", b"three") == [b"three"]

    def test_a_wrong_password_is_wrong_whatever_is_pending(self, life: Lifecycle) -> None:
        life.passwd(USER, b"old", b"new", keep_old=True)
        with pytest.raises(WrongPassword):
            life.passwd(USER, b"guess", b"mine", keep_old=True)

    def test_a_clock_that_was_set_back_blocks_nobody(
        self, life: Lifecycle, clock: list[float]
    ) -> None:
        life.passwd(USER, b"old", b"abandoned", keep_old=True)
        clock[0] -= 86400
        life.passwd(USER, b"old", b"new")
        assert self.open_with(b"old", b"abandoned", b"new") == [b"new"]

    def test_two_at_once_one_begins(self, life: Lifecycle) -> None:
        ended: list[object] = []
        start = threading.Barrier(2)

        def begin(new: bytes) -> None:
            start.wait()
            try:
                ended.append(life.passwd(USER, b"old", new, keep_old=True))
            except TemporaryError as exc:
                ended.append(exc)

        threads = [threading.Thread(target=begin, args=(new,)) for new in (b"one", b"two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (change,) = [x for x in ended if isinstance(x, str)]
        assert sum(isinstance(x, TemporaryError) for x in ended) == 1
        life.commit(USER, change)
        assert len(self.open_with(b"old", b"one", b"two")) == 1

    def test_an_id_cannot_be_guessed(self, life: Lifecycle) -> None:
        assert len(life.passwd(USER, b"old", b"new")) == 16

    @pytest.mark.parametrize(
        ("work", "states"),
        [
            ("passwd", [["old"], ["old", "new"]]),
            ("commit", [["old", "new"], ["new"]]),
            ("undo", [["old", "new"], ["old"]]),
        ],
    )
    def test_killed_at_every_step(self, tmp_path: Path, work: str, states: list[list[str]]) -> None:
        """The change is complete or not begun, and can be continued or begun again."""
        step, died, seen = 0, True, []
        while died:
            step += 1
            folder = tmp_path / f"{work}{step}"
            folder.mkdir()
            self.vault = open_vault(folder)
            self.vault.enroll(USER, b"old")
            life = Lifecycle(self.vault)
            begun = "" if work == "passwd" else life.passwd(USER, b"old", b"new", keep_old=True)

            def act(life: Lifecycle = life, begun: str = begun) -> object:
                if work == "passwd":
                    return life.passwd(USER, b"old", b"new", keep_old=True)
                return getattr(life, work)(USER, begun)

            died = killed_at(step, act)
            found = [word.decode() for word in self.open_with(b"old", b"new")]
            assert found in states
            seen.append(found)
            if work != "passwd":
                with contextlib.suppress(ChangeGone):
                    getattr(life, work)(USER, begun)
                assert [w.decode() for w in self.open_with(b"old", b"new")] == states[1]
        assert seen[0] == states[0] and seen[-1] == states[1] and step > 4
