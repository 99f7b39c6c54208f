# SPDX-License-Identifier: MIT
"""docs/stacks/mailcow.md, on a server configured as mailcow does it: `make test-stacks`.

mailcow seals the mail of all users with one key.  The files of the page are used as they are.
The key agent runs on the same machine instead of in a container.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from mailseal.crypto.dcrypt import inspect
from tests.docker import page
from tests.docker.site import Site, password_of
from tests.docker.test_mail import with_word
from tests.docker.test_stacks import Running, Stack, of_stacks, running
from tests.lab.imap import Imap, Refused

__all__ = ["running"]

_PAGE = "stacks/mailcow.md"
_TOP = "/opt/mailcow-dockerized"
_OTHERS = "/usr/lib/mailseal/dovecot-conf /etc/mailcow-dovecot /etc/mailseal-hook.conf"
STACK = Stack("mailcow", "2.3", "mailcow.md", "/var/vmail", spam=b"X-Spam-Flag: YES")

_FILES = {
    "mailseal.yaml": f"{_TOP}/data/mailseal/mailseal.yaml",
    "docker-compose.override.yml": f"{_TOP}/docker-compose.override.yml",
    "extra.conf": f"{_TOP}/data/conf/dovecot/extra.conf",
    "mailseal.sh": f"{_TOP}/data/hooks/dovecot/mailseal.sh",
}
# Instead of `make image` and the container of the key agent.
_AGENT = f"""
make install MAIL_USER=vmail
systemctl daemon-reload && systemd-sysusers && systemd-tmpfiles --create mailseal.conf
mkdir -p /etc/mailseal
cp {_FILES["mailseal.yaml"]} /etc/mailseal/
mailseal init
systemctl start mailseal-agent
ln -sfn /usr/src/mailseal /opt/mailseal
chmod +x {_FILES["mailseal.sh"]}
cp {_TOP}/data/conf/dovecot/dovecot.conf {_TOP}/data/mailseal/dovecot.conf
"""
_POP3 = (
    "import poplib, ssl, sys; "
    "mails = poplib.POP3_SSL('127.0.0.1', context=ssl._create_unverified_context()); "
    "mails.user(sys.argv[1]); mails.pass_(sys.argv[2]); "
    "print(b'\\n'.join(b'\\n'.join(mails.retr(number + 1)[1])"
    " for number in range(mails.stat()[0])).decode())"
)
# The files of mailcow and the settings of both servers, without what each start makes anew.
_STATE = f"cd {_TOP} && find . -type f ! -path './data/mailseal/*' -exec sha256sum {{}} + | sort"


@dataclasses.dataclass
class Mailcow:
    here: Running

    @property
    def site(self) -> Site:
        return self.here.site

    def install(self) -> None:
        for name, text in page.files(_PAGE).items():
            path = _FILES[name]
            self.site.run(f"mkdir -p $(dirname {path}); cat >{path}", stdin=text.encode())
        self.site.run(_AGENT)
        self.here.start()

    def leave(self) -> None:
        self.site.run("systemctl stop mailseal-agent; rm -r " + " ".join(_FILES.values()))
        self.site.run(f"rm -rf {_TOP}/data/mailseal /opt/mailseal {_OTHERS}")
        self.here.start()

    def state(self) -> tuple[str, str]:
        return self.here.settings(), self.site.run(_STATE)

    def keys_of(self, name: str) -> dict[bytes, int]:
        """The ids of the keys that open the user's mail; fails if a mail is in clear."""
        found: dict[bytes, int] = {}
        folder = f"{self.here.stack.store}/example.org/{name}"
        for path in self.site.run(f"find {folder} -path '*/[cn][ue][rw]/*' -type f").split():
            for key_id in inspect(self.site.read(path)[:4096]).key_ids:
                found[key_id] = found.get(key_id, 0) + 1
        return found

    def pop3(self, name: str, word: str) -> None:
        text = self.site.run(f'python3 -c "{_POP3}" {name}@example.org "{password_of(name)}"')
        with_word([text.encode()], word)

    def login(self, user: str, password: str) -> Imap:
        return Imap(self.site.address(993), user, password, tls=True)


@pytest.fixture
def mailcow(running: Running) -> Iterator[Mailcow]:
    yield Mailcow(running)
    running.site.run(
        "mariadb -e 'DROP DATABASE mailcow'; systemctl stop dovecot\n"
        f"rm -rf {_TOP} {_OTHERS} /opt/mailseal /mail_crypt /var/vmail "
        "/var/vmail_index /var/volatile /etc/ssl/mail"
    )


@of_stacks((STACK,))
def test_page(mailcow: Mailcow) -> None:
    here, site = mailcow.here, mailcow.site
    old = here.receive("alice", "carol")
    (of_site,) = mailcow.keys_of("alice")
    before = mailcow.state()

    mailcow.install()
    here.wait_for_agent()
    here.reads("alice", old)  # not enrolled yet
    site.enroll("alice")
    here.reads("alice", old)  # has the key of the site
    password = password_of("alice").encode() + b"\n"
    reseal = "mailseal reseal alice@example.org --stdin --from-key /mail_crypt/ecprivkey.pem"
    site.run(reseal, stdin=password)
    word = here.receive("alice")
    spam = here.receive("alice", spam=True)
    sent = here.saves("alice")
    (own,) = mailcow.keys_of("alice")
    assert own != of_site
    for each in (old, word):
        here.reads("alice", each)
        mailcow.pop3("alice", each)
    here.reads("alice", spam, "Junk")
    here.reads("alice", sent, "Sent")

    no_keys(mailcow, word)
    without_agent(mailcow, of_site, own, old)
    without_script(mailcow, of_site, own)

    site.run("mailseal unseal alice@example.org --stdin", stdin=password)
    site.run("mailseal unenroll alice@example.org")
    mailcow.leave()
    assert mailcow.state() == before
    after = here.receive("alice", "carol")
    assert not here.in_clear(after)
    for each in (old, word, after):
        here.reads("alice", each)
    here.reads("carol", after)


def no_keys(mailcow: Mailcow, word: str) -> None:
    """Logins without the user's password: refused, or without anything that is sealed."""
    alice, carol = "alice@example.org", "carol@example.org"
    for password in ("the password of SOGo", "an app password"):
        with pytest.raises(Refused, match=r"UNAVAILABLE|Temporary"):
            mailcow.login(alice, password)
    with mailcow.login(carol, "the password of SOGo") as imap:
        assert imap.bodies()
    with mailcow.login(f"{carol}*sogo@mailcow.local", "the master password") as imap:
        assert imap.bodies()
    with mailcow.login(f"{alice}*sogo@mailcow.local", "the master password") as imap:
        assert imap.select("INBOX") > 0
        with pytest.raises((Refused, OSError, EOFError)):
            imap.body(1)
    mailcow.here.reads("alice", word)


def without_agent(mailcow: Mailcow, of_site: bytes, own: bytes, old: str) -> None:
    """Users who are not enrolled notice nothing, and keep the key of the site."""
    here, site = mailcow.here, mailcow.site
    site.run("systemctl stop mailseal-agent")
    both = here.receive("alice", "carol")
    here.reads("carol", both)
    here.reads("carol", old)
    here.saves("carol")
    mailcow.pop3("carol", both)
    assert set(mailcow.keys_of("carol")) == {of_site}
    assert set(mailcow.keys_of("alice")) == {own}
    with pytest.raises(Refused, match=r"UNAVAILABLE|Temporary"):
        here.login("alice")
    site.run("systemctl start mailseal-agent")
    here.wait_for_agent()
    here.reads("alice", both)


def without_script(mailcow: Mailcow, of_site: bytes, own: bytes) -> None:
    """With mailcow's own dovecot.conf, or one that is not understood, mail waits."""
    here, site = mailcow.here, mailcow.site
    script, original = _FILES["mailseal.sh"], f"{_TOP}/data/conf/dovecot/dovecot.conf"
    site.run(f"mv {script} /root/; cp /etc/dovecot/dovecot.conf /root/changed.conf")
    here.start()
    for port in (24, 110, 143, 993, 995, 4190):
        assert site.status(f"bash -c ': </dev/tcp/127.0.0.1/{port}'") == 1, port
    waits = here.send("alice", "carol")
    site.run(f"mv /root/mailseal.sh {script}")
    here.start()
    site.wait_delivered(seconds=120)
    assert set(mailcow.keys_of("alice")) == {own}
    assert set(mailcow.keys_of("carol")) == {of_site}
    here.reads("alice", waits)
    here.reads("carol", waits)
    site.run("cmp /etc/dovecot/dovecot.conf /root/changed.conf && rm /root/changed.conf")
    for change in ("s/global_public_key/other_key/", "s/^userdb/userdb x/", "s/^passdb/ passdb/"):
        site.run(f"cp {original} /root/original.conf; sed -i '{change}' {original}")
        assert site.status(script) == 1, change
        site.run(f"cat /root/original.conf >{original}; rm /root/original.conf")
    assert site.status(script) == 0
