"""A strategy from somebody else's distribution: found, checked and compared by its name, through an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What `pip install` of a small plug-in leaves behind, with the README's strategy in it, and a broken one."""
    (mine,) = [one.code for one in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if "class Mine" in one.code]
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    points = "[dllm_sdk.schedulers]\nmine = mine:Mine\nbroken = not_there:Broken\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return tmp_path


def bench(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dllm_bench.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False)


def test_a_plug_in_is_listed_checked_and_compared(site: Path) -> None:
    listed = bench(site, "list", "--long").stdout
    assert "mine:Mine" in listed and "block=16, slack=0.2" in listed
    assert "broken" in listed and "No module named 'not_there'" in listed and "adablock" in listed
    checked = bench(site, "check", "mine:block=8", "--examples", "10")
    assert checked.returncode == 0, checked.stderr
    compared = bench(site, "compare", "--scheduler", "mine", "--limit", "5", "--format", "csv")
    assert compared.returncode == 0 and "\nmine," in compared.stdout, compared.stderr


def test_a_broken_plug_in_is_one_sentence(site: Path) -> None:
    failed = bench(site, "compare", "--scheduler", "broken", "--limit", "5")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert "broken" in failed.stderr and "not_there" in failed.stderr
