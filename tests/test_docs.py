"""What the README and the site say, run: their blocks, the strategy that the README writes, the commands they show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dllm_bench.cli import COMMANDS, cli
from tests.pages import NEXT, ROOT, Wrong, agree, as_script, blocks, check

README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
PLUG_IN = DOCS / "tutorials" / "3-write-a-scheduler.md"
LONG = ("2-compare.md", "4-calibrate.md", "6-remask.md")  # they compare: too long for every day


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=pytest.mark.slow if page.name in LONG else ())
        for page in PAGES
        if page != PLUG_IN  # followed from its first line to its last below
    ],
)
def test_every_block_runs_and_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    check(page, tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        "```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```bash\ndllm-bench list --format json\n```\n\n```text\nschedulers\n```\n",
        "```bash\ndllm-bench lisst\n```\n\n```text\nschedulers\n...\n```\n",
        "```bash\nfalse\n```\n\n```text\n```\n",
        '```python title="a.py"\nx = 1\n```\n\n```python\nfrom a import y\n```\n',
    ],
)
def test_a_broken_block_would_be_noticed(broken: str, tmp_path: Path) -> None:
    page = tmp_path / "broken.md"
    page.write_text(f"Text\n\n{broken}", encoding="utf-8")
    with pytest.raises((AssertionError, ImportError)):
        check(page, tmp_path)


def test_a_page_that_is_right_passes(tmp_path: Path) -> None:
    page = tmp_path / "right.md"
    saved = '```python title="a.py"\ny = 2\n```\n\n```python\nfrom a import y\nprint(y)\n```\n\n```text\n2\n```\n'
    page.write_text(f"{saved}\n```bash\necho one two\n```\n\n```text\none ...\n```\n", encoding="utf-8")
    check(page, tmp_path)


def test_the_readmes_strategy_keeps_the_protocol_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine,) = [one.code for one in blocks(README.read_text(encoding="utf-8")) if "class Mine" in one.code]
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
                assert command in COMMANDS, f"{page.name}: dllm-bench {command}"


def test_every_file_that_the_readme_links_to_exists() -> None:
    found = re.findall(r"\]\((?!https?://|#)([^)#]+)", README.read_text(encoding="utf-8"))
    assert found
    for target in found:
        assert (ROOT / target).exists(), f"README.md links to {target}"


@pytest.mark.slow
def test_whoever_follows_the_tutorial_in_an_empty_folder_has_a_plug_in(tmp_path: Path) -> None:
    """Its own environment, made by `python3 -m venv`; the checkout lies beside it, as the tutorial says."""
    ignored = shutil.ignore_patterns(".*", "node_modules", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "dllm-sdk", ignore=ignored, symlinks=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    followed = subprocess.run(
        ["bash", "-c", as_script(PLUG_IN)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert followed.returncode == 0, followed.stdout + followed.stderr
    ran = [one for one in blocks(PLUG_IN.read_text(encoding="utf-8")) if one.language == "bash" and not one.title]
    printed = followed.stdout.split(f"{NEXT}\n")[1:]
    assert len(ran) == len(printed)
    for block, text in zip(ran, printed, strict=True):
        if not agree(block, text):
            raise Wrong(f"line {block.line} prints\n{text}\nand the page shows\n{block.shows}")
    listed = subprocess.run(
        [tmp_path / "dllm-gap/.venv/bin/dllm-bench", "list"], cwd="/", env=environment, capture_output=True, text=True
    )
    assert "dllm_gap:Gap" in listed.stdout
