"""What the README and the site say, run: python blocks, the strategy that the README writes, and the site itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from dllm_bench.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Line number and code of every block in a language."""
    found = [(text[: match.start()].count("\n") + 2, match) for match in BLOCK.finditer(text)]
    return [(line, match[2]) for line, match in found if match[1] == language]


def run_page(page: Path) -> None:
    """Run a page's python blocks one after another in one namespace; an error shows the page's own line."""
    module = ModuleType("page")
    sys.modules["page"] = module  # dataclasses look their module up
    for line, code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page)


def test_a_broken_block_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "broken.md"
    page.write_text("Text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        run_page(page)


def test_the_readmes_strategy_keeps_the_protocol_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine,) = [code for _, code in blocks(PAGES[0].read_text(encoding="utf-8"), "python") if "class Mine" in code]
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    checked = CliRunner().invoke(cli, ["check", "./mine.py:Mine", "--examples", "20"])
    assert checked.exit_code == 0, checked.output
    compared = CliRunner().invoke(cli, ["compare", "--scheduler", "./mine.py:Mine", "--limit", "5", "--format", "md"])
    assert compared.exit_code == 0, compared.output
    assert "./mine.py:Mine" in compared.output


def test_every_command_that_the_pages_show_exists() -> None:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            for command in re.findall(r"dllm-bench ([a-z][a-z-]*)", line):
                assert command in cli.commands, f"{page.name}: dllm-bench {command}"


@pytest.mark.extra
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    pytest.importorskip("material", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?)[^"]*)"', page.read_text(encoding="utf-8")
        )
        assert not loaded, f"{page.name} loads {loaded}"
