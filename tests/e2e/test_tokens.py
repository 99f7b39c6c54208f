# SPDX-License-Identifier: MIT
"""`enroll: at-login` with OAuth: a token is not the password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series, snippet

NEWCOMER = "newcomer@example.com"
OTHER = "other@example.com"
SECRET = "correct-horse-17"
KEY = b"a key for testing, of 32 bytes.."
OAUTH = {
    "2.3": """
auth_mechanisms = plain login xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
  result_success = continue-ok
}}
""",
}
CONF = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""
SNIPPETS = ("auth-behind-passwd-file", "auth-behind-passwd-file-checkpassword")

pytestmark = pytest.mark.skipif(
    series(installed_version()) not in OAUTH,
    reason="in Dovecot 2.4 a token is never given to a Lua passdb as a password",
)


def token(user: str) -> str:
    now = int(time.time())
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": user, "iat": now - 5, "exp": now + 600}]
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(hmac.digest(KEY, text.encode(), hashlib.sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module", params=SNIPPETS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(
        {},
        auth=None,
        plain_users={NEWCOMER: SECRET, OTHER: SECRET},
        config_extra={"login.enroll": "at-login"},
    )
    folder = made.place.path("dovecot")
    keys = os.path.join(folder, "keys", "default", "HS256")
    os.makedirs(keys)
    for where in (os.path.join(folder, "keys"), os.path.dirname(keys), keys):
        os.chmod(where, 0o755)
    for path, text in (
        (os.path.join(keys, "default"), base64.b64encode(KEY).decode()),
        (os.path.join(folder, "oauth2.conf"), CONF.format(folder=folder)),
    ):
        with open(path, "w", encoding="ascii") as stream:
            stream.write(text)
        os.chmod(path, 0o644)
    version = made.dovecot.version
    extra = OAUTH[series(version)].format(folder=folder)
    extra += f"import_environment = $import_environment MAILSEAL_SOCKET={made.agent_socket}\n"
    made.dovecot.write_config(
        extra=extra + snippet(version, request.param, made.dovecot.wanted.places)
    )
    made.start()
    yield made
    made.stop()


def with_token(lab: Lab, user: str) -> None:
    """A login with XOAUTH2 and the token of an earlier login."""
    answer = base64.b64encode(f"user={user}\1auth=Bearer {token(user)}\1\1".encode())
    with Imap(lab.imap) as imap:
        imap.command(b"AUTHENTICATE XOAUTH2", answer)


def test_a_token_does_not_become_the_login_slot(lab: Lab) -> None:
    with_token(lab, NEWCOMER)
    assert lab.mailseal("status", NEWCOMER).returncode == 67
    with open(lab.place.path("log", "agent.log"), encoding="utf-8") as stream:
        assert "unlock:" not in stream.read(), "the token was passed to the agent"
    with Imap(lab.imap, NEWCOMER, SECRET):
        pass
    assert lab.mailseal("status", NEWCOMER).returncode == 0
    # Enrolled users cannot open the keyring with a token, and it is not called wrong.
    # The userdb refuses it; then Dovecot 2.3 disconnects or replies UNAVAILABLE.
    with pytest.raises(Refused, match=r"UNAVAILABLE|closed the connection"):
        with_token(lab, NEWCOMER)


def test_sasl_login_is_a_password(lab: Lab) -> None:
    with Imap(lab.imap) as imap:
        imap.command(
            b"AUTHENTICATE LOGIN",
            base64.b64encode(OTHER.encode()),
            base64.b64encode(SECRET.encode()),
        )
    assert lab.mailseal("status", OTHER).returncode == 0
