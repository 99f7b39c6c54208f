# SPDX-License-Identifier: MIT
"""Unix sockets made by root: mode and group from the beginning, and no links followed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from mailseal.errors import ConfigError
from mailseal.paths import open_folder
from mailseal.sockets import listen

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be led astray")
STRANGER = 60605


def made(path: Path, mode: int = 0o660, group: int | None = None) -> socket.socket:
    return listen(str(path), mode=mode, group=group, backlog=5)


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_and_group(tmp_path: Path, mode: int) -> None:
    with made(tmp_path / "s", mode, 60604):
        state = (tmp_path / "s").stat()
        assert (state.st_mode & 0o777, state.st_gid, state.st_uid) == (mode, 60604, 0)
    assert os.getegid() == 0


def test_a_socket_that_was_left_is_replaced_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s"
    made(path).close()
    with made(path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(ConfigError, match="another process already listens there"):
            made(path)
    path.unlink()
    path.write_text("a file")
    with pytest.raises(ConfigError, match="is not a socket"):
        made(path)
    assert path.read_text() == "a file"


@needs_root
def test_links_of_others_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("root's own")
    target.chmod(0o600)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "s").symlink_to(target)
    (theirs / "sub").symlink_to(tmp_path)
    os.chown(theirs, STRANGER, STRANGER)
    with pytest.raises(ConfigError):
        made(theirs / "s", 0o666, STRANGER)
    with pytest.raises(ConfigError, match="symbolic link that others can change"):
        made(theirs / "sub" / "s", 0o666, STRANGER)
    state = target.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o600)
    assert sorted(os.listdir(tmp_path)) == ["shadow", "theirs"]


@needs_root
def test_replacing_the_name_all_the_time_has_no_effect(tmp_path: Path) -> None:
    """The owner of the folder replaces the new socket by a link at once."""
    target = tmp_path / "shadow"
    target.write_text("root's own")
    target.chmod(0o600)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    path = theirs / "s"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.unlink(path)
                os.symlink(target, path)
                os.unlink(path)
            except OSError:
                pass

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(500):
            with contextlib.suppress(ConfigError, OSError):
                made(path, 0o666, STRANGER).close()
            state = target.stat()
            assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o600)
    finally:
        stop.set()
        thread.join()


@needs_root
def test_no_acl_in_a_folder_that_others_can_change(tmp_path: Path) -> None:
    """The owner of the folder could replace it by another socket."""
    os.chown(tmp_path, STRANGER, STRANGER)
    with pytest.raises(ConfigError, match="users other than root can change its folder"):
        listen(str(tmp_path / "s"), mode=0o660, group=None, backlog=5, users=[60606])


def test_roots_own_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with made(tmp_path / "link" / "s"):
        assert (tmp_path / "run" / "s").is_socket()


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError):
        open_folder(str(tmp_path / "a"))


def test_a_folder_open_to_all_is_refused_but_not_with_the_sticky_bit(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write"):
        made(tmp_path / "s")
    (tmp_path / "below").mkdir()
    with pytest.raises(ConfigError, match="everybody may write"):
        made(tmp_path / "below" / "s")
    tmp_path.chmod(0o1777)
    made(tmp_path / "s").close()
    with open_folder(str(tmp_path)) as folder:
        assert not folder.own
    with open_folder(str(tmp_path / "below")) as folder:
        assert folder.own
