# SPDX-License-Identifier: MIT
"""A user with mail in clear, and the conversions of that mail while IMAP clients are at work.

`python -m tests.e2e.existing [MAILS]` does it with 5,000 mails in 20 folders: `make soak`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from collections.abc import Sequence

from mailseal.crypto import dcrypt
from tests.e2e.busy import Mailbox
from tests.e2e.mails import HEADERS, ODD, cpython_mails, crlf, of_size
from tests.lab import Lab
from tests.lab.place import MAIL_UID
from tests.lab.smtp import send

SENDER = "eve@example.net"


def fill(lab: Lab, name: str, password: str, folders: Sequence[str], count: int = 0) -> None:
    """Mail of many kinds in clear, `count` or each kind once; then the user is enrolled."""
    kinds = [*map(crlf, cpython_mails().values()), *ODD.values()]
    kinds += [of_size(size, newline=b"\r\n") for size in (1000, 8191, 8192, 8193, 200_000)]
    kinds = [mail for mail in kinds if b"\0" not in mail and not mail.startswith(b"CRYPTED")]
    mails = itertools.islice(itertools.cycle(kinds), count or len(kinds))
    with Mailbox(lab, name, password, ()).login() as imap:
        for folder in folders[1:]:
            imap.command(b'CREATE "%s"' % folder.encode())
            imap.command(b'SUBSCRIBE "%s"' % folder.encode())
        for number, (folder, mail) in enumerate(zip(itertools.cycle(folders), mails)):
            date = b"%02d-Mar-2019 09:08:07 +0000" % (number % 28 + 1)
            imap.command(
                b'APPEND "%s" (\\Flagged Work) "%s" {%d}' % (folder.encode(), date, len(mail)), mail
            )
        imap.select("INBOX")
        imap.command(b'COPY 1:* "%s"' % folders[1].encode())
    acl = os.path.join(lab.maildir(name, folders[1]), "dovecot-acl")
    with open(acl, "w", encoding="ascii") as stream:
        stream.write("user=bob@example.org lr\n")
    os.chown(acl, MAIL_UID, MAIL_UID)
    send(lab.smtp, SENDER, [name], HEADERS + b"arrived in clear\r\n")
    lab.wait_delivered()
    assert sum(map(is_sealed, files(lab, name))) == 0
    done = lab.mailseal("enroll", name, stdin=password.encode() + b"\n")
    assert done.returncode == 0, done.stderr


def files(lab: Lab, user: str) -> list[str]:
    found = []
    for folder, _, names in os.walk(lab.maildir(user)):
        if os.path.basename(folder) in ("cur", "new"):
            found += [os.path.join(folder, name) for name in names]
    return sorted(found)


def beside(lab: Lab, user: str) -> dict[str, bytes]:
    """What must not change, beside the mails: subscriptions and ACL files."""
    found = {}
    for folder, _, names in os.walk(lab.maildir(user)):
        for name in {"subscriptions", "dovecot-acl"}.intersection(names):
            with open(os.path.join(folder, name), "rb") as stream:
                found[stream.name] = stream.read()
    return found


def left_over(lab: Lab, user: str) -> list[str]:
    return [
        os.path.join(folder, name)
        for folder, _, names in os.walk(lab.maildir(user))
        if os.path.basename(folder) == "tmp"
        for name in names
    ]


def is_sealed(path: str) -> bool:
    with open(path, "rb") as stream:
        return dcrypt.is_sealed(stream.read(16))


def run(lab: Lab, *arguments: str, stdin: bytes = b"") -> list[dict[str, object]]:
    done = lab.mailseal(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["users"]
    return found


def throughout(lab: Lab, user: str, secret: str, folders: Sequence[str], *, rate: str) -> int:
    """Sealed, sealed to a new pair, and unsealed again; mail arrives meanwhile.

    How many things the clients have done.
    """
    box = Mailbox(lab, user, secret, folders)
    before, kept = box.mails(), beside(lab, user)
    assert len(kept) == 2
    arrived: list[bytes] = []
    password = secret.encode() + b"\n"
    steps = {
        "seal": ("--limit-rate", rate, "--jobs", "2"),
        "reseal": ("--stdin", "--limit-rate", rate, "--jobs", "1"),
        "unseal": ("--stdin", "--limit-rate", rate, "--jobs", "2"),
    }
    for command, options in steps.items():
        if command == "reseal":
            assert lab.mailseal("rotate", user, stdin=password).returncode == 0
        operations = box.operations
        ended = threading.Event()

        def deliver(command: str = command, ended: threading.Event = ended) -> None:
            for number in itertools.count():
                end = b"<%s %d>\r\n" % (command.encode(), number)
                send(lab.smtp, SENDER, [user], HEADERS + end)
                arrived.append(end)
                if ended.wait(0.3):
                    return

        courier = threading.Thread(target=deliver)
        with box.busy():
            courier.start()
            stdin = b"" if command == "seal" else password
            done = lab.mailseal(command, user, *options, "--json", stdin=stdin)
            # What the clients save while it is unsealed is sealed: it says so, and gives up.
            assert done.returncode == 0 or (done.returncode, command) == (75, "unseal"), done
            (entry,) = json.loads(done.stdout)["users"]
            assert entry["stopped"] == "" or "more mail comes" in entry["stopped"], entry
            ended.set()
            courier.join()
        lab.wait_delivered()
        assert (entry["left"] == 0 or entry["stopped"]) and entry["skipped"] == [], entry
        assert int(str(entry["converted"])) > before // 2, entry
        assert box.operations - operations > 20
        box.require_as_remembered(arrived)
        assert left_over(lab, user) == []
        assert beside(lab, user) == kept
        if command != "unseal":
            # An IMAP session from before seals, too: it began after the enrollment.
            clear = [path for path in files(lab, user) if not is_sealed(path)]
            assert [path for path in clear if os.path.getsize(path)] == [], entry
            assert lab.mailseal("verify", user).returncode == 0
    return box.operations


def main(argv: Sequence[str]) -> int:
    """As the test, with more mails."""
    count = int(argv[1]) if len(argv) > 1 else 5000
    folders = ("INBOX", *(f"Folder{number}" for number in range(1, 20)))
    user, secret = "old@example.org", "password"
    with Lab({}, auth="behind-passwd-file", plain_users={user: secret}) as lab:
        fill(lab, user, secret, folders, count)
        print(f"{len(files(lab, user))} mails in {len(folders)} folders", flush=True)
        done = throughout(lab, user, secret, folders, rate="1M")
    print(f"sealed, resealed, unsealed; clients did {done} things; every mail is as they know it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
