# SPDX-License-Identifier: MIT
"""IMAP and POP3 through a second Dovecot, which is a proxy, to the Dovecot with mailseal.

One proxy forwards the password, with the lines of docs/several-hosts.md; the other one has checked
the password, and logs in as a master user.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.page import files
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3, Refused
from tests.lab.dovecot import Dovecot, Wanted, installed_version, series, snippet
from tests.lab.place import free_ports
from tests.lab.process import logged
from tests.lab.smtp import send

PLAIN = "plain@example.org"
TEXT = b"the tangerine is in the cellar\r\n"
WRONG = r"\[AUTHENTICATIONFAILED\]"
SERIES = series(installed_version())

# The lab's servers have ports of their own.
_PORT = {
    "2.3": "127.0.0.1 port=%{{if;%s;eq;pop3;{pop3};{imap}}}",
    "2.4": "127.0.0.1\n    port = %{{protocol | if('eq', 'pop3', '{pop3}', '{imap}')}}",
}
_HOST = "192.0.2.11"  # in the documentation

_MASTER = {
    "2.3": (
        "passdb {{\n  driver = passwd-file\n  args = {users}\n"
        "  default_fields = proxy=y host=192.0.2.11 master=proxy pass=secret\n}}\n"
    ),
    "2.4": (
        "passdb passwd-file {{\n  passwd_file_path = {users}\n  fields {{\n    proxy = yes\n"
        "    host = 192.0.2.11\n    master = proxy\n    pass = secret\n  }}\n}}\n"
    ),
}


class Behind(Lab):
    """The servers behind the proxies.  The proxies are told the clients' addresses."""

    def __init__(self) -> None:
        super().__init__(
            # The files for 2.4 change the existing passdb, those for 2.3 contain it.
            auth="passwd-file" if SERIES == "2.4" else None,
            plain_users={PLAIN: "password"},
        )
        masters = self.place.path("dovecot", "master-users")
        with open(masters, "w", encoding="utf-8") as stream:
            stream.write("proxy:{PLAIN}secret\n")
        places = {**self.dovecot.wanted.places, "/etc/dovecot/master-users": masters}
        names = ("auth-master-user", "auth-behind-passwd-file")
        extra = [snippet(self.dovecot.version, name, places) for name in names]
        self.dovecot.write_config("\n".join([*extra, "login_trusted_networks = 127.0.0.1"]))

    def proxy(self, name: str, passdb: str) -> Dovecot:
        """A Dovecot without users of its own, not started."""
        assert _HOST in passdb
        port = _PORT[SERIES].format(imap=self.imap[1], pop3=self.pop3[1])
        imap, pop3 = free_ports(2)
        wanted = Wanted(
            self.place.within(name),
            imap,
            pop3,
            auth=None,
            sealing=False,
            extra=passdb.replace(_HOST, port),
        )
        return Dovecot(wanted)


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    made = Behind()
    made.start()
    try:
        for user in (ALICE, PLAIN):
            send(made.smtp, "eve@example.net", [user], HEADERS + TEXT)
        made.wait_delivered()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def forwarding(behind: Behind) -> Iterator[Dovecot]:
    proxy = behind.proxy("forwarding", files("several-hosts.md")[f"proxy-{SERIES}"])
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def master(behind: Behind) -> Iterator[Dovecot]:
    passdb = _MASTER[SERIES].format(users=behind.dovecot.wanted.users_file)
    proxy = behind.proxy("master", passdb)
    proxy.start()
    yield proxy
    proxy.stop()


def sealed(lab: Lab, user: str, folder: str = "") -> list[bool]:
    found = []
    for path in lab.stored(user, folder):
        with open(path, "rb") as stream:
            found.append(stream.read(7) == b"CRYPTED")
    return found


@pytest.mark.parametrize("user", [ALICE, PLAIN])
def test_a_proxy_that_forwards_the_password(behind: Behind, forwarding: Dovecot, user: str) -> None:
    is_sealed = user == ALICE
    assert sealed(behind, user) == [is_sealed]
    with Imap(forwarding.imap, user, "password", source="127.0.0.5") as imap:
        assert imap.bodies()[0].endswith(TEXT)
        imap.append("Sent", HEADERS + TEXT)
        assert imap.bodies("Sent") == [HEADERS + TEXT]
    assert sealed(behind, user, "Sent") == [is_sealed]
    with Pop3(forwarding.pop3, user, "password") as pop3:
        assert pop3.mail(1).endswith(TEXT)
    if is_sealed:
        # The limits for wrong passwords need the address of the client, not that of the proxy.
        logged(behind, f"unlock: user=<{user}>, service=imap, remote=127.0.0.5, result=ok")
    for kind, address in ((Imap, forwarding.imap), (Pop3, forwarding.pop3)):
        with pytest.raises(Refused, match=WRONG if kind is Imap else "AUTH"):
            kind(address, user, "wrong")


def test_a_proxy_with_a_master_user_gets_no_key(behind: Behind, master: Dovecot) -> None:
    with Imap(master.imap, ALICE, "password") as imap:
        assert imap.select() == 1
        imap.command(b"CREATE Drafts")
        imap.append("Drafts", HEADERS + TEXT)
        with pytest.raises(Refused):
            imap.body(1)
    logged(behind, "no key: master user <proxy>")
    assert sealed(behind, ALICE, "Drafts") == [True]
    with pytest.raises(Refused):
        Pop3(master.pop3, ALICE, "password")
    logged(behind, "no POP3 for a master user: Dovecot would return empty mails")
    with Imap(behind.imap, ALICE, "password") as imap:
        assert imap.bodies("Drafts") == [HEADERS + TEXT]


def test_a_proxy_with_a_master_user_serves_a_user_who_is_not_enrolled(
    behind: Behind, master: Dovecot
) -> None:
    with Imap(master.imap, PLAIN, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)
        imap.command(b"CREATE Drafts")
        imap.append("Drafts", HEADERS + TEXT)
    assert sealed(behind, PLAIN, "Drafts") == [False]
    with Pop3(master.pop3, PLAIN, "password") as pop3:
        assert pop3.mail(1).endswith(TEXT)
    with pytest.raises(Refused, match=WRONG):
        Imap(master.imap, PLAIN, "wrong")
