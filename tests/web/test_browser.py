# SPDX-License-Identifier: MIT
"""All steps in a real browser: on, read, app password, forgotten password, reset, off."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mailseal.crypto import dcrypt
from tests.e2e.mails import HEADERS
from tests.lab import Imap
from tests.lab.panels import Roundcube
from tests.lab.panels import missing as panels_missing
from tests.lab.smtp import send
from tests.web.browser import Chromium, missing
from tests.web.fronts import Front
from tests.web.site import PASSWORD, Site, wait

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"to test this, install: {missing()}")

MAILS = 2000
USER = "anna@example.org"
KILO = 1000
BUDGET = 60 * KILO
NEW = "correct horse battery"


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Site, Front, Roundcube]]:
    if what := panels_missing():
        pytest.skip(f"to test this, install: {what}")
    with contextlib.ExitStack() as stack:
        made = Site(**{"seal.limit_rate": "60K"})
        site = stack.enter_context(made)
        front = stack.enter_context(Front(site, "nginx"))
        panels = os.path.join(site.lab.hooks, "panels")
        roundcube = Roundcube(site.lab.place.path("webmail"), site.lab.imap[1], panels, "")
        stack.callback(roundcube.stop)
        yield site, front, roundcube


class _Story:
    """The browser, and the checks of every page."""

    def __init__(self, site: Site, browser: Chromium) -> None:
        self.site = site
        self.browser = browser

    def check(self, name: str, wanted: str) -> None:
        browser = self.browser
        assert wanted in browser.words, browser.words
        assert browser.violations() == [], name
        assert browser.weight() < BUDGET, name
        assert browser.scripts() == 0
        browser.picture(name)

    def until(self, text: str) -> None:
        """Wait until the page, which updates itself, says this.  The sealer gives way to others."""
        end, said = time.monotonic() + 400, ""
        while text not in said:
            assert time.monotonic() < end, (said, self.site.lab.log_text()[-3000:])
            time.sleep(0.5)
            said = _words(self.browser)

    def files(self) -> list[bytes]:
        found = []
        for path in self.site.lab.stored(USER):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
                found.append(stream.read())
        return found

    def sealed(self) -> tuple[int, int]:
        """The number of sealed mails, and the number of all stored mails."""
        files = self.files()
        return sum(map(dcrypt.is_sealed, files)), len(files)


@pytest.fixture(scope="module")
def story(made: tuple[Site, Front, Roundcube]) -> Iterator[_Story]:
    site, _, _ = made
    site.user(USER, mails=0)
    with Imap(site.lab.imap, USER, PASSWORD) as imap:
        for number in range(MAILS):
            imap.append("INBOX", HEADERS + b"the plums are ripe, number %d\r\n" % number)
    site.sealer.start(until=[])
    with Chromium() as browser:
        yield _Story(site, browser)


def test_the_whole_story(made: tuple[Site, Front, Roundcube], story: _Story) -> None:
    site, front, roundcube = made
    browser = story.browser
    assert story.sealed() == (0, MAILS)

    # Signing in, and turning it on.
    browser.get(front.url)
    story.check("1-sign-in", "Encryption of your mail")
    _sign_in(browser, PASSWORD)
    story.check("2-off", "Encryption is off")
    browser.press("Turn encryption on")
    story.check("3-turn-on", "Confirm each point")
    browser.tick("forget", "keep", "clients", "old_mail")
    browser.type("password", "not this one")
    browser.press("Continue to the recovery code")
    story.check("4-wrong-password", "This password or code is not right")
    browser.type("password", PASSWORD)
    browser.press("Continue to the recovery code")
    story.check("5-code", "It is shown only now")
    code = "".join(browser.find(".code").text.split())
    browser.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": browser.downloads},
    )
    browser.find("form[action$='code.txt'] button").click()
    wait(lambda: os.path.exists(f"{browser.downloads}/recovery-code.txt"), "the file is there")
    with open(f"{browser.downloads}/recovery-code.txt", encoding="utf-8") as stream:
        assert code in stream.read()
    browser.press("I have kept it. Continue")
    assert site.lab.mailseal("status", USER).returncode == 67, "not enrolled yet"
    for number in range(1, 9):
        for field in browser.all(f"[name=group{number}]"):
            field.send_keys("zzzz")
    browser.type("password", PASSWORD)
    browser.press("Turn encryption on")
    story.check("6-confirm", "These are not the groups of your recovery code")
    assert site.lab.mailseal("status", USER).returncode == 67, "not enrolled yet"
    for number in range(1, 9):
        for field in browser.all(f"[name=group{number}]"):
            field.clear()
            field.send_keys(code.split("-")[number - 1].upper())
    browser.type("password", PASSWORD)
    browser.press("Turn encryption on")
    assert "Encryption is on" in browser.words
    assert site.lab.mailseal("status", USER).returncode == 0

    # The old mail is being sealed; the page updates itself, also in a second browser.
    story.until("of 2,000 mails")
    browser.get(f"{front.url}?still=1")
    story.check("7-progress", "Being encrypted")
    with Chromium("de") as other:
        other.get(front.url)
        _sign_in(other, PASSWORD)
        assert "Verschlüsselung ist eingeschaltet" in other.words, other.words
        other.picture("7-progress-german")
        for path in ("app-passwords", "turn-off", "recovery-code", "password", "sessions", "key"):
            other.get(front.url + path)
            other.picture(f"{path}-german")
    browser.get(front.url)
    story.until("2,000 mails.")
    story.check("8-on", "Your older mail is encrypted")
    assert story.sealed() == (MAILS, MAILS)
    assert not any(b"the plums are ripe" in data for data in story.files())

    # Mail is read in Roundcube, old and new.
    send(site.lab.smtp, "eve@example.net", [USER], HEADERS + b"new plums\r\n")
    site.lab.wait_delivered()
    assert story.sealed() == (MAILS + 1, MAILS + 1)
    _reads(roundcube, PASSWORD, 1, b"the plums are ripe, number 0")
    _reads(roundcube, PASSWORD, MAILS + 1, b"new plums")

    # An app password.
    browser.press("App passwords")
    story.check("9-app-passwords", "Give each phone and program")
    browser.type("label", 'phone <b>"&')
    browser.type("password", PASSWORD)
    browser.press("Make an app password")
    story.check("10-app-password", 'For “phone <b>"&”')
    app = "".join(browser.find(".code").text.split())
    with Imap(site.lab.imap, USER, app) as imap:
        assert len(imap.bodies()) == MAILS + 1
    browser.press("Done")
    story.check("11-app-passwords", "last used")
    browser.press("Remove")
    story.check("12-remove", "The program that uses it cannot sign in")
    browser.type("password", PASSWORD)
    browser.press("Remove")
    assert site.reads(USER, app) is None

    # The other pages.
    for name, path, words in (
        ("13-recovery-code", "recovery-code", "The new code replaces your older one"),
        ("14-password", "password", "Current password"),
        ("15-sessions", "sessions", "All mail programs are signed out"),
        ("16-key", "key", "Whoever has this file"),
        ("17-old-mail", "old-mail", "Encrypt older mail"),
        ("18-stay", "stay", "Keep encryption on"),
    ):
        browser.get(front.url + path)
        story.check(name, words)

    # A new recovery code.
    older, code = code, _new_code(browser, story, front)
    assert site.refused("recover", user=USER, code=older, new="x") == "WrongPassword"

    # The password is forgotten.
    browser.press("Sign out")
    browser.press("Password forgotten?")
    story.check("19-reset", "You need your recovery code")
    for name, text in (("user", USER), ("code", code), ("new", NEW), ("again", NEW)):
        browser.type(name, text)
    browser.press("Set the password")
    story.check("20-reset-done", "The new password is set")
    wait(lambda: site.reads(USER, NEW), "the new password reads")
    assert site.reads(USER, PASSWORD) is None
    _reads(roundcube, NEW, MAILS + 1, b"new plums")

    # Encryption is turned off.
    browser.press("Sign in")
    _sign_in(browser, NEW)
    browser.press("Turn encryption off")
    story.check("21-turn-off", "All your mail is stored in clear again")
    browser.tick("clear")
    browser.type("password", NEW)
    browser.press("Turn encryption off")
    browser.get(f"{front.url}?still=1")
    story.check("22-leaving", "Encryption is being turned off")
    browser.get(front.url)
    story.until("Encryption is off")
    story.check("23-off", "2,001 mails are stored in clear")
    assert story.sealed() == (0, MAILS + 1)
    assert all(b"plums" in data for data in story.files())
    assert site.lab.mailseal("status", USER).returncode == 67
    _reads(roundcube, NEW, 1, b"the plums are ripe, number 0")

    _nothing_was_said(
        site, front, browser, [PASSWORD, NEW, older, code, app, code.replace("-", "")]
    )


def _new_code(browser: Chromium, story: _Story, front: Front) -> str:
    browser.get(f"{front.url}recovery-code")
    browser.type("password", PASSWORD)
    browser.press("Make a recovery code")
    story.check("13b-new-code", "Until then your older code stays valid")
    code = "".join(browser.find(".code").text.split())
    browser.press("I have kept it. Continue")
    story.check("13c-new-code-confirm", "an older code is not valid any more")
    for number in range(1, 9):
        for field in browser.all(f"[name=group{number}]"):
            field.send_keys(code.split("-")[number - 1])
    browser.type("password", PASSWORD)
    browser.press("Make it valid")
    story.check("13d-new-code-valid", "Your new recovery code is valid")
    return code


def _nothing_was_said(site: Site, front: Front, browser: Chromium, secrets: list[str]) -> None:
    """No secret is in an address, a log or a referrer, and only our own files were requested."""
    log = site.lab.log_text()
    with open(os.path.join(front.folder, "access.log"), encoding="utf-8") as stream:
        access = stream.read()
    assert "POST /mailseal/sign-in" in access
    asked = [entry["message"] for entry in browser.driver.get_log("performance")]
    for secret in secrets[1:]:
        assert secret not in log and secret not in access
        assert not any('"url":"' in line and f"{secret}" in _url(line) for line in asked)
    errors = [e["message"] for e in browser.driver.get_log("browser") if e["level"] == "SEVERE"]
    assert not [e for e in errors if "favicon" not in e and "403" not in e], errors


def _url(line: str) -> str:
    return line.partition('"url":"')[2].partition('"')[0]


def _sign_in(browser: Chromium, password: str) -> None:
    browser.type("user", USER)
    browser.type("password", password)
    browser.click(browser.find("main button.main"))


def _words(browser: Chromium) -> str:
    """Look while the page may be reloading."""
    try:
        return browser.words
    except Exception as exc:
        sys.stdout.write(f"{type(exc).__name__}\n")
        return ""


def _reads(roundcube: Roundcube, password: str, uid: int, wanted: bytes) -> None:
    tab: Any = roundcube.login(USER, password)
    assert tab is not None
    page = tab.get(f"?_task=mail&_mbox=INBOX&_uid={uid}&_action=show")
    assert wanted.decode() in page, page[-3000:]
