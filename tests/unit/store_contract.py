# SPDX-License-Identifier: MIT
"""Tests of the contract in stores.py, for all stores of keyrings and public keys.

For a new implementation, write a test module with two classes, like test_file_stores.py.  Each
inherits one of these, and defines how to open the store and how to damage it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import (
    AlreadyEnrolled,
    Conflict,
    Damaged,
    MailsealError,
    NotEnrolled,
    TemporaryError,
)
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.stores import KeyringStore, KeyStores, PublicKeys

COST = kdf.PROFILES["insecure-testing"]
USER = "alice@example.org"
USERS = [USER, "bob", "../carol", "é/x@example.org", "d" * 254, "e%2f" * 60]


def make(user: str = USER, password: bytes = b"pw") -> Keyring:
    opened = Opened.create(user, curve="prime256v1", now=1)
    opened.set_login(password, COST, now=1)
    return opened.keyring


class Contract(ABC):
    """The interface between these tests and an implementation."""

    @abstractmethod
    def outlives_a_power_cut(self, write: Callable[[], object]) -> bool:
        """Run this write.  Returns whether its changes survive a power failure after it."""

    leaves = True
    """Whether a power cut leaves something behind that is then to be swept."""

    @abstractmethod
    def cut_short(self, user: str, write: Callable[[], object]) -> None:
        """Run this write for the user, with a power failure at its end."""


class KeyringStoreContract(Contract):
    @pytest.fixture
    @abstractmethod
    def open_store(self) -> Callable[[], KeyringStore]:
        """Open the same store again, as another process would."""

    @pytest.fixture
    def store(self, open_store: Callable[[], KeyringStore]) -> KeyringStore:
        return open_store()

    @abstractmethod
    def damage(self, store: KeyringStore, user: str) -> None:
        """Change a byte of the stored content."""

    @pytest.mark.parametrize("user", USERS)
    def test_stored_keyrings_are_returned_unchanged(
        self, store: KeyringStore, open_store: Callable[[], KeyringStore], user: str
    ) -> None:
        keyring = make(user)
        store.create(keyring)
        for opened in (store, open_store()):
            assert opened.load(user) == keyring
            assert opened.raw(user) == keyring.encode()
            assert opened.users() == [user]

    def test_upper_and_lower_case_are_one_user(self, store: KeyringStore) -> None:
        store.create(make())
        assert store.load("ALICE@Example.ORG") == store.load(USER)
        assert store.revision("Alice@example.org") == store.revision(USER)
        with pytest.raises(AlreadyEnrolled):
            store.create(make("Alice@Example.org"))

    def test_an_unknown_user(self, store: KeyringStore) -> None:
        for ask in (store.load, store.raw, store.load_revision):
            with pytest.raises(NotEnrolled):
                ask("nobody")
        assert store.revision("nobody") is None
        store.remove("nobody")
        with pytest.raises(NotEnrolled):
            store.save(make("nobody"), before=make("nobody"))
        assert store.users() == []

    def test_create_never_replaces(self, store: KeyringStore) -> None:
        first = make()
        store.create(first)
        with pytest.raises(AlreadyEnrolled):
            store.create(make())
        assert store.load(USER) == first

    def test_different_content_has_a_different_revision(self, store: KeyringStore) -> None:
        first = make()

        def once_more() -> None:
            store.remove(USER)
            store.create(make())

        writes: list[Callable[[], object]] = [
            lambda: store.create(first),
            lambda: store.save(first, before=first),
            lambda: store.overwrite(first),
            lambda: store.overwrite(make()),
            once_more,
        ]
        seen = []
        for write in writes:
            write()
            keyring, revision = store.load_revision(USER)
            assert keyring == store.load(USER)
            assert revision == store.revision(USER) == store.revision(USER)
            seen.append(revision)
        assert len(set(seen)) == len(seen)
        store.remove(USER)
        assert store.revision(USER) is None

    def test_a_change_of_a_removed_keyring_is_a_conflict(
        self, store: KeyringStore, open_store: Callable[[], KeyringStore]
    ) -> None:
        first = make()
        store.create(first)
        second = open_store().save(first, before=first)
        assert second.revision == first.revision + 1
        with pytest.raises(Conflict):
            store.save(make(password=b"other"), before=first)
        assert store.load(USER) == second

    def test_one_of_many_simultaneous_changes_succeeds(
        self, store: KeyringStore, open_store: Callable[[], KeyringStore]
    ) -> None:
        first = make()
        store.create(first)
        begun = threading.Barrier(8)
        won: list[Keyring] = []

        def change() -> None:
            mine, changed = open_store(), dataclasses.replace(make(), revision=first.revision)
            begun.wait()
            with contextlib.suppress(Conflict):
                won.append(mine.save(changed, before=first))

        threads = [threading.Thread(target=change) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.load(USER)] == won

    def test_the_lock_is_exclusive_and_reentrant(
        self, store: KeyringStore, open_store: Callable[[], KeyringStore]
    ) -> None:
        first = make()
        store.create(first)
        other = threading.Thread(target=lambda: open_store().save(first, before=first))
        with store.locked(USER), store.locked("Alice@example.org"):
            other.start()
            other.join(0.3)
            assert other.is_alive() and store.load(USER) == first
        other.join(120)
        assert store.load(USER).revision == 1

    def test_damage_is_reported_and_can_be_replaced(self, store: KeyringStore) -> None:
        keyring = make()
        store.create(keyring)
        self.damage(store, USER)
        for ask in (store.load, store.raw, store.load_revision):
            with pytest.raises(Damaged):
                ask(USER)
        with pytest.raises(Damaged):
            store.save(keyring, before=keyring)
        assert store.users() == [USER]
        store.overwrite(keyring)
        assert store.load(USER) == keyring

    def test_writes_survive_a_power_failure(self, store: KeyringStore) -> None:
        first = make()
        assert self.outlives_a_power_cut(lambda: store.create(first))
        assert self.outlives_a_power_cut(lambda: store.save(first, before=first))
        assert self.outlives_a_power_cut(lambda: store.overwrite(first))
        assert self.outlives_a_power_cut(lambda: store.remove(USER))

    @pytest.mark.parametrize("user", USERS)
    def test_files_left_by_a_power_failure_are_removed(
        self, store: KeyringStore, user: str
    ) -> None:
        first = make(user)
        store.create(first)
        self.cut_short(user, lambda: store.overwrite(make(user)))
        assert store.load(user) == first
        with store.locked(user):
            assert bool(store.sweep(user)) == self.leaves and not store.sweep(user)
        self.cut_short(user, lambda: store.overwrite(make(user)))
        assert bool(store.sweep_all()) == self.leaves and not store.sweep_all()
        assert store.load(user) == first and store.users() == [user]


class PublicKeysContract(Contract):
    @pytest.fixture
    @abstractmethod
    def open_store(self) -> Callable[[], PublicKeys]:
        """Open the same store again, as another process would."""

    @pytest.fixture
    def store(self, open_store: Callable[[], PublicKeys]) -> PublicKeys:
        return open_store()

    @abstractmethod
    def lose_key(self, store: PublicKeys, user: str) -> None:
        """Remove the key, but not the mark that the user is enrolled."""

    @abstractmethod
    def damage(self, store: PublicKeys, user: str) -> None:
        """Change a byte of the key."""

    @pytest.mark.parametrize("user", USERS)
    def test_publish_look_up_withdraw(
        self, open_store: Callable[[], PublicKeys], user: str
    ) -> None:
        here, there = open_store(), open_store()
        assert here.lookup(user) is None and not there.is_marked(user)
        for _ in range(2):
            key = PrivateKey.generate().public
            here.publish(user, key)
            assert there.lookup(user) == key and there.is_marked(user)
            assert there.users() == [user]
        here.withdraw(user)
        assert there.lookup(user) is None and not there.is_marked(user)
        assert there.users() == []

    def test_upper_and_lower_case_are_one_user(self, store: PublicKeys) -> None:
        store.publish("Alice@Example.ORG", PrivateKey.generate().public)
        assert store.lookup(USER) is not None and store.is_marked("ALICE@example.org")
        store.withdraw("alicE@example.org")
        assert store.lookup(USER) is None

    def test_a_suspended_user_is_neither_enrolled_nor_unknown(self, store: PublicKeys) -> None:
        key = PrivateKey.generate().public
        store.publish(USER, key)
        store.suspend(USER)
        assert store.is_marked(USER) and store.is_suspended(USER)
        with pytest.raises(TemporaryError):
            store.lookup(USER)
        store.publish(USER, key)
        assert store.lookup(USER) == key and not store.is_suspended(USER)

    def test_a_lost_or_damaged_key_is_an_error(self, store: PublicKeys) -> None:
        store.publish(USER, PrivateKey.generate().public)
        self.damage(store, USER)
        with pytest.raises(MailsealError):
            store.lookup(USER)
        self.lose_key(store, USER)
        with pytest.raises(TemporaryError):
            store.lookup(USER)
        assert store.is_marked(USER)

    def test_writes_survive_a_power_failure(self, store: PublicKeys) -> None:
        key = PrivateKey.generate().public
        assert self.outlives_a_power_cut(lambda: store.publish(USER, key))
        assert self.outlives_a_power_cut(lambda: store.suspend(USER))
        assert self.outlives_a_power_cut(lambda: store.withdraw(USER))

    def test_a_power_failure_never_removes_an_enrollment(self, store: PublicKeys) -> None:
        first, second = PrivateKey.generate().public, PrivateKey.generate().public
        store.publish(USER, first)
        self.cut_short(USER, lambda: store.publish(USER, second))
        assert store.lookup(USER) in (first, second)
        assert store.left_over() == [USER] * self.leaves
        assert bool(store.sweep(USER)) == self.leaves and not store.sweep(USER)
        assert store.left_over() == [] and store.lookup(USER) in (first, second)


def check_order_of_writes(stores: KeyStores) -> None:
    """No transaction publishes a key without a keyring, even if it stops at any point."""
    first = make()
    with stores.transaction(USER) as change:
        change.create(first)
        opened = first.unlock(b"pw")
        opened.add_key("prime256v1", now=2)
        change.save(opened.keyring, before=first)
    assert stores.public.lookup(USER) == opened.keyring.current
    with stores.transaction(USER) as change:
        change.suspend()
        assert stores.public.is_suspended(USER)
        change.publish(change.keyring().current)
        change.remove()
    assert stores.public.lookup(USER) is None and stores.keyrings.revision(USER) is None
