# SPDX-License-Identifier: MIT
"""mailseal-deliver with the daemon and alone, and started by Postfix's pipe(8)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.place import MAIL_UID
from tests.lab.postfix import page_commands
from tests.lab.process import wait_until
from tests.lab.smtp import send

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
PYTHON = ("/usr/bin/python3", "-IS", "-X", "importtime")
MAIL = b"Subject: tangerine\r\nFrom: eve@example.net\r\n\r\nin the cellar\r\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab({}, auth="behind-passwd-file", plain_users={PLAIN: "password"}) as made:
        yield made


def deliver(lab: Lab, *args: str, stdin: bytes = MAIL, uid: int = MAIL_UID) -> tuple[int, str]:
    done = run([os.path.join(lab.hooks, "mailseal-deliver"), *args], stdin=stdin, uid=uid)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def run(
    command: list[str], *, stdin: bytes = MAIL, uid: int = MAIL_UID
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
    )


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_one_shot(lab: Lab, user: str, daemon: bool) -> None:
    if not daemon:
        lab.delivery.stop()
    try:
        with_config = ("-c", lab.config_path)
        unix = MAIL.replace(b"\r\n", b"\n")
        assert deliver(lab, *with_config, "-f", SENDER, user, stdin=unix) == (0, "")
        assert deliver(lab, *with_config, "-d", user, stdin=b"From eve@x Mon\n" + MAIL) == (0, "")
        assert deliver(lab, *with_config, PLAIN) == (0, "")
        code, text = deliver(lab, *with_config, "ghost@example.org")
        assert (code, text[:20]) == (
            67,
            "5.1.1 user unknown" if daemon else "5.1.1 <ghost@example",
        )
        assert deliver(lab, *with_config, "bad address")[0] == 67
        assert deliver(lab, *with_config)[0] == 75
        assert deliver(lab, *with_config, "-x", user)[0] == 75
        assert deliver(lab, "-c", "/nowhere", user)[0] == 75
        if not daemon:
            code, text = deliver(lab, *with_config, user, uid=65534)
            assert (code, text[:6]) == (75, "4.3.5 ")
    finally:
        lab.start_delivery()
    first, second = lab.inbox(user)
    assert first.startswith(b"Return-Path: <eve@example.net>\r\n")
    assert second.startswith(b"Return-Path: <eve@x>\r\n")
    assert first.endswith(MAIL)
    assert second.endswith(MAIL)


def test_one_shot_imports_little_with_a_daemon(lab: Lab, user: str) -> None:
    """These would take longer than the whole program."""
    hook = os.path.join(lab.hooks, "mailseal-deliver")
    done = run([*PYTHON, hook, "-s", lab.deliver_socket, user])
    assert (done.returncode, done.stdout) == (0, b"")
    loaded = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines()}
    assert "mailseal.delivery.dovecot.relay" in loaded
    heavy = {"asyncio", "cryptography", "dataclasses", "json", "logging", "typing", "yaml"}
    assert not loaded & (heavy | {"mailseal.config", "mailseal.delivery.single"})


def test_the_pipe_page(lab: Lab, user: str) -> None:
    """pipe(8): delivered by the daemon; deferred while it is down, with the reason in the queue."""

    def run(part: str) -> None:
        for line in page_commands("pipe", part):
            line = line.replace("/run/mailseal/deliver.sock", lab.deliver_socket)
            line = line.replace("/usr/lib/mailseal/hooks", lab.hooks).replace("vmail", "nobody")
            command = shlex.split(line)
            if command[0] == "postconf":
                lab.postfix.postconf(*command[1:])

    before = {name: lab.postfix.postconf(*name) for name in (("-n",), ("-M",), ("-P",))}
    old = lab.postfix.postconf("-h", "virtual_transport").strip()
    lab.postfix.stop()
    run("Run")
    lab.postfix.start()
    try:
        send(lab.smtp, SENDER, [user], MAIL)
        lab.wait_delivered()
        send(lab.smtp, SENDER, ["ghost@example.org"], MAIL)
        wait_until(
            lambda: "dsn=5.1.1, status=bounced (user unknown)" in lab.log_text(), "it bounces"
        )
        lab.delivery.stop()
        send(lab.smtp, SENDER, [user], MAIL)
        wait_until(
            lambda: re.search("relay=mailseal-deliver.*dsn=4.3.5, status=defer", lab.log_text()),
            "it is deferred",
        )
        lab.start_delivery()
        lab.postfix.flush()
        lab.wait_delivered()
        bodies = lab.inbox(user)
        assert len(bodies) == 2
        assert all(body.endswith(b"in the cellar\r\n") for body in bodies)
    finally:
        lab.postfix.stop()
        run("Undo")
        lab.postfix.postconf("-e", f"virtual_transport = {old}")
        after = {name: lab.postfix.postconf(*name) for name in before}
        lab.postfix.start()
    assert after == before
