"""A real Chromium for the tests of pages. It has no network, and whatever a page asks for or complains of is seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[1] / "node_modules/axe-core/axe.min.js"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a site that a test serves itself
)


class Browser:
    """One window, reused; `open` starts afresh."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self._page = folder / "page.html"

    def open(self, html: str, *, width: int = 1280, dark: bool = False) -> None:
        """Show a page in a window of that width, in CSS pixels."""
        self._page.write_text(html, encoding="utf-8")
        self.resize(width)
        self.paint(dark=dark)
        self.problems()
        self.requests()
        self.driver.get(self._page.as_uri())

    def resize(self, width: int) -> None:
        """Another width of the window."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def paint(self, *, dark: bool) -> None:
        """What the reader's system prefers."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def find(self, selector: str) -> list[Any]:
        """The elements of a CSS selector, in the order of the page."""
        elements: list[Any] = self.driver.find_elements("css selector", selector)
        return elements

    def press(self, *keys: str) -> None:
        """Type into whatever has the focus; keys by their names in selenium's Keys, or letters."""
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def point(self, element: Any) -> None:
        """Move the mouse over the middle of an element."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def run(self, script: str, *args: Any) -> Any:
        """The value that a piece of JavaScript returns."""
        return self.driver.execute_script(script, *args)

    def requests(self) -> list[str]:
        """Addresses asked for since the last look, the page's own left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url != self._page.as_uri() and not url.startswith(("data:", "chrome:"))]

    def problems(self) -> list[str]:
        """What stood in the console since the last look: errors, and what the content security policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        page = "document.documentElement"
        return int(self.run(f"return {page}.scrollWidth - {page}.clientWidth"))

    def barriers(self) -> list[str]:
        """axe-core's serious and critical findings. Skips the test where axe-core is not installed."""
        if not AXE.exists():
            pytest.skip("axe-core is missing: npm install --no-save --no-package-lock axe-core")
        self.run(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        return [
            f"{one['id']}: {one['nodes'][0]['html']} {one['nodes'][0]['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        import base64

        shot = {"captureBeyondViewport": True, "format": "png"}
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser of this run; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install -e '.[browser]'")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(programs[1], env={**os.environ, "HOME": str(folder)})
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(300)  # axe-core on a slow machine
    yield Browser(driver, folder)
    driver.quit()
