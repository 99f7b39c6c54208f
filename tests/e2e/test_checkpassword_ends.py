# SPDX-License-Identifier: MIT
"""The checkpassword program ends in any way: no login of an enrolled user saves in clear."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from mailseal.login import lookups
from tests.e2e.keyless import MAIL, PLAIN, SENDER, SERIES, append, heads
from tests.e2e.lookup_process import lookup_process, lookup_socket
from tests.lab import ALICE, Lab, Pop3, Refused
from tests.lab.process import wait_until
from tests.lab.smtp import send


@pytest.mark.skipif(SERIES != "2.3", reason="Dovecot 2.4 has no checkpassword driver")
@pytest.mark.parametrize("step", ["passdb", "userdb"])
@pytest.mark.parametrize(
    "ends",
    [
        "exit 0",
        "exit 1",
        "exit 2",
        "exit 3",
        "exit 111",
        "exit 127",
        "kill -SEGV $$",
        "kill -KILL $$",
        "printf 'user=alice@example.org\\t' >&4; exit 0",
        "printf 'userdb_quota_rule=*:storage=1G\\t' >&4; exit 0",
        "printf 'userdb_quota_rule=*:storage=1G\\t' >&4; exit 2",
        "printf 'userdb_mail_crypt_save_version=2\\t' >&4; exit 0",
        "exec 4>&-; exit 0",
    ],
)
def test_the_checkpassword_program_ends_in_any_way(helper_lab: Lab, step: str, ends: str) -> None:
    """An answer of the passdb without keys, and one of the userdb without a decision."""
    path = helper_lab.place.path("code", "hooks", "mailseal-checkpassword")
    real = f"{path}.real"
    broken = '[ -z "$AUTHORIZED" ]' if step == "passdb" else '[ -n "$AUTHORIZED" ]'
    os.rename(path, real)
    try:
        with open(path, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o755)
            stream.write(f'#!/bin/sh\nif {broken}; then {ends}; fi\nexec {real} "$@"\n')
        with contextlib.suppress(Refused):
            append(helper_lab, ALICE)
        with contextlib.suppress(Refused), Pop3(helper_lab.pop3, ALICE, "password") as pop3:
            assert pop3.mail(1).endswith(MAIL[-20:]), "an empty mail"
        with contextlib.suppress(Refused):
            append(helper_lab, PLAIN)
    finally:
        os.rename(real, path)
    assert heads(helper_lab, ALICE, "Sent") <= {b"CRYPTED"}
    append(helper_lab, PLAIN)


@pytest.mark.skipif(SERIES != "2.3", reason="Dovecot 2.4 has no checkpassword driver")
@pytest.mark.parametrize("kind", ["passdb", "behind"])
def test_the_process_for_lookups_answers_in_any_way(helper_lab: Lab, kind: str) -> None:
    """Another one in its place, which is right about the other kind of question."""
    public, answer = helper_lab.place.path("state", "public"), b""
    clients: list[socket.socket] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            clients.append(self.request)
            while line := self.rfile.readline().decode():
                if line.startswith(f"Lshared/{kind}|") and not answer:
                    return
                if line.startswith(f"Lshared/{kind}|"):
                    self.wfile.write(answer)
                elif line.startswith("L"):
                    found = lookups.answer(line[1:].split("\t")[0].rstrip("\n"), public)
                    self.wfile.write(f"O{json.dumps(found)}\n".encode())

    path = lookup_socket(helper_lab)
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        os.chmod(path, 0o666)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for answer in (
            b"", b"N\n", b"F\n", b"X\n", b"\n", b"O\n", b"O{}\n", b"O[]\n", b'O{"a": {}}\n',
            b'O{"nopassword": "y"}\n', b'O{"mail_crypt_save_version": "2"}\n',
        ):  # fmt: skip
            for user in (ALICE, PLAIN):
                with contextlib.suppress(Refused):
                    append(helper_lab, user)
            with contextlib.suppress(Refused), Pop3(helper_lab.pop3, ALICE, "password") as pop3:
                assert pop3.mail(1).endswith(MAIL[-20:]), f"an empty mail: {answer!r}"
            assert heads(helper_lab, ALICE, "Sent") <= {b"CRYPTED"}, answer
        server.shutdown()
        for client in clients:  # Dovecot closes an idle connection after a minute
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
    os.unlink(path)
    append(helper_lab, ALICE)
    append(helper_lab, PLAIN)


@pytest.fixture(scope="module")
def helper_lab() -> Iterator[Lab]:
    """A lab with the auth cache, and a mail to read."""
    cache = "auth_cache_size = 10 M\nauth_cache_verify_password_with_worker = yes\n"
    auth = "behind-passwd-file-checkpassword"
    with Lab(auth=auth, plain_users={PLAIN: "password"}, dovecot_extra=cache) as made:
        send(made.smtp, SENDER, [ALICE], MAIL)
        made.wait_delivered()
        os.kill(lookup_process(made), signal.SIGKILL)  # so that the program is asked
        wait_until(lambda: not os.path.exists(lookup_socket(made)), "the agent removes its socket")
        yield made
