# SPDX-License-Identifier: MIT
"""mailseal verify on mail that the real Dovecot stores and serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from tests.lab import ALICE, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID
from tests.lab.process import logged
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
TEXT = b"Subject: harvest\r\n\r\n" + b"the pomegranate is in the cellar\r\n" * 40


def _deliver(lab: Lab, user: str, text: bytes = TEXT) -> str:
    """The file of a mail that has just arrived."""
    before = set(lab.stored(user))
    assert send_lmtp(lab.lmtp, SENDER, [user], text)[0][0] == 250
    (path,) = set(lab.stored(user)) - before
    return path


def _verify(lab: Lab, user: str, *, tags: bool = False) -> tuple[int, dict[str, Any]]:
    arguments = ["verify", user, "--json", *(["--stdin"] if tags else [])]
    done = lab.mailseal(*arguments, stdin=b"password\n" if tags else b"")
    assert done.returncode in (0, 1), done.stderr
    (result,) = json.loads(done.stdout)["users"]
    return done.returncode, result


def _found(result: dict[str, Any]) -> list[tuple[str, str, int | None, str]]:
    return [(f["kind"], f["folder"], f["uid"], f["path"]) for f in result["findings"]]


def _as_mail_owner(*command: str, stdin: bytes = b"") -> None:
    subprocess.run(command, input=stdin, check=True, user=MAIL_UID, group=MAIL_UID)


def _write(path: str, content: bytes) -> str:
    _as_mail_owner("tee", path, stdin=content)
    return path


def _flip(path: str, offset: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes((byte ^ 1,)))


def _uids(lab: Lab, user: str, folder: str = "INBOX") -> list[int]:
    with lab.login(user) as imap:
        imap.select(folder)
        answers = imap.command(b"UID SEARCH ALL")
    return [int(x) for x in next(a for a in answers if a.startswith(b"* SEARCH")).split()[2:]]


def test_a_used_mailbox_has_no_findings(lab: Lab, user: str) -> None:
    """Deliveries, APPEND, COPY, MOVE, flags, keywords, folders in folders; new and read mail."""
    for number in range(5):
        _deliver(lab, user, TEXT + b"%d\r\n" % number)
    with lab.login(user) as imap:
        for folder in (b"Sent", b"Work", b"Work.2024", b'"&AOQ- b"'):
            imap.command(b"CREATE " + folder)
        imap.select()
        imap.append("Sent", TEXT)
        imap.append("Sent", b"\r\n")
        imap.command(b"STORE 1:2 +FLAGS (\\Seen harvest)")
        imap.command(b"COPY 1:3 Work")
        imap.command(b"COPY 1 INBOX")
        imap.command(b"MOVE 4 Work.2024")
        imap.command(b"STORE 2 +FLAGS (\\Deleted)")
        imap.command(b"EXPUNGE")
    _deliver(lab, user)
    assert any(os.stat(path).st_nlink > 1 for path in lab.stored(user))  # COPY made a hard link
    for tags in (False, True):
        status, result = _verify(lab, user, tags=tags)
        assert (status, result["findings"]) == (0, [])
        assert result["sealed"] == result["mails"] >= 10
        assert result["tags_checked"] is tags


def test_one_bit_that_dovecot_does_not_see(lab: Lab, user: str) -> None:
    _deliver(lab, user)
    path = _deliver(lab, user)
    assert ",W=" in path
    _flip(path, -16 - 10)
    with lab.login(user) as imap:
        first, second = imap.bodies()
    assert first.endswith(TEXT)
    assert len(first) == len(second)
    assert first[-len(TEXT) :] != second[-len(TEXT) :]  # served, one bit changed
    path = lab.stored(user)[1]
    assert _verify(lab, user) == (0, _verify(lab, user)[1])
    status, result = _verify(lab, user, tags=True)
    assert status == 1
    assert _found(result) == [("changed", "INBOX", _uids(lab, user)[1], path)]
    assert os.path.exists(path)
    done = lab.mailseal("verify", user, "--stdin", stdin=b"password\n")
    assert done.returncode == 1
    assert f"{user}: CHANGED: INBOX, UID 2: ".encode() in done.stdout
    assert b"WARNING: 1 mails of " in done.stderr


def test_a_recovery_code_works_and_a_wrong_password_does_not(lab: Lab, user: str) -> None:
    _flip(_deliver(lab, user), -20)
    made = lab.mailseal("recovery-code", user, "--stdin", stdin=b"password\n")
    done = lab.mailseal("verify", user, "--stdin", stdin=made.stdout.splitlines()[0] + b"\n")
    assert (done.returncode, b"CHANGED" in done.stdout) == (1, True)
    assert lab.mailseal("verify", user, "--stdin", stdin=b"rhubarb\n").returncode == 77
    assert lab.mailseal("verify", "nobody@example.org").returncode == 67
    assert lab.mailseal("verify").returncode == 64


def test_keys_from_a_file_and_passwords_of_several_users(
    lab: Lab, user: str, tmp_path: Path
) -> None:
    _flip(_deliver(lab, user), -20)
    exported = lab.mailseal("export-key", user, "--stdin", stdin=b"password\n").stdout
    (tmp_path / "keys").write_bytes(exported)
    done = lab.mailseal("verify", user, "--key", str(tmp_path / "keys"))
    assert (done.returncode, b"CHANGED" in done.stdout) == (1, True)
    # After a wrong password of one user, the others are still checked.
    lab.add_user(other := f"other-{user}")
    secrets = b"rhubarb\npassword\n"
    done = lab.mailseal("verify", other, user, "--json", "--stdin", stdin=secrets)
    first, second = json.loads(done.stdout)["users"]
    assert (first["counts"], first["tags_checked"]) == ({"unreadable": 1}, False)
    assert (second["counts"], second["tags_checked"]) == ({"changed": 1}, True)
    assert lab.mailseal("verify", "--all", "--tags").returncode == 64


def test_mail_in_clear_is_reported(lab: Lab, user: str) -> None:
    _deliver(lab, user)
    maildir = lab.maildir(user)
    with lab.login(user) as imap:
        imap.command(b"CREATE Sent")
    plain = _write(
        f"{maildir}/.Sent/cur/1700000000.M1P1.host,S=20,W=22:2,S", b"Subject: x\n\nplain\n\n\n"
    )
    in_tmp = _write(f"{maildir}/tmp/1700000000.M2P1.host", b"Subject: x\n\n")
    hidden = _write(f"{maildir}/new/.hidden", b"Subject: x\n\n")
    cache = _write(f"{maildir}/.Sent/dovecot.index.cache", b"subjects")
    dupes = _write(f"{lab.home(user)}/.dovecot.lda-dupes", b"<id@example.net>")
    _as_mail_owner("mkdir", f"{maildir}/xapian-indexes")
    _write(f"{maildir}/xapian-indexes/termlist.glass", b"pomegranate")
    with lab.login(user) as imap:
        imap.select("Sent")
    status, result = _verify(lab, user)
    assert status == 1
    assert sorted(_found(result)) == sorted(
        [
            ("clear", "Sent", 1, plain),
            ("clear", "INBOX", None, in_tmp),
            ("clear", "INBOX", None, hidden),
            ("text", "", None, cache),
            ("text", "", None, dupes),
            ("text", "", None, f"{maildir}/xapian-indexes"),
        ]
    )


@pytest.fixture
def on_disk() -> Iterator[str]:
    """A folder of the owner of the mail that is not on tmpfs, unlike /tmp of Debian 13."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chown(made, MAIL_UID, MAIL_UID)
        yield made


def test_index_and_control_files_elsewhere(on_disk: str) -> None:
    """Dovecot's index cache and the UIDs are found at the paths in its settings."""
    made = Lab({ALICE: "password"})
    index, control = f"{on_disk}/index", f"{on_disk}/control"
    if series(installed_version()) == "2.3":
        text = f"mail_location = maildir:~/Maildir:INDEX={index}/%u:CONTROL={control}/%u\n"
    else:
        text = f"mail_index_path = {index}/%{{user}}\nmail_cache_path = {index}/%{{user}}\n"
        text += f"mail_control_path = {control}/%{{user}}\n"
    made.dovecot.write_config(text)
    with made as lab:
        _deliver(lab, ALICE)
        path = _deliver(lab, ALICE)
        logged(lab, "action=sealed")
        with lab.login(ALICE) as imap:
            imap.select()
            imap.command(b"FETCH 1:* (ENVELOPE)")
        (path,) = (p for p in lab.stored(ALICE) if os.path.basename(path) in p)
        _flip(path, -20)
        cache = f"{index}/{ALICE}/.INBOX/dovecot.index.cache"
        result = _verify(lab, ALICE, tags=True)[1]
        found = _found(result)
        assert found == [("changed", "INBOX", 2, path), ("text", "", None, cache)], result


def test_sizes_keys_and_headers_are_checked_without_a_password(lab: Lab, user: str) -> None:
    maildir = lab.maildir(user)
    good = _deliver(lab, user)
    foreign = _write(f"{maildir}/cur/1.f.host:2,", dcrypt.seal(PrivateKey.generate().public, b"x"))
    cut = _deliver(lab, user)
    os.truncate(cut, os.path.getsize(cut) - 7)
    short = _deliver(lab, user)
    os.truncate(short, 262)
    header = _deliver(lab, user)
    _flip(header, 20)
    # With a smaller W= Dovecot truncates the mail.
    sized = _deliver(lab, user)
    right = int(re.findall(r",W=(\d+)", sized)[0])
    os.rename(sized, wrong := re.sub(r",W=\d+", ",W=50", sized))
    os.symlink(good, link := f"{maildir}/cur/2.l.host:2,")
    status, result = _verify(lab, user)
    assert status == 1
    assert {(kind, path) for kind, _, _, path in _found(result)} == {
        ("foreign", foreign),
        ("size", cut),
        ("damaged", short),
        ("damaged", header),
        ("size", wrong),
        ("odd", link),
    }
    # With the password, also a plausible but wrong W= is detected.
    os.rename(wrong, wrong := re.sub(r",W=50", f",W={right - 1}", wrong))
    assert wrong not in {path for *_, path in _found(_verify(lab, user)[1])}
    kinds = {(kind, path) for kind, _, _, path in _found(_verify(lab, user, tags=True)[1])}
    assert {("size", wrong), ("changed", cut)} <= kinds


def test_an_old_mail_under_a_new_name(lab: Lab, user: str) -> None:
    old = _deliver(lab, user)
    with lab.login(user) as imap:
        imap.command(b"CREATE Sent")
    replayed = re.sub(r"/\d+\.", "/1700000000.", old).replace("/new/", "/.Sent/cur/") + ":2,"
    _as_mail_owner("cp", old, replayed)
    with lab.login(user) as imap:
        assert imap.select("Sent") == 1
    status, result = _verify(lab, user)
    assert status == 1
    assert len(result["findings"]) == 1
    ((kind, folder, uid, path),) = _found(result)
    assert (kind, uid) == ("twice", 1)
    assert {path, re.search(r" as (/.*): ", result["findings"][0]["text"])[1]} == {  # type: ignore[index]
        lab.stored(user)[0],
        replayed,
    }
    assert folder in ("INBOX", "Sent")


def test_mail_is_read_as_its_owner(lab: Lab, user: str) -> None:
    """Files that the owner of the mail may not read are findings, although root could read them."""
    path = _deliver(lab, user)
    os.chown(path, 0, 0)
    os.chmod(path, 0o600)
    status, result = _verify(lab, user)
    assert (status, [(f["kind"], f["path"]) for f in result["findings"]]) == (
        1,
        [("unreadable", path)],
    )


def test_older_pairs_are_the_users_own(lab: Lab, user: str) -> None:
    _deliver(lab, user)
    assert lab.mailseal("rotate", user, "--stdin", stdin=b"password\n").returncode == 0
    _deliver(lab, user)
    for tags in (False, True):
        assert _verify(lab, user, tags=tags)[0] == 0


def test_all_users_of_a_domain(lab: Lab) -> None:
    users = [f"{name}@verify.example" for name in ("one", "two")]
    for name in users:
        lab.add_user(name)
    done = lab.mailseal("verify", "--domain", "verify.example", "--json")
    assert [u["user"] for u in json.loads(done.stdout)["users"]] == users
    # Nobody has mail yet; this is not a finding.
    assert done.returncode == 0, done.stdout


def test_control_characters_in_a_name_are_escaped(lab: Lab, user: str) -> None:
    _deliver(lab, user)
    _write(f"{lab.maildir(user)}/new/1.\x1b[2J.host", b"Subject: x\n\n")
    done = lab.mailseal("verify", user)
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b"\\x1b" in done.stdout


def test_while_flags_change_nothing_is_reported(lab: Lab, user: str) -> None:
    for number in range(30):
        _deliver(lab, user, TEXT + b"%d\r\n" % number)
    command: Sequence[str] = [os.path.join(lab.hooks, "mailseal"), "-c", lab.config_path, "verify"]
    with lab.login(user) as imap:
        imap.select()
        running = subprocess.Popen([*command, user, "--json"], stdout=subprocess.PIPE)
        rounds = 0
        while running.poll() is None or rounds < 2:
            for sign in (b"+", b"-"):
                imap.command(b"STORE 1:* %sFLAGS.SILENT (\\Flagged)" % sign)
            rounds += 1
    assert running.stdout is not None
    (result,) = json.loads(running.stdout.read())["users"]
    assert (running.returncode, result["findings"]) == (0, [])


@pytest.fixture(autouse=True)
def _clean(lab: Lab, user: str) -> Any:
    yield
    shutil.rmtree(lab.home(user), ignore_errors=True)
