# SPDX-License-Identifier: MIT
"""`mailseal doctor USER` proves with test logins and a test mail, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.sick import ALICE, PLAIN, VERSION, Result, Sick
from tests.lab import Lab
from tests.lab.place import MAIL_UID, free_ports

# Quotas, Submission, and Sieve at deliveries by Dovecot.
_SITE = (
    {
        "2.3": """
protocols = $protocols submission sieve
mail_plugins = $mail_plugins quota
protocol lmtp {
  mail_plugins = $mail_plugins sieve quota mail_crypt
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=1M
}
""",
        "2.4": """
protocols {
  submission = yes
  sieve = yes
}
mail_plugins {
  quota = yes
}
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
quota "User quota" {
  driver = count
  storage_size = 1M
}
""",
    }[VERSION]
    + """
quota_status_success = DUNNO
quota_status_overquota = 452 4.2.2 full
service quota-status {
  executable = quota-status -p postfix
  unix_listener quota-status {
    mode = 0666
  }
}
service auth {
  unix_listener postfix-auth {
    mode = 0666
  }
}
submission_relay_host = 127.0.0.1
submission_relay_port = SMTP
service submission-login {
  inet_listener submission {
    port = PORT
  }
  inet_listener submissions {
    port = 0
  }
}
service managesieve-login {
  inet_listener sieve {
    port = SCRIPTS
  }
}
"""
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Sick]:
    made = Lab({ALICE: "password"}, auth="behind-passwd-file", plain_users={PLAIN: "password"})
    auth = os.path.join(made.dovecot.wanted.base_dir, "postfix-auth")
    made.postfix.postconf("-e", "smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot")
    made.postfix.postconf("-e", f"smtpd_sasl_path = {auth}")
    text = _SITE.replace("SMTP", str(made.smtp[1]))
    for word, port in zip(("PORT", "SCRIPTS"), free_ports(2), strict=True):
        text = text.replace(word, str(port))
    if VERSION == "2.3":
        names = ("quota_status_success", "quota_status_overquota")
        lines = [line for line in text.splitlines() if line.startswith(names)]
        text = "\n".join(line for line in text.splitlines() if line not in lines)
        text += "\nplugin {\n" + "\n".join(lines) + "\n}\n"
    made.dovecot.write_config(text)
    socket = os.path.join(made.dovecot.wanted.base_dir, "quota-status")
    made.write_config({"dovecot.quota_socket": socket})
    with made:
        yield Sick(made)


@pytest.fixture
def sick(whole: Sick) -> Iterator[Sick]:
    yield whole
    whole.cure()
    whole.lab.start_agent()
    whole.lab.start_delivery()
    assert_nothing_left(whole.lab)


def assert_nothing_left(lab: Lab) -> None:
    assert lab.postfix_queue() == []
    with lab.login() as imap:
        assert imap.select() == 0
        folders = b"\n".join(imap.command(b'LIST "" *'))
        assert b"mailseal-doctor" not in folders, folders


def run(sick: Sick, *words: str, password: str = "password") -> tuple[int, dict[str, Result]]:
    status, found = sick.doctor(ALICE, *words, stdin=f"{password}\n")
    return status, {one["check"]: one for one in found}


PROOFS = ("enrolled", "quota", "imap", "pop3", "submission", "managesieve", "arrival")


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def test_everything_is_proved(sick: Sick) -> None:
    status, found = run(sick, "--plain-user", PLAIN)
    assert {name: found[name]["level"] for name in (*PROOFS, "plain-user")} == dict.fromkeys(
        (*PROOFS, "plain-user"), "pass"
    ), found
    assert status < 2
    ports = [one["text"] for one in sick.doctor(ALICE, *only("submission"), stdin="password\n")[1]]
    assert len(ports) == 2, ports  # of Dovecot and of Postfix
    assert not any("marker" in name for name in os.listdir(sick.lab.maildir(ALICE)))


def test_a_list_for_people(sick: Sick) -> None:
    done = sick.lab.mailseal(
        "doctor", ALICE, "--stdin", *only("imap", "recovery"), stdin=b"password\n"
    )
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("WARN  recovery: 1 user (")
    assert lines[1].startswith("      remedy: run `mailseal recovery-code")
    assert lines[2].startswith("pass  imap: IMAP: alice@example.org gets the key")
    assert lines[3:] == ["1 passed, 1 warning, 0 failed"]
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_wrong_password(sick: Sick) -> None:
    status, found = run(sick, *only("imap"), password="wrong secret")
    assert status == 2
    assert "cannot log in" in found["imap"]["text"]
    assert "wrong secret" not in str(found)


def test_the_agent_is_down(sick: Sick) -> None:
    """Enrolled users cannot log in; others are looked up as before."""
    sick.lab.stop_agent()
    status, found = run(sick, "--plain-user", PLAIN, *only("plain-user", "imap", "agent"))
    assert status == 2
    assert found["plain-user"]["level"] == "pass"
    assert "the key agent does not run" in found["plain-user"]["text"]
    assert found["imap"]["level"] == found["agent"]["level"] == "fail"


def test_delivery_is_down(sick: Sick) -> None:
    """The reason is Postfix's, and the mail does not stay in the queue."""
    sick.lab.delivery.stop()
    status, found = run(sick, *only("arrival"))
    assert status == 2
    assert "Postfix has not delivered the test mail: " in found["arrival"]["text"]
    assert "lmtp.sock" in found["arrival"]["text"]


def test_a_script_that_moves_the_mail(sick: Sick) -> None:
    script = os.path.join(sick.lab.home(ALICE), ".dovecot.sieve")
    with open(script, "w", encoding="ascii") as stream:
        stream.write('require ["fileinto"]; fileinto "Sent";\n')
    sick.afterwards(lambda: os.unlink(script))
    _, found = run(sick, *only("arrival"))
    assert found["arrival"]["level"] == "warn"
    assert "is sealed, but in the folder" in found["arrival"]["text"]
    assert sick.lab.stored(ALICE, "Sent") == []


def test_dovecot_without_mailseal_saves_in_clear(sick: Sick) -> None:
    """The proof does not depend on what the configuration says."""
    import dataclasses

    from tests.lab import dovecot as lab_dovecot

    lab = sick.lab
    wanted = dataclasses.replace(lab.dovecot.wanted, sealing=False, auth="passwd-file")
    text = lab_dovecot._dialect(lab.dovecot.version)(wanted)
    sick.dovecot(change=lambda _: text)
    lab.dovecot.restart()
    value = lab.postfix.postconf("-h", "virtual_transport").strip()
    lab.postfix.postconf("-e", f"virtual_transport = lmtp:unix:{lab.dovecot.lmtp_socket}")
    lab.postfix.stop()
    lab.postfix.start()

    def undo() -> None:
        lab.postfix.postconf("-e", f"virtual_transport = {value}")
        lab.postfix.stop()
        lab.postfix.start()

    sick.afterwards(undo)
    status, found = run(sick, *only("imap", "pop3", "arrival"))
    assert status == 2
    assert "in clear" in found["imap"]["text"]
    assert "in clear" in found["arrival"]["text"]
    assert_nothing_left(lab)
    sick.cure()
    lab.dovecot.restart()


def test_two_at_a_time_and_a_killed_one(sick: Sick) -> None:
    """Each removes its own folder; that of a killed run is removed later."""
    lab = sick.lab
    with lab.login() as imap:
        imap.command(b"CREATE mailseal-doctor-%d-0123abcd" % (time.time() - 7200))
    command = [os.path.join(lab.hooks, "mailseal"), "-c", lab.config_path, "doctor", ALICE]
    command += ["--stdin", "--postfix-config", lab.postfix.config, *only("imap", "arrival")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for one in running:
        assert one.stdin is not None
        one.stdin.write(b"password\n")
        one.stdin.close()
    said = [one.stdout.read().decode() for one in running]
    assert [one.wait() for one in running] == [0, 0], said


ADD = """#!/bin/sh -e
read -r password
printf '%s:{PLAIN}%s:UID:UID::HOME::\\n' "$1" "$password" >> USERS
"""
REMOVE = """#!/bin/sh -e
sed -i "/^$1:/d" USERS
"""


def test_a_user_that_exists_only_during_the_run(sick: Sick) -> None:
    lab, user = sick.lab, "throw-away@example.org"
    users = lab.dovecot.wanted.users_file
    commands = []
    for name, text in (("add-user", ADD), ("remove-user", REMOVE)):
        commands.append(path := lab.place.path(name))
        home = lab.home(user)
        with open(path, "w", encoding="ascii") as stream:
            os.fchmod(stream.fileno(), 0o755)
            changes = {"UID": str(MAIL_UID), "HOME": home, "USERS": users}
            for word, value in changes.items():
                text = text.replace(word, value)
            stream.write(text)
    words = ("--add", commands[0], "--remove", commands[1], *only("imap", "pop3", "arrival"))
    status, found = sick.doctor(user, *words)
    assert status == 0, found
    assert [one["check"] for one in found] == ["imap", "pop3", "arrival"]
    assert lab.mailseal("status", user).returncode == 67
    with open(users, encoding="ascii") as stream:
        assert user not in stream.read()
    done = lab.mailseal("doctor", PLAIN, *words)  # exists, and stays
    assert done.returncode == 64
    assert b"plain@example.org exists" in done.stderr
    with open(users, encoding="ascii") as stream:
        assert PLAIN in stream.read()


def test_an_unreadable_quota_socket(sick: Sick) -> None:
    socket = os.path.join(sick.lab.dovecot.wanted.base_dir, "quota-status")
    os.chmod(socket, 0o600)
    (found,) = sick.new("sockets")
    assert "dovecot.quota_socket: the user" in found["text"]
    sick.follow(found["remedy"].partition(";")[0])
    assert sick.new("sockets") == []
    assert run(sick, *only("quota"))[1]["quota"]["level"] == "pass"


def test_what_it_refuses(sick: Sick) -> None:
    done = sick.lab.mailseal("doctor", "--only", "nonsense")
    assert done.returncode == 64
    assert b"there is no check nonsense" in done.stderr
    assert b"arrival" in done.stderr
    done = sick.lab.mailseal("doctor", "--only", "imap")
    assert done.returncode == 64
    assert b"this check needs USER" in done.stderr
    done = sick.lab.mailseal("doctor", "--add", "true")
    assert done.returncode == 64
    assert b"--add and --remove must be used together" in done.stderr
    done = sick.lab.mailseal("doctor", PLAIN, "--stdin", *only("enrolled"), stdin=b"password\n")
    assert done.returncode == 1
    assert b"plain@example.org is not enrolled" in done.stdout
    command = [os.path.join(sick.lab.hooks, "mailseal"), "-c", sick.lab.config_path, "doctor"]
    done = subprocess.run(command, capture_output=True, user=65534, group=65534)
    assert done.returncode == 77
    assert b"must run as root" in done.stderr
