# SPDX-License-Identifier: MIT
"""The mailseal command with a real agent, as people and panels use it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import CHEAP, HOOKS, AgentProcess, running

USER = "alice@example.org"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with running(tmp_path) as process:
        yield process


@pytest.fixture
def enrolled(agent: AgentProcess) -> AgentProcess:
    assert agent.run("enroll", USER, stdin=b"pw\n").returncode == 0
    return agent


def opens(agent: AgentProcess, password: bytes, user: str = USER) -> bool:
    return agent.ask("unlock", user=user.encode(), password=password).status == "ok"


def code_of(agent: AgentProcess, *arguments: str, stdin: bytes = b"pw\n") -> bytes:
    done = agent.run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_escrow(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A public and a private PEM file."""
    key = PrivateKey.generate("secp384r1")
    public, private = folder / "escrow.pub.pem", folder / "escrow.pem"
    public.write_bytes(
        key.public.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        cipher = serialization.BestAvailableEncryption(password)
    private.write_bytes(
        key.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    )
    return public, private


def test_enroll_warns_until_there_is_a_recovery_method(agent: AgentProcess) -> None:
    done = agent.run("enroll", "Alice@Example.org", stdin=b"pw\n")
    assert done.returncode == 0
    assert done.stdout.startswith(b"alice@example.org is enrolled")
    assert b"LOST MAIL" in done.stderr and b"recovery-code" in done.stderr
    assert "NO RECOVERY METHOD" in agent.log_text()
    assert b"LOST MAIL" in agent.run("status", USER).stdout
    code_of(agent, "recovery-code", USER)
    status = agent.run("status", USER).stdout
    assert b"LOST MAIL" not in status and b"recovery" in status


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "said"),
    [
        (["enroll", USER], b"other\n", 65, b"already enrolled"),
        (["enroll", "bob"], b"\n", 64, b"empty"),
        (["enroll", "bob"], b"", 64, b"missing"),
        (["enroll", "bob"], b"a\0b\n", 64, b"NUL"),
        (["enroll", "bob"], b"x" * 10_000_000, 64, b"too long"),
        (["enroll", "bo\tb"], b"pw\n", 64, b"control"),
        (["enroll", "b" * 255], b"pw\n", 64, b"254"),
        (["enroll", b"b\xff".decode("utf-8", "surrogateescape")], b"pw\n", 64, b"UTF-8"),
        (["passwd", USER], b"wrong\nnew\n", 77, b"wrong password"),
        (["passwd", USER], b"pw\n", 64, b"missing"),
        (["passwd", USER, "--then", "touch", "x"], b"wrong\nnew\n", 77, b"wrong password"),
        (["passwd", "nobody"], b"pw\nnew\n", 77, b"wrong password"),
        (["recover", USER], b"not a code\nnew\n", 77, b"not a recovery code"),
        (["recovery-code", USER], b"wrong\n", 77, b"wrong password"),
        (["app-password", USER, "x" * 101], b"pw\n", 64, b"label"),
        (["revoke", USER, "zzz"], b"", 64, b"no slot zzz"),
        (["rotate", USER], b"wrong\n", 77, b"wrong password"),
        (["status", "nobody"], b"", 67, b"not enrolled"),
        (["unenroll", "nobody"], b"", 67, b"not enrolled"),
        (["repair", "nobody"], b"", 67, b"not enrolled"),
        (["lock"], b"", 64, b"required"),
        (["frobnicate"], b"", 64, b"frobnicate"),
        ([], b"", 64, b"required"),
    ],
)
def test_errors(
    enrolled: AgentProcess, arguments: list[str], stdin: bytes, status: int, said: bytes
) -> None:
    done = enrolled.run(*arguments, stdin=stdin)
    assert done.returncode == status
    assert done.stdout == b""
    assert done.stderr.startswith(b"mailseal: error: ") and said in done.stderr
    assert b"Traceback" not in done.stderr
    assert opens(enrolled, b"pw")


def test_no_agent_is_temporary(enrolled: AgentProcess) -> None:
    enrolled.stop()
    done = enrolled.run("status")
    assert done.returncode == 75
    assert (
        b"mailseal: hint: is mailseal-agent running? see `systemctl status mailseal-agent`"
        in done.stderr
    )


def test_passwd_for_panels(enrolled: AgentProcess) -> None:
    done = enrolled.run("passwd", "--stdin", USER, stdin=b"pw\nnew \xff\r\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert not opens(enrolled, b"pw") and opens(enrolled, b"new \xff")


def test_passwords_that_end_with_nul(enrolled: AgentProcess) -> None:
    """As PostfixAdmin writes passwords; it keeps the pipe open until the command ends."""
    process = subprocess.Popen(
        [HOOKS / "mailseal", "-c", enrolled.config, "passwd", "--null", USER],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"pw\0new\0")
    process.stdin.flush()
    assert process.wait(30) == 0
    process.stdin.close()
    assert opens(enrolled, b"new") and not opens(enrolled, b"pw")


def test_on_a_terminal_a_new_password_is_asked_for_twice(agent: AgentProcess) -> None:
    def typed(*lines: bytes) -> int:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [HOOKS / "mailseal", "-c", agent.config, "enroll", USER],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),
        )
        os.close(slave)
        seen = b""
        for number, line in enumerate(lines, 1):
            while seen.count(b": ") < number:
                seen += os.read(master, 1024)
            os.write(master, line + b"\n")
        status = process.wait(20)
        assert not any(line in seen for line in lines), "passwords are not echoed"
        os.close(master)
        return status

    assert typed(b"one-thing", b"another") == 64
    assert agent.ask("status", user=USER.encode()).status == "error"
    assert typed(b"one-thing", b"one-thing") == 0
    assert opens(agent, b"one-thing")


def test_recover(enrolled: AgentProcess) -> None:
    code = code_of(enrolled, "recovery-code", USER)
    typed = code.upper().replace(b"-", b" ")
    assert enrolled.run("recover", USER, stdin=typed + b"\nnew\n").returncode == 0
    assert opens(enrolled, b"new") and not opens(enrolled, b"pw")


def test_app_passwords_are_listed_and_revoked_one_by_one(enrolled: AgentProcess) -> None:
    phone = code_of(enrolled, "app-password", USER, "phone")
    laptop = code_of(enrolled, "app-password", USER, "laptop")
    assert opens(enrolled, phone) and opens(enrolled, laptop)
    status = json.loads(enrolled.run("status", "--json", USER).stdout)
    slots = {slot["label"]: slot["id"] for slot in status["users"][0]["slots"]}
    assert enrolled.run("revoke", USER, slots["phone"]).stdout == b"app slot revoked (phone)\n"
    assert not opens(enrolled, phone) and opens(enrolled, laptop) and opens(enrolled, b"pw")


def test_cat(enrolled: AgentProcess, tmp_path: Path) -> None:
    key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
    assert key is not None
    mail = b"Subject: x\n\n" + os.urandom(100_000)
    path = tmp_path / "mail"
    path.write_bytes(dcrypt.seal(key, mail))
    enrolled.run("rotate", USER, stdin=b"pw\n")
    assert enrolled.run("cat", str(path), stdin=b"pw\n").stdout == mail
    app = code_of(enrolled, "app-password", USER, "phone")
    assert enrolled.run("cat", str(path), stdin=app + b"\n").stdout == mail
    for harm, status in ((b"flip", 65), (b"cut", 65), (b"plain", 65), (b"foreign", 67)):
        sealed = bytearray(dcrypt.seal(key, mail))
        if harm == b"flip":
            sealed[50_000] ^= 1
        elif harm == b"cut":
            del sealed[-1]
        elif harm == b"plain":
            sealed[:] = mail
        else:
            sealed[:] = dcrypt.seal(PrivateKey.generate().public, mail)
        path.write_bytes(sealed)
        done = enrolled.run("cat", str(path), stdin=b"pw\n")
        assert (done.returncode, done.stdout) == (status, b""), harm
        assert done.stderr.startswith(b"mailseal: error: ")


@pytest.mark.parametrize("form", ["pem", "dovecot"])
def test_export_key_after_rotation(enrolled: AgentProcess, form: str) -> None:
    enrolled.run("rotate", USER, stdin=b"pw\n")
    code = code_of(enrolled, "recovery-code", USER)
    status = json.loads(enrolled.run("status", "--json", USER).stdout)
    ids = [key["id"] for key in reversed(status["users"][0]["keys"])]
    for secret in (b"pw", code):
        done = enrolled.run("export-key", USER, "--format", form, stdin=secret + b"\n")
        assert done.returncode == 0 and b"warning" in done.stderr
        text = done.stdout.decode()
        if form == "pem":
            keys = [f"-----BEGIN{part}" for part in text.split("-----BEGIN")[1:]]
        else:
            keys = text.splitlines()
        assert [PrivateKey.parse(key).key_id.hex() for key in keys] == ids


class TestBackup:
    def test_lost_and_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        enrolled.run("enroll", "bob", stdin=b"bobs\n")
        file = str(tmp_path / "backup")
        assert enrolled.run("backup", file).stdout == b"2 keyrings saved\n"
        assert os.stat(file).st_mode & 0o777 == 0o600
        for user, password in ((USER, b"pw"), ("bob", b"bobs")):
            for part in ("keys", "public", "public/enrolled"):
                for path in (tmp_path / "state" / part).glob(f"{user}*"):
                    path.unlink()
            assert not opens(enrolled, password, user)
        done = enrolled.run("restore", file)
        assert done.returncode == 0 and done.stdout.count(b"restored") == 2
        assert opens(enrolled, b"pw") and opens(enrolled, b"bobs", "bob")
        assert enrolled.run("restore", file).stdout.count(b"no change needed") == 2

    def test_the_keyring_alone_is_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        """The disk takes the keyring and then nothing more: it says so, and how to go on."""
        file = str(tmp_path / "backup")
        assert enrolled.run("backup", file, USER).returncode == 0
        assert enrolled.run("passwd", USER, stdin=b"pw\nnew\n").returncode == 0
        key = tmp_path / "state" / "public" / f"{USER}.json"
        key.unlink()
        key.mkdir()  # no file can be put in its place
        done = enrolled.run("restore", "--force", file)
        assert done.returncode == 75
        assert b"HALF RESTORED" in done.stdout and b"NOT RESTORED" not in done.stdout
        assert f"hint: run `mailseal repair {USER}`".encode() in done.stderr
        key.rmdir()
        assert enrolled.run("repair", USER).returncode == 0
        assert opens(enrolled, b"pw") and not opens(enrolled, b"new")

    def test_a_damaged_keyring_is_restored(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        keyring = tmp_path / "state" / "keys" / f"{USER}.json"
        keyring.write_bytes(keyring.read_bytes()[:500])
        done = enrolled.run("backup", str(tmp_path / "second"))
        assert done.returncode == 65 and b"not saved" in done.stderr
        assert enrolled.run("restore", file).returncode == 0
        assert opens(enrolled, b"pw")

    def test_another_keyring_is_replaced_only_by_force(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.run("passwd", USER, stdin=b"pw\nnew\n")
        assert enrolled.run("restore", file).returncode == 65
        assert opens(enrolled, b"new")
        assert enrolled.run("restore", "--force", file).returncode == 0
        assert opens(enrolled, b"pw") and not opens(enrolled, b"new")

    def test_no_force_loses_a_key_pair(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.run("rotate", USER, stdin=b"pw\n")
        done = enrolled.run("restore", "--force", file)
        assert done.returncode == 65 and b"1 key pairs that are not in the backup" in done.stderr

    def test_check_proves_that_it_opens(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        code = code_of(enrolled, "recovery-code", USER)
        enrolled.run("backup", file)
        enrolled.stop()  # works on a machine without agent
        for secret in (b"pw", code):
            done = enrolled.run("restore", "--check", file, USER, stdin=secret + b"\n")
            assert (done.returncode, done.stdout) == (
                0,
                f"{USER}: can be opened, 1 key pairs\n".encode(),
            )
        done = enrolled.run("restore", "--check", file, USER, stdin=b"wrong\n")
        assert done.returncode == 77 and b"CANNOT BE OPENED" in done.stdout

    def test_check_without_a_secret_proves_nothing_and_says_so(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        enrolled.run("enroll", "bob", stdin=b"bobs\n")
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        done = enrolled.run("restore", "--check", file)
        assert done.returncode == 64 and b"none was opened" in done.stderr

    def test_every_truncation_and_every_changed_byte(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        from mailseal.errors import Damaged, NewerFormat
        from mailseal.keys import backup

        file = tmp_path / "backup"
        enrolled.run("backup", str(file))
        data = file.read_bytes()
        assert list(backup.parse(data)) == [USER]
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x01
            for harmed in (bytes(changed), data[:at]):
                with pytest.raises((Damaged, NewerFormat)):
                    backup.parse(harmed)


class TestEscrow:
    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[AgentProcess]:
        public, _ = write_escrow(tmp_path)
        options = CHEAP.replace("}", f", escrow: {public}}}")
        with running(tmp_path, options) as process:
            yield process

    def test_escrow_is_a_recovery_method_and_shown(self, agent: AgentProcess) -> None:
        done = agent.run("enroll", USER, stdin=b"pw\n")
        assert b"LOST MAIL" not in done.stderr
        assert b"escrow" in agent.run("status", USER).stdout

    def test_keys_on_another_machine(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        enrolled.stop()
        key = ["--escrow-key", str(tmp_path / "escrow.pem")]
        done = enrolled.run("escrow-open", *key, "--format", "dovecot", file, USER)
        published = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert published is not None
        assert PrivateKey.parse(done.stdout.decode()).key_id == published.key_id
        assert enrolled.run("restore", "--check", *key, file).returncode == 0

    def test_a_new_login_with_escrow(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        file, out = str(tmp_path / "backup"), str(tmp_path / "out")
        enrolled.run("backup", file)
        key = ["--escrow-key", str(tmp_path / "escrow.pem")]
        done = enrolled.run("escrow-open", *key, "--recovery-code", out, file, USER)
        assert enrolled.run("restore", "--force", out).returncode == 0
        assert enrolled.run("recover", USER, stdin=done.stdout + b"new\n").returncode == 0
        assert opens(enrolled, b"new")

    def test_another_key_or_a_wrong_password_of_it(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        file = str(tmp_path / "backup")
        enrolled.run("backup", file)
        (tmp_path / "other").mkdir()
        _, other = write_escrow(tmp_path / "other", b"guarded")
        key = ["--escrow-key", str(other)]
        done = enrolled.run("escrow-open", *key, file, USER, stdin=b"guarded\n")
        assert done.returncode == 77 and b"no slot for this escrow key" in done.stderr
        done = enrolled.run("escrow-open", *key, file, USER, stdin=b"wrong\n")
        assert done.returncode == 65 and done.stdout == b""


class TestUnenroll:
    def test_refuses_while_sealed_mail_remains(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert key is not None
        maildir = tmp_path / "Maildir"
        for part in ("cur", "new", "tmp", ".Sent/cur"):
            (maildir / part).mkdir(parents=True)
        (maildir / "cur" / "1").write_bytes(b"plain\n")
        (maildir / ".Sent" / "cur" / "2").write_bytes(dcrypt.seal(key, b"sealed\n"))
        where = ["--maildir", str(maildir)]
        done = enrolled.run("unenroll", USER, *where)
        assert done.returncode == 64 and b"1 mails of alice@example.org are sealed" in done.stderr
        sentence = f"all sealed mail of {USER} is lost"
        assert sentence.encode() in done.stderr
        assert enrolled.run("unenroll", USER, *where, "--force", "yes").returncode == 64
        assert opens(enrolled, b"pw")
        assert (
            enrolled.run("unenroll", USER, *where, "--kicked", "--force", sentence).returncode == 0
        )
        assert not opens(enrolled, b"pw")
        assert PublicStore(f"{tmp_path}/state/public").lookup(USER) is None

    def test_a_refusal_defers_no_mail(self, enrolled: AgentProcess, tmp_path: Path) -> None:
        key = PublicStore(f"{tmp_path}/state/public").lookup(USER)
        assert key is not None
        (tmp_path / "Maildir").mkdir()
        (tmp_path / "Maildir" / "1").write_bytes(dcrypt.seal(key, b"sealed\n"))
        assert enrolled.run("unenroll", USER, "--maildir", f"{tmp_path}/Maildir").returncode == 64
        assert "unenroll" not in enrolled.log_text() and "suspend" not in enrolled.log_text()

    def test_follows_links_and_counts_again_while_mail_is_kept_back(
        self, enrolled: AgentProcess, tmp_path: Path
    ) -> None:
        """A mail that was being delivered when the command searched for the first time."""
        enrolled.write_config(f"{CHEAP}delivery: {{userdb: template, home: {tmp_path}/%d}}\n")
        maildir, elsewhere = tmp_path / "example.org" / "Maildir", tmp_path / "other disk"
        for folder in (maildir / "cur", elsewhere / "cur"):
            folder.mkdir(parents=True)
        (maildir / ".Archive").symlink_to(elsewhere)
        (elsewhere / "loop").symlink_to(maildir)
        public = PublicStore(f"{tmp_path}/state/public")
        key = public.lookup(USER)
        assert key is not None
        seen: list[str] = []

        ended = threading.Event()

        def watch() -> None:
            while not seen and not ended.is_set():
                with contextlib.suppress(TemporaryError):
                    if public.lookup(USER) is not None:
                        continue
                seen.append("kept back")
                (elsewhere / "cur" / "1").write_bytes(dcrypt.seal(key, b"sealed\n"))
                seen.append(enrolled.ask("unlock", user=USER.encode(), password=b"pw").status)

        watcher = threading.Thread(target=watch)
        watcher.start()
        done = enrolled.run("unenroll", USER, "--kicked")
        ended.set()
        watcher.join()
        assert done.returncode == 64 and b"1 mails of alice@example.org are sealed" in done.stderr
        assert seen == ["kept back", "temporary"]
        assert public.lookup(USER) is not None and opens(enrolled, b"pw")

    def test_refuses_if_the_mail_location_is_not_known(self, enrolled: AgentProcess) -> None:
        done = enrolled.run("unenroll", USER)
        assert done.returncode == 64 and b"is not known" in done.stderr
        assert opens(enrolled, b"pw")


def test_status_of_many_users_in_pages(agent: AgentProcess) -> None:
    users = [f"user{number:03d}" for number in range(205)]
    for user in users:
        assert agent.ask("enroll", user=user.encode(), password=b"pw").status == "ok"
    found = json.loads(agent.run("status", "--json").stdout)
    assert [entry["user"] for entry in found["users"]] == users


def test_repair_and_status_show_a_replaced_key(enrolled: AgentProcess, tmp_path: Path) -> None:
    PublicStore(f"{tmp_path}/state/public").publish(USER, PrivateKey.generate().public)
    for arguments in (["status", USER], ["status"], ["status", "--json"]):
        done = enrolled.run(*arguments)
        assert done.returncode == 65 and b"NOT THE USER'S" in done.stdout
    assert b"PROBLEM: public key: NOT THE USER'S" in enrolled.run("status", USER).stdout
    assert not opens(enrolled, b"pw")
    assert b"published again" in enrolled.run("repair", USER).stdout
    assert opens(enrolled, b"pw")


@pytest.mark.parametrize("left", ["public key and mark", "public key", "mark"])
def test_status_tells_a_missing_keyring_from_no_enrollment(
    enrolled: AgentProcess, tmp_path: Path, left: str
) -> None:
    state = tmp_path / "state"
    (state / "keys" / f"{USER}.json").unlink()
    if "mark" not in left:
        (state / "public" / "enrolled" / USER).unlink()
    if "public key" not in left:
        (state / "public" / f"{USER}.json").unlink()
    done = enrolled.run("status", USER)
    assert done.returncode == 65
    assert b"PROBLEM: the keyring is missing\n  hint: restore it from a backup" in done.stdout
    done = enrolled.run("status", "bob")
    assert done.returncode == 67 and b"not enrolled" in done.stderr


def test_lock(enrolled: AgentProcess) -> None:
    assert opens(enrolled, b"pw")
    assert enrolled.run("lock", USER).stdout == b"1 sessions ended\n"
    assert enrolled.run("lock", "--all").stdout == b"0 sessions ended\n"


def test_print_config_is_a_configuration(enrolled: AgentProcess, tmp_path: Path) -> None:
    text = enrolled.run("print-config").stdout
    again = tmp_path / "again.yaml"
    again.write_bytes(text)
    done = subprocess.run([HOOKS / "mailseal", "-c", again, "print-config"], capture_output=True)
    assert done.stdout == text
    assert enrolled.run("check-config", "--file-only").stdout == f"{enrolled.config}: ok\n".encode()
