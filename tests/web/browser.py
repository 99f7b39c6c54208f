# SPDX-License-Identifier: MIT
"""Chromium without a window; it can only connect to this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any

from tests.lab.place import REPOSITORY
from tests.lab.process import wait_until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--ignore-certificate-errors", "--disable-dev-shm-usage", "--lang=en", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PICTURES = os.path.join(REPOSITORY, "build", "web")
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}


def missing() -> str:
    """The missing packages; empty if there are none."""
    return "" if os.path.exists(CHROMIUM) and os.path.exists(DRIVER) else "chromium chromium-driver"


class Chromium:
    """One browser with one tab."""

    def __init__(self, language: str = "en") -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self._profile = tempfile.mkdtemp(prefix="mailseal-chromium-")
        self.downloads = os.path.join(self._profile, "downloads")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*_FLAGS, f"--user-data-dir={self._profile}/data"):
            options.add_argument(flag)
        options.add_experimental_option(
            "prefs",
            {
                "intl.accept_languages": language,
                "download.default_directory": self.downloads,
                # No requests to check for leaked passwords.
                "profile.password_manager_leak_detection": False,
                "credentials_enable_service": False,
            },
        )
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.accept_insecure_certs = True
        self.driver: Any = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_page_load_timeout(60)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def get(self, url: str) -> None:
        self.driver.get(url)

    @property
    def words(self) -> str:
        """The visible text of the page."""
        return " ".join(self.find("body").text.split())

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def type(self, name: str, text: str) -> None:
        field = self.find(f'[name="{name}"]')
        field.clear()
        field.send_keys(text)

    def tick(self, *names: str) -> None:
        for name in names:
            self.find(f"label[for={name}]").click()

    def press(self, text: str) -> None:
        """Find a button or a link with this text."""
        path = f'//*[self::button or self::a][contains(normalize-space(.), "{text}")]'
        self.click(self.driver.find_element("xpath", path))

    def click(self, element: Any) -> None:
        """Click, and wait for the page that follows."""
        self.driver.execute_script("document.documentElement.dataset.left = 'yes'")
        element.click()
        script = (
            "return document.documentElement.dataset.left !== 'yes'"
            " && document.readyState === 'complete' && document.querySelector('main') !== null"
        )
        wait_until(lambda: self._holds(script), "the next page is there", timeout=120)

    def _holds(self, script: str) -> bool:
        """False too while the page is being replaced: the driver raises several errors then."""
        with contextlib.suppress(Exception):
            return bool(self.driver.execute_script(script))
        return False

    def as_device(self, size: str, *, dark: bool = False, scale: float = 1) -> None:
        """Set the size of the screen; `scale`: the zoom of the user."""
        width, height = SIZES[size]
        metrics = {
            "width": int(width / scale),
            "height": int(height / scale),
            "deviceScaleFactor": scale,
            "mobile": False,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def picture(self, name: str) -> None:
        """Screenshots of the page: phone and desktop, light and dark, and at 200 %."""
        os.makedirs(PICTURES, exist_ok=True)
        for size in SIZES:
            for dark in (False, True):
                self.as_device(size, dark=dark)
                self.shoot(f"{name}-{size}-{'dark' if dark else 'light'}")
                assert not self.scrolls_sideways(), (name, size)
        self.as_device("desktop", scale=2)
        assert not self.scrolls_sideways(), (name, "200 %")
        self.as_device("desktop")

    def shoot(self, name: str) -> None:
        import base64

        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        with open(os.path.join(PICTURES, f"{name}.png"), "wb") as stream:
            stream.write(base64.b64decode(taken["data"]))

    def scrolls_sideways(self) -> bool:
        script = "return document.documentElement.scrollWidth > window.innerWidth"
        return bool(self.driver.execute_script(script))

    def violations(self) -> list[str]:
        """Findings of axe-core by the rules of WCAG 2.2 AA and its best practices."""
        import importlib.resources

        text = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
        # The page's policy forbids scripts; this one is run by the debugger.
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": text})
        run = (
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',"
            " 'best-practice']}).then(r => JSON.stringify(r.violations.map("
            "v => v.id + ': ' + v.nodes.map(n => n.html).join(' | '))))"
        )
        got = self.driver.execute_cdp_cmd(
            "Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True}
        )
        import json

        found: list[str] = json.loads(got["result"]["value"])
        return found

    def weight(self) -> int:
        """Size in bytes of the page and the files it loads, uncompressed."""
        script = (
            "return performance.getEntriesByType('navigation').concat("
            "performance.getEntriesByType('resource')).reduce((s, e) => s + e.decodedBodySize, 0)"
        )
        return int(self.driver.execute_script(script))

    def scripts(self) -> int:
        return len(self.all("script"))
