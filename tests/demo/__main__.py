# SPDX-License-Identifier: MIT
"""`make demo`: a mail arrives by SMTP, is stored sealed, and is read after a login.

It uses a real Postfix and Dovecot, in a temporary folder that is removed at the end.
The exit status is 0 if all checks succeed, 1 otherwise.
"""

from __future__ import annotations

import os
import sys
import time

from tests.demo.letter import SECRETS, SENDER, WORDS, letter, sent_copy
from tests.demo.report import CheckFailed, Report, hexdump
from tests.lab import ALICE, Imap, Lab, LabError, Pop3, Refused
from tests.lab.process import interrupt_on_signals
from tests.lab.search import count_files, search_bytes, search_folder
from tests.lab.smtp import send

PASSWORD = "correct horse"


def main() -> int:
    """Run the demo; returns the exit status."""
    interrupt_on_signals()
    report = Report()
    started = time.monotonic()
    try:
        with Lab({}, kdf="standard") as lab:
            _run(lab, report)
    except CheckFailed as exc:
        sys.stderr.write(f"\nmailseal: error: demo: check failed: {exc}\n")
        return 1
    except LabError as exc:
        sys.stderr.write(f"mailseal: error: {exc}\n")
        if exc.hint:
            sys.stderr.write(f"mailseal: hint: {exc.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    seconds = time.monotonic() - started
    report.say(f"\n{report.checks} checks succeeded in {seconds:.0f} s; nothing is left running.")
    return 0


def _run(lab: Lab, report: Report) -> None:
    _enroll(lab, report)
    arrived = _arrives(lab, report)
    _lies_sealed(report, arrived)
    _wrong_password(lab, report)
    stored = _comes_out(lab, report)
    _sent(lab, report)
    _cat(lab, report, stored)
    _nothing_in_clear(lab, report)


def _enroll(lab: Lab, report: Report) -> None:
    version = lab.postfix.postconf("-d", "-h", "mail_version").strip()
    report.say(f"A private Postfix {version} and Dovecot {lab.dovecot.version} run in {lab.dir}")
    report.step(f"{ALICE} gets a key pair that only her password opens")
    done = lab.mailseal("enroll", ALICE, stdin=f"{PASSWORD}\n".encode())
    report.show(f"# mailseal enroll {ALICE}")
    report.show((done.stdout + done.stderr).decode())
    report.check(done.returncode == 0, "enrolled")


def _arrives(lab: Lab, report: Report) -> str:
    mail = letter(ALICE)
    report.step("A mail with an attachment arrives by SMTP")
    report.show("\n".join(mail.decode().splitlines()[:5]) + "\n...")
    answer = send(lab.smtp, SENDER, [ALICE], mail)
    report.show(f"Postfix: 250 {answer.decode()}")
    lab.wait_delivered()
    for line in lab.log_text().splitlines():
        if "action=sealed" in line:
            report.show(line[line.index("mailseal-lmtp") :])
    files = lab.stored(ALICE)
    report.check(len(files) == 1, "mailseal-lmtp stored it in the Maildir")
    return files[0]


def _lies_sealed(report: Report, path: str) -> None:
    report.step("The file is sealed, in Dovecot's own format")
    with open(path, "rb") as stream:
        data = stream.read()
    report.show(path)
    report.show(hexdump(data[:64]))
    report.check(data.startswith(b"CRYPTED\x03\x07\x02"), "the file begins as a sealed mail must")
    report.check(bool(search_bytes(letter(ALICE), WORDS)), "the search finds the words in the mail")
    report.check(not search_bytes(data, WORDS), "and none of them in the file")


def _wrong_password(lab: Lab, report: Report) -> None:
    report.step("IMAP with a wrong password")
    try:
        Imap(lab.imap, ALICE, "correct house")
        answer = "OK"
    except Refused as exc:
        answer = str(exc)
    report.show(f"Dovecot: {answer}")
    report.check("[AUTHENTICATIONFAILED]" in answer, "is refused")


def _comes_out(lab: Lab, report: Report) -> bytes:
    report.step("IMAP and POP3 with the right password")
    before = time.monotonic()
    with Imap(lab.imap, ALICE, PASSWORD) as imap:
        first = time.monotonic() - before
        got = imap.bodies()[0]
        imap.command(b"FETCH 1 (ENVELOPE BODYSTRUCTURE)")
    with Pop3(lab.pop3, ALICE, PASSWORD) as pop3:
        by_pop3 = pop3.mail(1)
    before = time.monotonic()
    Imap(lab.imap, ALICE, PASSWORD).__exit__(None, None, None)
    second = time.monotonic() - before
    headers, _, rest = got.partition(b"From: Evangelina")
    report.show(headers.decode().rstrip())
    report.check(b"From: Evangelina" + rest == letter(ALICE), "IMAP returns it byte for byte")
    report.check(by_pop3 == got, "POP3 returns the same")
    report.show(
        f"login: {first * 1000:.0f} ms at first, with Argon2id over 64 MiB; "
        f"{second * 1000:.0f} ms while the session lasts"
    )
    return got


def _sent(lab: Lab, report: Report) -> None:
    report.step("The client saves a mail in the folder Sent")
    with Imap(lab.imap, ALICE, PASSWORD) as imap:
        imap.append("Sent", sent_copy())
        got = imap.bodies("Sent")
    with open(lab.stored(ALICE, "Sent")[0], "rb") as stream:
        start = stream.read(16)
    report.show(hexdump(start))
    report.check(start.startswith(b"CRYPTED\x03\x07\x02"), "it is sealed too")
    report.check(got == [sent_copy()], "IMAP returns it unchanged")


def _cat(lab: Lab, report: Report, expected: bytes) -> None:
    path = lab.stored(ALICE)[0]
    report.step("mailseal cat opens a stored file with the password")
    done = lab.mailseal("cat", path, stdin=f"{PASSWORD}\n".encode())
    report.show(f"# mailseal cat {os.path.basename(path)}")
    opened = done.stdout.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    report.check(done.returncode == 0 and opened == expected, "it is the mail")
    with open(path, "rb") as stream:
        data = bytearray(stream.read())
    data[len(data) // 2] ^= 1
    changed = lab.place.path("mail", "changed")
    with open(changed, "wb") as stream:
        stream.write(data)
    done = lab.mailseal("cat", changed, stdin=f"{PASSWORD}\n".encode())
    report.show(done.stderr.decode())
    report.check(
        done.returncode == 65 and not done.stdout, "with one bit changed, the file is refused"
    )


def _nothing_in_clear(lab: Lab, report: Report) -> None:
    report.step("Search of all files, except Postfix's queue")
    queue = lab.place.path("postfix", "queue")
    for kind, words in SECRETS.items():
        report.show(f"{kind:11}{', '.join(words)}")
    hits = search_folder(lab.dir, WORDS, skip=[queue])
    for hit in hits:
        report.show(f"FOUND {hit.word} ({hit.form}) in {hit.path}")
    report.check(
        not hits,
        f"{count_files(lab.dir, skip=[queue])} files, "
        "no word of it in plain, base64 or quoted-printable",
    )
    in_memory = search_folder(lab.place.quick_path("cache"), WORDS)
    for name in sorted({os.path.basename(hit.path) for hit in in_memory}):
        report.show(f"Dovecot's {name} contains some words: it is on tmpfs, never on disk")


if __name__ == "__main__":
    sys.exit(main())
