# SPDX-License-Identifier: MIT
"""Keyring and public key together: crashes at each step, two writers, replaced keys."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import (
    AlreadyEnrolled,
    BadPassword,
    ChangeGone,
    ChangePending,
    Conflict,
    Damaged,
    MailsealError,
    TemporaryError,
    WrongPassword,
)
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import SETTLE_AFTER, Vault
from tests.unit.vaults import open_vault

CHEAP = kdf.PROFILES["insecure-testing"]
USER = "alice@example.org"


def folder_of(store: object) -> Path:
    assert isinstance(store, Keystore | PublicStore)
    return Path(store.folder)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(tmp_path)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do some work in a child process that kills itself before its disk change number `step`.

    Returns whether there were so many changes.
    """
    child = os.fork()
    if child == 0:
        left = step

        def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in ("open", "write", "fsync", "fchmod", "rename", "link", "unlink", "mkdir"):
            setattr(os, name, wrap(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def opens(vault: Vault, password: bytes) -> bool:
    try:
        vault.unlock(USER, password)
    except WrongPassword:
        return False
    return True


def test_enroll_killed_at_every_step(tmp_path: Path) -> None:
    """After a kill at any step, no mail is sealed without a keyring, and enroll works again."""
    step = 0
    died = True
    while died:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        vault = open_vault(folder)
        died = killed_at(step, lambda vault=vault: vault.enroll(USER, b"pw"))  # type: ignore[misc]
        try:
            published = vault.public.lookup(USER)
        except TemporaryError:
            published = None  # mail is deferred
        if published is not None:
            assert vault.unlock(USER, b"pw").keys[-1].public == published
        try:
            vault.enroll(USER, b"pw")
        except AlreadyEnrolled:
            assert opens(vault, b"pw")
        published = vault.public.lookup(USER)
        assert published is not None
        assert vault.unlock(USER, b"pw").keys[-1].public == published
    assert step > 20


def test_enroll_failed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: after a failure the user is not enrolled, and mail is not deferred."""
    names = ("open", "write", "fsync", "fchmod", "rename", "link")
    step, failed, taken_back = 0, True, 0
    while failed:
        step += 1
        (folder := tmp_path / str(step)).mkdir()
        vault = open_vault(folder)
        left = step

        def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, wrap(getattr(os, name)))
            try:
                vault.enroll(USER, b"pw")
                failed = False
            except TemporaryError:
                taken_back += 1
        published = vault.public.lookup(USER)
        if published is None:
            assert failed and vault.store.revision(USER) is None, step
            vault.enroll(USER, b"another")
            assert opens(vault, b"another"), step
        else:  # it was there already, mail may be sealed to it
            assert vault.unlock(USER, b"pw").keys[-1].public == published, step
    assert taken_back > 15


def test_login_completes_an_interrupted_enrollment(tmp_path: Path) -> None:
    finished = 0
    step = 0
    died = True
    while died:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        vault = open_vault(folder)
        died = killed_at(step, lambda vault=vault: vault.enroll(USER, b"pw"))  # type: ignore[misc]
        if vault.store.revision(USER) is not None:
            key = vault.unlock(USER, b"pw").keys[-1].public
            assert vault.public.lookup(USER) == key
            finished += died
    assert finished > 5


def test_passwd_killed_at_every_step(vault: Vault) -> None:
    """Either the old or the new password opens, never neither, never both."""
    vault.enroll(USER, b"pw 0")
    number = step = 0
    outcomes = set()
    died = True
    while died:
        step += 1
        old, new = b"pw %d" % number, b"pw %d" % (number + 1)
        died = killed_at(step, lambda old=old, new=new: Lifecycle(vault).passwd(USER, old, new))  # type: ignore[misc]
        working = (opens(vault, old), opens(vault, new))
        assert working in ((True, False), (False, True))
        outcomes.add(working)
        number += working[1]
    assert len(outcomes) == 2 and step > 8


def test_two_passwd_at_once_one_wins(vault: Vault) -> None:
    vault.enroll(USER, b"old")
    barrier = threading.Barrier(2)
    real = vault.derive

    def together(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        if password in (b"new 0", b"new 1"):
            barrier.wait(10)  # both have opened the keyring with the old password
        return real(password, salt, cost, size)

    vault.derive = together
    results: list[object] = [None, None]

    def change(number: int) -> None:
        try:
            Lifecycle(vault).passwd(USER, b"old", b"new %d" % number)
        except MailsealError as exc:
            results[number] = exc

    threads = [threading.Thread(target=change, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vault.derive = real
    lost = [n for n in range(2) if isinstance(results[n], Conflict)]
    assert len(lost) == 1
    assert "another process" in str(results[lost[0]])
    assert not opens(vault, b"old")
    assert not opens(vault, b"new %d" % lost[0])
    assert opens(vault, b"new %d" % (1 - lost[0]))


def test_a_foreign_public_key_refuses_the_login_with_an_error(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.enroll(USER, b"pw")
    foreign = PrivateKey.generate().public
    vault.public.publish(USER, foreign)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Damaged, match="replaced"):
        vault.unlock(USER, b"pw")
    assert foreign.key_id.hex() in caplog.text and USER in caplog.text
    assert vault.public.lookup(USER) == foreign, "not changed until an administrator acts"
    assert vault.repair(USER) == f"was {foreign.key_id.hex()}"
    assert opens(vault, b"pw")
    assert vault.repair(USER) == ""


@pytest.mark.parametrize("harm", ["cut", "missing", "unpublished"])
def test_a_lost_or_damaged_public_key_is_published_again_at_login(vault: Vault, harm: str) -> None:
    key = vault.enroll(USER, b"pw").current
    path = folder_of(vault.public) / f"{USER}.json"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif harm == "missing":
        path.unlink()
    else:
        vault.public.withdraw(USER)
    assert not opens(vault, b"wrong")
    if harm != "unpublished":
        with pytest.raises(TemporaryError):
            vault.public.lookup(USER)
    assert opens(vault, b"pw")
    assert vault.public.lookup(USER) == key


def test_an_older_public_key_is_brought_up_to_date(vault: Vault) -> None:
    first = vault.enroll(USER, b"pw")
    opened = vault.open(USER, b"pw")
    opened.add_key("prime256v1", now=1)
    vault.store.save(opened.keyring, before=first)  # a crash here, before publishing
    assert vault.public.lookup(USER) == first.current
    assert opens(vault, b"pw")
    assert vault.public.lookup(USER) == opened.keyring.current


def test_a_missing_state_folder_is_no_reason_to_publish(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    folder = folder_of(vault.public)
    os.rename(folder, f"{folder}.away")
    with pytest.raises(TemporaryError):
        vault.unlock(USER, b"pw")


def test_a_lost_keyring_is_no_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    vault.store.remove(USER)
    with pytest.raises(TemporaryError, match="missing"):
        vault.unlock(USER, b"pw")
    with pytest.raises(TemporaryError, match="missing"):
        vault.enroll(USER, b"pw")


def test_a_damaged_keyring_is_no_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    path = folder_of(vault.store) / f"{USER}.json"
    path.write_bytes(path.read_bytes()[:-40])
    for password in (b"pw", b"wrong"):
        with pytest.raises(Damaged):
            vault.unlock(USER, password)


def test_an_unknown_user_costs_the_derivation_of_a_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    costs: list[kdf.Profile] = []

    def counted(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        costs.append(cost)
        return kdf.derive(password, salt, cost, size)

    vault.derive = counted
    for user in (USER, "nobody@example.org"):
        with pytest.raises(WrongPassword):
            vault.unlock(user, b"wrong")
    numbers = [(cost.memory_kib, cost.passes, cost.lanes) for cost in costs]
    assert len(numbers) == 2 and numbers[0] == numbers[1]


def test_enroll_twice(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    with pytest.raises(AlreadyEnrolled):
        vault.enroll("ALICE@example.org", b"pw")
    assert opens(vault, b"pw")


@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 10_000_000])
def test_passwords_that_cannot_be(vault: Vault, password: bytes) -> None:
    with pytest.raises(BadPassword):
        vault.enroll(USER, password)
    assert vault.public.lookup(USER) is None
    vault.enroll(USER, b"pw")
    with pytest.raises(BadPassword):
        Lifecycle(vault).passwd(USER, b"pw", password)
    assert opens(vault, b"pw")


def test_passwd_needs_the_old_login_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    opened = vault.open(USER, b"pw")
    before = opened.keyring
    _, app = opened.add_code("app", "phone", CHEAP, now=1)
    _, recovery = opened.add_code("recovery", "", CHEAP, now=1)
    vault.store.save(opened.keyring, before=before)
    for wrong in (b"guess", app.encode(), recovery.encode()):
        with pytest.raises(WrongPassword):
            Lifecycle(vault).passwd(USER, wrong, b"new")
    assert opens(vault, b"pw") and opens(vault, app.encode())
    assert not opens(vault, recovery.encode())


def test_find_by_key_id(vault: Vault) -> None:
    key_id = vault.enroll(USER, b"pw").current.key_id
    vault.enroll("bob@example.org", b"pw")
    (folder_of(vault.store) / "broken.json").write_bytes(b"{")
    assert vault.find(key_id) == USER
    assert vault.find(bytes(32)) is None


def during(monkeypatch: pytest.MonkeyPatch, vault: Vault, what: Callable[[], object]) -> None:
    """Do `what` while the next unlock runs Argon2id, so between read and check."""
    real = vault.derive

    def derive(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        monkeypatch.setattr(vault, "derive", real)
        what()
        return real(password, salt, cost, size)

    monkeypatch.setattr(vault, "derive", derive)


def test_an_unlock_under_way_does_not_bring_a_removed_key_back(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.enroll(USER, b"password")
    during(monkeypatch, vault, lambda: Lifecycle(vault).unenroll(USER))
    with pytest.raises(TemporaryError, match="removed just now"):
        vault.unlock(USER, b"password")
    assert vault.public.lookup(USER) is None


def test_an_unlock_under_way_does_not_take_a_new_key_for_a_foreign_one(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.enroll(USER, b"password")
    during(monkeypatch, vault, lambda: Lifecycle(vault).rotate(USER, b"password"))
    vault.unlock(USER, b"password")
    published = vault.public.lookup(USER)
    assert published is not None
    assert published.key_id == vault.store.load(USER).current.key_id


def test_a_login_with_the_old_password_leaves_the_new_one_alone(vault: Vault) -> None:
    vault.enroll(USER, b"old")
    change = Lifecycle(vault).passwd(USER, b"old", b"new", keep_old=True)
    vault.unlock(USER, b"old", vouched=True)
    Lifecycle(vault).commit(USER, change)
    vault.unlock(USER, b"new", vouched=True)
    with pytest.raises(WrongPassword):
        vault.unlock(USER, b"old")


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
