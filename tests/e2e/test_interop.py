# SPDX-License-Identifier: MIT
"""Sealed files between mailseal and Dovecot in both directions, without mailseal's daemons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged, NoKey
from mailseal.login.mailcrypt_fields import login_fields
from tests.e2e.mails import HEADERS, ODD, SIZES, cpython_mails, crlf, of_size
from tests.lab import Imap, Refused
from tests.lab.dovecot import Dovecot, Wanted
from tests.lab.place import MAIL_UID, Place, free_ports

CURVES = ("prime256v1", "secp384r1", "secp521r1")


class Store(NamedTuple):
    """A running Dovecot whose users have one private key each; user `CURVE@example.org`."""

    dovecot: Dovecot
    place: Place
    keys: dict[str, PrivateKey]

    def maildir(self, curve: str, folder: str = "") -> str:
        parts = ["Maildir", *([f".{folder}"] if folder else [])]
        return self.place.path("mail", "example.org", curve, *parts)

    def files(self, curve: str, folder: str = "") -> list[str]:
        """All stored files in the order of delivery."""
        found = []
        for part in ("cur", "new"):
            where = os.path.join(self.maildir(curve, folder), part)
            found += [os.path.join(where, name) for name in os.listdir(where)]
        return sorted(found, key=lambda path: (os.stat(path).st_mtime_ns, path))

    def imap(self, curve: str) -> Imap:
        return Imap(self.dovecot.imap, f"{curve}@example.org", "password")

    def put(self, curve: str, number: int, plain: bytes, *, sizes: bool = True) -> None:
        """Seal a mail and write the file to new/."""
        new = os.path.join(self.maildir(curve), "new")
        name = f"{1_700_000_000 + number}.M1P1.lab"
        if sizes:
            name += f",S={len(plain)},W={len(crlf(plain))}"
        path = os.path.join(new, name)
        with open(path, "wb") as stream:
            stream.write(dcrypt.seal(self.keys[curve].public, plain))
        os.chown(path, MAIL_UID, MAIL_UID)

    def clear(self, curve: str) -> None:
        with self.imap(curve) as imap:
            for folder in ("INBOX", "Sent"):
                if imap.select(folder):
                    imap.command(b"STORE 1:* +FLAGS.SILENT (\\Deleted)")
                    imap.command(b"EXPUNGE")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    place = Place.make()
    dovecot = None
    try:
        imap, pop3 = free_ports(2)
        dovecot = Dovecot(Wanted(place, imap, pop3, auth="passwd-file"))
        series = ".".join(dovecot.version.split(".")[:2])
        keys = {curve: PrivateKey.generate(curve) for curve in CURVES}
        fields = {
            f"{curve}@example.org": " ".join(
                f"userdb_{name}={value}"
                for name, value in login_fields(series, [key])
                # In a passwd-file values have no spaces; mailseal.conf loads the plugin.
                if name != "mail_plugins+"
            )
            for curve, key in keys.items()
        }
        dovecot.write_users(dict.fromkeys(fields, "password"), fields)
        dovecot.start()
        yield Store(dovecot, place, keys)
    finally:
        if dovecot is not None:
            dovecot.stop()
        place.remove()


@pytest.fixture(params=CURVES)
def curve(request: pytest.FixtureRequest, store: Store) -> str:
    """A user whose mailbox exists and is empty."""
    name: str = request.param
    store.clear(name)
    return name


def samples(*, largest: int) -> list[bytes]:
    sizes = [size for size in SIZES if size <= largest]
    return [
        of_size(size, newline=newline, eight_bit=eight_bit)
        for size in sizes
        for newline in (b"\n", b"\r\n")
        for eight_bit in (False, True)
    ]


@pytest.mark.parametrize("sizes", [True, False], ids=["S and W", "no sizes"])
def test_dovecot_reads_what_we_seal(store: Store, curve: str, sizes: bool) -> None:
    # All sizes for one curve; for the others only the header is different.
    plains = samples(largest=10_000_000 if curve == "prime256v1" else 65536)
    plains = [plain for plain in plains if plain]
    for number, plain in enumerate(plains):
        store.put(curve, number, plain, sizes=sizes)
    with store.imap(curve) as imap:
        assert imap.select() == len(plains)
        for number, plain in enumerate(plains):
            assert imap.body(number + 1) == crlf(plain), f"mail {number} of {len(plain)} bytes"


def test_dovecot_reads_an_empty_mail(store: Store, curve: str) -> None:
    store.put(curve, 1, b"")
    with store.imap(curve) as imap:
        assert imap.select() == 1
        assert imap.body(1) == b""


def test_dovecot_reads_cpythons_and_odd_mails(store: Store, curve: str) -> None:
    plains = [*cpython_mails().values(), *ODD.values()]
    for number, plain in enumerate(plains):
        store.put(curve, number, plain)
    with store.imap(curve) as imap:
        assert imap.bodies() == [crlf(plain).replace(b"\0", b"\x80") for plain in plains]


def test_we_open_what_dovecot_seals(store: Store, curve: str) -> None:
    plains = samples(largest=10_000_000 if curve == "prime256v1" else 65536)
    plains = [plain for plain in plains if plain]
    plains += [mail for mail in cpython_mails().values() if b"\0" not in mail]
    with store.imap(curve) as imap:
        for plain in plains:
            imap.append("Sent", plain)
    files = store.files(curve, "Sent")
    assert len(files) == len(plains)
    opened = []
    for path in files:
        with open(path, "rb") as stream:
            opened.append(b"".join(dcrypt.open_sealed(stream, [store.keys[curve]])))
    # Dovecot stores LF; files written within a clock tick may have another order.
    expected = sorted(plain.replace(b"\r\n", b"\n") for plain in plains)
    assert sorted(opened) == expected


def test_dovecot_and_we_agree_on_the_header(store: Store, curve: str) -> None:
    store.put(curve, 1, HEADERS + b"ours\n")
    with store.imap(curve) as imap:
        imap.append("Sent", HEADERS + b"theirs\r\n")
    for folder in ("", "Sent"):
        (path,) = store.files(curve, folder)
        dump = store.dovecot.doveadm("dump", "-t", "dcrypt-file", path).decode()
        assert store.keys[curve].key_id.hex() in dump
        with open(path, "rb") as stream:
            info = dcrypt.inspect(stream.read(4096))
        assert store.keys[curve].key_id in info.key_ids
        assert "INTEGRITY_AEAD" in dump
        assert "FORMAT_V2" in dump


def test_mail_for_another_key_is_not_opened(store: Store, curve: str) -> None:
    other = next(name for name in CURVES if name != curve)
    with store.imap(curve) as imap:
        imap.append("Sent", HEADERS + b"theirs\r\n")
    (path,) = store.files(curve, "Sent")
    with open(path, "rb") as stream, pytest.raises(NoKey):
        b"".join(dcrypt.open_sealed(stream, [store.keys[other]]))


def test_both_refuse_a_changed_mail(store: Store, curve: str) -> None:
    store.put(curve, 1, HEADERS + b"x" * 1000 + b"\n", sizes=False)
    (path,) = store.files(curve)
    with open(path, "r+b") as stream:
        data = bytearray(stream.read())
        data[-500] ^= 1
        stream.seek(0)
        stream.write(data)
        stream.flush()
        stream.seek(0)
        with pytest.raises(Damaged):
            b"".join(dcrypt.open_sealed(stream, [store.keys[curve]]))
    with store.imap(curve) as imap:
        imap.select()
        with pytest.raises(Refused):
            imap.body(1)


def test_both_see_the_sizes_of_a_logged_out_users_mail(store: Store, curve: str) -> None:
    plain = of_size(5000, newline=b"\n")
    store.put(curve, 1, plain)
    with store.imap(curve) as imap:
        imap.select()
        (line, _) = imap.command(b"FETCH 1 RFC822.SIZE")
    assert line == b"* 1 FETCH (RFC822.SIZE %d)" % len(crlf(plain))
