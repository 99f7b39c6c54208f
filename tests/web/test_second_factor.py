# SPDX-License-Identifier: MIT
"""The lines for a client certificate in the files for nginx and Apache."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from tests.web.fronts import APACHE, Front
from tests.web.site import PASSWORD, Site
from tests.web.tab import Page

MORE = {
    "nginx": "ssl_client_certificate {ca};\nssl_verify_client optional;\n",
    "apache": "SSLCACertificateFile {ca}\nSSLVerifyClient optional\n",
}


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def authority(folder: Path) -> Path:
    """A certificate authority, ca.pem."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
    made = ["-subj", "/CN=Our own CA", "-days", "2", "-out"]
    openssl("req", "-x509", *key, f"{folder}/ca.key", *made, f"{folder}/ca.pem")
    folder.chmod(0o755)
    return folder / "ca.pem"


def certificate(folder: Path, user: str) -> tuple[Path, Path]:
    """The certificate and key of a user, in files."""
    cert, key, request = (folder / f"{user}.{end}" for end in ("pem", "key", "csr"))
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
    openssl("req", *new, str(key), "-subj", f"/O=Example/CN={user}", "-out", str(request))
    by = ["-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-CAcreateserial"]
    openssl("x509", "-req", "-in", str(request), *by, "-days", "2", "-out", str(cert))
    return cert, key


@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_only_the_user_of_the_certificate_signs_in(site: Site, kind: str, tmp_path: Path) -> None:
    if kind == "apache" and not Path(APACHE).exists():
        pytest.skip("to test this, install: apache2-bin")
    mine, other = site.user(mails=0), site.user(mails=0)
    ca = authority(tmp_path)
    site.configure_web(**{"web.user_header": "X-Remote-User"})
    try:
        with Front(site, kind, MORE[kind].format(ca=ca), factor=True) as front:
            assert sign_in(front, mine, None).status == 403
            page = sign_in(front, mine, certificate(tmp_path, mine))
            assert page.status == 303, page.text
            assert sign_in(front, other, certificate(tmp_path, mine)).status == 403
            # A header of the client is replaced.
            assert sign_in(front, mine, certificate(tmp_path, other), named=mine).status == 403
    finally:
        site.configure_web()


def sign_in(
    front: Front, user: str, shown: tuple[Path, Path] | None, named: str = "nobody"
) -> Page:
    """Sign in with the right password and this certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shown is not None:
        context.load_cert_chain(*shown)
    headers = {"X-Remote-User": named}

    def ask(method: str, path: str, body: bytes = b"") -> Page:
        connection = http.client.HTTPSConnection("127.0.0.1", front.port, context=context)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return Page(answer.status, answer.getheaders(), answer.read())

    page = ask("GET", "/mailseal/")
    if page.status != 200:
        return page
    headers["Cookie"] = page.cookies[0].partition(";")[0]
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    fields = {**page.form("/mailseal/sign-in"), "user": user, "password": PASSWORD}
    return ask("POST", "/mailseal/sign-in", urllib.parse.urlencode(fields).encode())
