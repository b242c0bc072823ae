"""A real browser without a window, and what it did, for tests of pages."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

_QUIET = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
_SECONDS = 300  # a page is ready within a second, but machines can be busy


class Page:
    """An open page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Open a page of this package and wait until its figures are there."""
        self.driver.get_log("performance")  # forget what the browser did on its own
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        WebDriverWait(self.driver, _SECONDS).until(
            lambda _: self.run("return document.documentElement.dataset.ready") == "yes"
        )
        self.settle()

    def settle(self) -> None:
        """Wait until everything asked for has been drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() =>"
            " done()));"
        )

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def media(self, media: str = "screen", scheme: str = "light") -> None:
        """Pretend to be a screen or paper, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )
        self.settle()

    def complaints(self) -> list[str]:
        """Warnings and errors on the console."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] not in ("INFO", "DEBUG")
        ]

    def requests(self) -> list[str]:
        """Addresses asked for, but for those that hold their content."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("data:", "blob:", "chrome"))]


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Chromium with a profile of its own."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.fail(
            "The report is tested in a browser; install it with: apt-get install chromium"
            " chromium-driver."
        )
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    switches = [
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--window-size=1300,1000",
    ]
    for switch in (*switches, *(f"--disable-{name}" for name in _QUIET)):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(programs[1]), options=options)
    driver.command_executor.client_config.timeout = _SECONDS
    driver.set_script_timeout(_SECONDS)
    try:
        yield Page(driver)
    finally:
        driver.quit()
