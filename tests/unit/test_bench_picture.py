# SPDX-License-Identifier: MIT
"""The picture of the benchmarks: the right figures, and the file that README.md shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import picture
from tests.lab.place import REPOSITORY

_PYTHON = "/usr/bin/python3"
_WHITE = "fill: #ffffff"


def results(version: str = "2.3.19", **logins: Any) -> dict[str, Any]:
    """As in build/bench.json; mailseal delivers twice as fast as Dovecot alone."""
    rates = {"dovecot-plain": 100, "dovecot-mail-crypt": 50, "mailseal": 200}
    rates["mailseal-no-secrets-ahead"] = 90
    medians = {name: {"median": rate} for name, rate in rates.items()}
    return {
        "machine": {"dovecot": version},
        "delivery": dict.fromkeys(("4 KB", "50 KB", "1 MB"), medians),
        "recipients": {"rates": {"plain": 100, "dovecot_lua": 98, "mailseal_lua": 130}},
        "reading": {"dovecot-mail-crypt": {"median": 3.0}, "mailseal": {"median": 1.5}},
        "sealing": {"mailseal_seal": 300, "doveadm_copy": 100, "cp_and_sync": 900},
        "login": {"figures": {k: {"value": v, "limit": w} for k, (v, w) in logins.items()}},
    }


def test_ratios() -> None:
    bars = {bar.label: (bar.value, bar.wanted) for bar in picture.speeds(results())}
    assert bars["mailseal-lmtp, 4 KB, beside LMTP in clear"] == (2.0, 1.0)
    assert bars["mailseal-lmtp, 4 KB, beside LMTP with mail_crypt"] == (4.0, 3.0)
    assert bars["mailseal-lmtp, 1 MB, beside LMTP in clear"] == (2.0, None)
    assert bars["mailseal-lmtp, 4 KB, nothing made in advance"] == (0.9, 1.0)
    assert bars["mailseal-lmtp, 2,000 recipients, Lua"] == (1.3, 1.2)
    assert bars["Dovecot's LMTP, 2,000 not enrolled, Lua"] == (0.98, 0.95)
    assert bars["IMAP reads mail, beside mail_crypt's own"] == (2.0, 1.8)
    assert bars["mailseal seal, beside doveadm copy"] == (3.0, 4.0)


def test_mailboxes_in_use() -> None:
    """Compared with Dovecot alone in the same pass, not with its rate for new mailboxes."""
    found = results()
    rates = {"plain": 200, "dovecot_lua": 190, "mailseal_lua": 250, "mailseal_checkpassword": 100}
    found["recipients"]["rates_in_use"] = rates
    bars = {bar.label: (bar.value, bar.wanted) for bar in picture.speeds(found)}
    assert bars["mailseal-lmtp, 2,000 mailboxes in use, Lua"] == (1.25, 1.2)
    assert bars["mailseal-lmtp, 2,000 mailboxes in use, checkpassword"] == (0.5, 1.2)
    assert bars["Dovecot's LMTP, 2,000 mailboxes in use, Lua"] == (0.95, 0.95)
    assert bars["mailseal-lmtp, 2,000 recipients, Lua"] == (1.3, 1.2)


def test_only_the_logins_that_were_measured() -> None:
    found = results(repeated_login_added_lua_ms=(3.4, 3.0), peak_mib=(1.0, 2.0))
    assert picture.logins(found) == [
        picture.Bar("enrolled, session in the agent, Lua", 3.4, 3.0),
    ]


def test_the_picture(tmp_path: Path) -> None:
    """Both versions, each label as text, on white; the same figures give the same file."""
    has = subprocess.run([_PYTHON, "-c", "import matplotlib"], capture_output=True)
    if has.returncode:
        pytest.skip("python3-matplotlib is not installed: tests/bootstrap bench")
    logins: dict[str, Any] = {"not_enrolled_login_added_lua_ms": (-0.1, 0.5)}
    logins["repeated_login_added_lua_ms"] = (3.4, 3.0)
    files: list[Path] = []
    for version in ("2.3.19", "2.4.1"):
        files.append(tmp_path / f"{version}.json")
        files[-1].write_text(json.dumps(results(version, **logins)))
    drawn: list[str] = []
    for name in ("one.svg", "two.svg"):
        command = [_PYTHON, "-m", "tests.bench.picture", "-o", str(tmp_path / name)]
        command += map(str, files)
        subprocess.run(command, cwd=REPOSITORY, check=True)
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1]
    texts = {text.text for text in ElementTree.fromstring(drawn[0]).iter() if text.text}
    for bar in [*picture.speeds(results()), *picture.logins(json.loads(files[0].read_text()))]:
        assert bar.label in texts and f"{bar.value:.2f}" in texts
    assert {"mailseal with Dovecot 2.3.19", "mailseal with Dovecot 2.4.1", "wanted"} <= texts
    assert _WHITE in drawn[0]


def test_the_picture_that_the_readme_shows() -> None:
    """It is a product of this module, not older than its labels."""
    assert "](docs/bench.svg)" in Path(REPOSITORY, "README.md").read_text()
    shown = Path(REPOSITORY, "docs", "bench.svg").read_text()
    texts = {text.text or "" for text in ElementTree.fromstring(shown).iter()}
    assert {bar.label for bar in picture.speeds(results())} | {"wanted"} <= texts
    assert any(text.startswith("mailseal with Dovecot 2.") for text in texts)
    assert _WHITE in shown
