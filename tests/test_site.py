"""The built site: strict and offline, complete, and as a reader meets it in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dllm_bench
import dllm_sdk
from dllm_bench import available
from tests.browser import Browser
from tests.pages import ROOT

pytestmark = pytest.mark.extra
LOADS = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"')


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with no way to the network."""
    for needed in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(needed, reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"], "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if page.name != "404.html")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        assert not LOADS.findall(page.read_text(encoding="utf-8")), page


def test_the_reference_is_complete(site: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html"))
    anchors = set(re.findall(r'id="([^"]+)"', text))
    public = {f"{package.__name__}.{name}" for package in (dllm_sdk, dllm_bench) for name in package.__all__}
    classes = {one.target.replace(":", ".") for one in available() if one.kind == "scheduler"}
    assert public | {name for name in classes if name.startswith("dllm_strategies.")} <= anchors
    assert "generate:" not in text  # every mark was filled in


def test_a_field_says_what_the_comment_behind_it_says(site: Path) -> None:
    text = (site / "reference/api/index.html").read_text(encoding="utf-8")
    assert "masked positions this call may choose among" in text


def test_options_stand_as_the_help_has_them(site: Path) -> None:
    text = (site / "reference/command-line/index.html").read_text(encoding="utf-8")
    for names in ("--format [table|json|jsonl|csv|md]", "--task NAME|FILE.jsonl|FILE.py:NAME", "-h, --help"):
        assert f"<code>{names}</code>" in text


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site on this machine, served over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_quiet_and_fits_a_phone(browser: Browser, site: Path, address: str, dark: bool) -> None:
    browser.resize(360)
    browser.paint(dark=dark)
    browser.problems(), browser.requests()
    for page in pages(site):
        where = page.relative_to(site).as_posix().removesuffix("index.html")
        browser.driver.get(address + where)
        outside = [url for url in browser.requests() if not url.startswith((address, "blob:"))]
        assert (browser.problems(), outside, browser.overflow()) == ([], [], 0), where
        scheme = browser.run("return document.body.dataset.mdColorScheme || null")
        assert where == "trace.html" or scheme == ("slate" if dark else "default"), where
    assert len(pages(site)) > 20


def test_a_stacked_table_says_on_a_phone_what_each_cell_is(browser: Browser, address: str) -> None:
    browser.resize(360)
    browser.driver.get(f"{address}reference/strategies/")
    said = "return getComputedStyle(arguments[0], '::before').content"
    name, does, needs, *_ = browser.find(".stacked tbody td")
    assert [browser.run(said, cell) for cell in (name, does, needs)] == ["none", '"what it does: "', '"needs: "']
    assert browser.overflow() == 0
    browser.resize(1280)
    assert browser.run(said, needs) == "none"


def test_the_first_page_plays(browser: Browser, address: str) -> None:
    browser.resize(1280)
    browser.driver.get(address)
    browser.driver.switch_to.frame(browser.find("iframe")[0])
    browser.find("#first")[0].click()
    assert browser.find("#where")[0].text.startswith("step 0 of")
    assert "▢" in str(browser.find("#trace-0 .canvas")[0].get_attribute("aria-label"))
    browser.driver.switch_to.default_content()


def test_the_first_page_says_the_same_without_javascript(browser: Browser, address: str) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(address)
        shown = browser.driver.page_source
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "<details" in shown and "tokens in" in shown and 'src="trace.html"' in shown
