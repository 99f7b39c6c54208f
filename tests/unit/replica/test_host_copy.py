# SPDX-License-Identifier: MIT
"""What the agent concludes from this host's copy of the public keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys import lease
from mailseal.keys.public import PublicStore
from mailseal.login.host_copy import HostCopy, in_use
from tests.unit.replica.host import key
from tests.unit.store_contract import USER


@pytest.fixture
def store(tmp_path: Path) -> PublicStore:
    """A copy with a lease."""
    made = PublicStore(str(tmp_path / "public"))
    made.prepare(replica=True)
    lease.write(made.folder, lease.Clock().now() + 3600)
    return made


def test_without_a_copy_the_database_decides() -> None:
    copy = HostCopy(None)
    copy.must_not_know(USER, certainly=True)
    assert not copy.exists and copy.key(USER) is None


@pytest.mark.parametrize("certainly", [False, True])
@pytest.mark.parametrize(
    "state",
    [
        lambda store: store.publish(USER, key()),
        lambda store: (store.publish(USER, key()), store.suspend(USER)),
    ],
    ids=["enrolled", "suspended"],
)
def test_a_user_whom_only_the_copy_knows_is_no_new_one(
    store: PublicStore, state: Callable[[PublicStore], object], certainly: bool
) -> None:
    state(store)
    lease.write(store.folder, None)  # who is there is there, however old the copy is
    with pytest.raises(TemporaryError, match="enrolled in this host's copy"):
        HostCopy(store).must_not_know(USER, certainly=certainly)


def test_mail_in_clear_needs_a_copy_that_is_current(store: PublicStore) -> None:
    copy = HostCopy(store)
    copy.must_not_know(USER, certainly=True)
    lease.write(store.folder, None)
    copy.must_not_know(USER)
    with pytest.raises(TemporaryError, match="not current"):
        copy.must_not_know(USER, certainly=True)


def test_only_a_key_of_the_user_is_in_use(store: PublicStore) -> None:
    old, new = key(), key()
    copy = HostCopy(store)
    assert copy.key(USER) is None and in_use(None, [old, new]) == new
    store.publish(USER, old)
    assert in_use(copy.key(USER), [old, new]) == old
    store.publish(USER, key())
    assert in_use(copy.key(USER), [old, new]) == new
    store.suspend(USER)
    assert copy.key(USER) is None
