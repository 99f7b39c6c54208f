# SPDX-License-Identifier: MIT
"""The log: one format, no forged lines, no waiting, and root follows no links."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mailseal import logs
from mailseal.errors import ConfigError
from mailseal.logs import ERROR, INFO, Log
from tests.lab.place import let_others_in

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be led astray")
STRANGER = 60605
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d \S+ program\[\d+\]: (.*)")


def lines(path: Path) -> list[str]:
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found), path.read_text()
    return [match[1] for match in found if match]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mailseal.log"


def test_no_line_is_forged(file: Path) -> None:
    Log(str(file), "program").write(INFO, "user=<a\nb\r\x1b[0m\x85\u2028\udc80é>")
    assert lines(file) == [r"user=<a\x0ab\x0d\x1b[0m\x85\u2028\udc80é>"]


def test_after_a_rotation_the_new_file_is_written(file: Path) -> None:
    log = Log(str(file), "program")
    log.write(INFO, "one")
    file.rename(file.with_suffix(".1"))
    log.reopen()
    log.write(INFO, "two")
    assert lines(file.with_suffix(".1")) == ["one"]
    assert lines(file) == ["two"]


def test_a_rotation_is_seen_without_a_signal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(str(file), "program")
    file.rename(file.with_suffix(".1"))
    monkeypatch.setattr(logs, "_LOOK_EVERY", 0)
    log.write(INFO, "two")
    assert lines(file) == ["two"]


def test_a_new_file_that_cannot_be_opened_leaves_the_old_one(file: Path) -> None:
    log = Log(str(file), "program")
    old = file.with_suffix(".1")
    file.rename(old)
    file.mkdir()
    log.reopen()
    log.write(INFO, "one")
    assert lines(old) == ["one"]


def test_a_full_disk_fails_nothing_and_is_told_later(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(str(file), "program")
    full = os.open("/dev/full", os.O_WRONLY)
    fine = os.dup(log._sink.fd)
    os.dup2(full, log._sink.fd)
    monkeypatch.setattr(logs, "_LOOK_EVERY", 1e9)
    for number in range(3):
        log.write(INFO, f"lost {number}")
    os.dup2(fine, log._sink.fd)
    log.write(ERROR, "error: kept")
    assert lines(file) == [
        "error: kept",
        "warning: 3 log lines were lost before the last one",
    ]


def test_a_syslog_that_hangs_delays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    syslog.bind(str(path))
    monkeypatch.setattr(logs, "_SYSLOG", str(path))
    log = Log("syslog", "program")
    for number in range(2000):  # more than the kernel buffers for a process that does not read
        log.write(INFO, f"line {number}")
    syslog.setblocking(False)
    got = []
    while True:
        try:
            got.append(syslog.recv(5000))
        except BlockingIOError:
            break
    assert re.fullmatch(rb"<22>\w{3} [ \d]\d [\d:]{8} program\[\d+\]: line 0", got[0])
    log.write(INFO, "again")
    assert syslog.recv(5000).endswith(b": again")
    lost = b": warning: %d log lines were lost before the last one" % (2000 - len(got))
    assert syslog.recv(5000).endswith(lost)


def test_a_restarted_syslog_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    monkeypatch.setattr(logs, "_SYSLOG", str(path))
    for text in ("one", "two"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
            syslog.bind(str(path))
            if text == "one":
                log = Log("syslog", "program")
            log.write(INFO, text)
            assert syslog.recv(5000).endswith(text.encode())
        path.unlink()


def test_a_slow_reader_of_standard_error_delays_nothing() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mailseal.logs import INFO, Log\n"
        "log = Log('stderr', 'program')\n"
        "for n in range(5000): log.write(INFO, 'x' * 200)\n"
    )
    lib = os.path.dirname(os.path.dirname(logs.__file__))
    read, write = os.pipe()
    try:
        subprocess.run([sys.executable, "-c", code, lib], stderr=write, timeout=120, check=True)
        os.close(write)
        assert os.read(read, 1 << 20).endswith(b"x\n")
    finally:
        os.close(read)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_no_plain_file_is_refused(file: Path, kind: str) -> None:
    target = file.with_name("target")
    target.write_text("as it was\n")
    if kind == "link":
        file.symlink_to(target)
    else:
        os.mkfifo(file)
    with pytest.raises(ConfigError, match=r"option log\.to"):
        Log(str(file), "program", owner=(STRANGER, STRANGER))
    assert target.read_text() == "as it was\n"
    assert target.stat().st_uid == os.getuid()


@needs_root
def test_root_makes_it_for_both_daemons(file: Path) -> None:
    Log(str(file), "program", user=(STRANGER, STRANGER), owner=(60602, 60601))
    state = file.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (60602, 60601, 0o660)


@needs_root
def test_a_hard_link_elsewhere_does_not_stop_a_daemon(file: Path) -> None:
    """A daemon that may write to the file can hard-link it; the other one must still start."""
    Log(str(file), "program", user=(STRANGER, STRANGER), owner=(60602, STRANGER))
    theirs = file.with_name("theirs")
    theirs.mkdir()
    os.chown(theirs, STRANGER, STRANGER)
    for place in file.parents:
        if place.stat().st_uid == 0 and place.name.startswith(("pytest", "test_")):
            place.chmod(0o755)
    link = "import os, sys; os.link(sys.argv[1], sys.argv[2])"
    command = ["/usr/bin/python3", "-c", link, str(file), str(theirs / "second")]
    subprocess.run(command, user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", check=True)
    Log(str(file), "program", owner=(60602, STRANGER)).write(INFO, "started")
    assert lines(file) == ["started"]
    user = (STRANGER, STRANGER)
    with pytest.raises(ConfigError, match="hard links"):  # in this folder it could be any file
        Log(str(theirs / "second"), "program", user=user, owner=user)


@needs_root
def test_in_a_folder_of_others_root_opens_nothing(tmp_path: Path) -> None:
    """A link in the path, and a link instead of the file: their targets are not changed."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "shadow").write_text("as it was\n")
    (theirs / "sub").symlink_to(secret)
    (theirs / "shadow").symlink_to(secret / "shadow")
    os.chown(theirs, STRANGER, STRANGER)
    user = (STRANGER, STRANGER)
    for path in (theirs / "sub" / "shadow", theirs / "shadow", theirs / "sub" / "new"):
        with pytest.raises(ConfigError):
            Log(str(path), "program", user=user, owner=user)
    assert (secret / "shadow").read_text() == "as it was\n"
    assert os.listdir(secret) == ["shadow"]
    let_others_in(tmp_path)
    log = Log(str(theirs / "own.log"), "program", user=user, owner=(0, 0))
    log.write(INFO, "made by the daemon's user")
    assert (theirs / "own.log").stat().st_uid == STRANGER
    assert os.geteuid() == 0
