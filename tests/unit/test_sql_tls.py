# SPDX-License-Identifier: MIT
"""A database on another host: TLS with a verified certificate, and a password from a file."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailseal.database_address import parse
from mailseal.errors import ConfigError, StoreUnreachable
from mailseal.keys import opening
from tests.lab import clusters
from tests.lab.databases import Mariadb, Postgresql
from tests.lab.place import free_ports

PASSWORD = "a secret of the database"


def certificate(path: Path, address: str, owner: str) -> str:
    """Make a key and a self-signed certificate for this address; returns the path of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    path.chmod(0o600)
    shutil.chown(path, owner, owner)
    public = path.with_suffix(".crt")
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with clusters.folder() as path:
        yield Path(path)


Where = Callable[[str], str]
"""The URL for a user and a certificate."""


@pytest.fixture(params=["postgresql", "mariadb"])
def where(request: pytest.FixtureRequest, folder: Path) -> Iterator[Where]:
    (port,) = free_ports(1)
    if request.param == "postgresql":
        first = Postgresql(f"{folder}/pg", f"{folder}/s", f"{folder}/log")
        first.sql(f"CREATE ROLE mailseal LOGIN PASSWORD '{PASSWORD}'")
        first.stop()
        pair = certificate(folder / "pair", "127.0.0.1", "postgres")
        hba = folder / "pg" / "pg_hba.conf"
        hba.write_text("hostssl all mailseal 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        tls = "ssl=on", f"ssl_cert_file={pair}", f"ssl_key_file={pair}"
        first.listen("127.0.0.1", port, *tls)
        first.start()
        end = f"127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert="
        yield lambda ca: f"postgresql://mailseal@{end}{ca}"
        first.stop()
    else:
        other = Mariadb(str(folder))
        other.sql(f"CREATE USER mailseal@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL")
        other.sql("GRANT ALL ON mail.* TO mailseal@'127.0.0.1'")
        other.stop()
        pair = certificate(folder / "pair", "127.0.0.1", "mysql")
        command = [part for part in other._server.command if part != "--skip-networking"]
        command += [f"--port={port}", "--bind-address=127.0.0.1"]
        other._server.command = [*command, f"--ssl-cert={pair}", f"--ssl-key={pair}"]
        other._server.start(until=[("127.0.0.1", port)], timeout=60)
        yield lambda ca: f"mysql://mailseal@127.0.0.1:{port}/mail?ssl_ca={ca}"
        other.stop()


def test_password_and_certificate(where: Where, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o640)
    ca = str(folder / "pair.crt")
    database = opening.database(where(ca), str(secret), any_schema=True)
    assert database.row("SELECT 1") == (1,)
    certificate(folder / "another", "127.0.0.1", "root")
    stranger = opening.database(where(f"{folder}/another.crt"), str(secret), any_schema=True)
    with pytest.raises(StoreUnreachable):
        stranger.row("SELECT 1")
    secret.write_text("another secret")
    wrong = opening.database(where(ca), str(secret), any_schema=True)
    with pytest.raises(StoreUnreachable) as failure:
        wrong.row("SELECT 1")
    assert "does not let mailseal log in" in str(failure.value)
    assert "another secret" not in str(failure.value)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody can read"):
        opening.database(where(ca), str(secret))


def test_addresses() -> None:
    assert not parse("postgresql:///mailseal").is_remote
    assert not parse("mysql://[::1]:3307/mailseal").is_remote
    found = parse("postgresql://mailseal@db1.example.org,db2.example.org:5433/mailseal")
    assert found.is_remote and found.user == "mailseal"
    assert found.hosts == (("db1.example.org", 5432), ("db2.example.org", 5433))
    for wrong in (
        "files",
        "postgresql://",
        "postgresql://mailseal:secret@db/mailseal",
        "postgresql://@db/mailseal",
        "postgresql:///mailseal?password=secret",
        "sqlite:///mailseal",
        "mysql://db:x/mailseal",
        "postgresql:///mail'seal",
    ):
        with pytest.raises(ValueError):
            parse(wrong)
