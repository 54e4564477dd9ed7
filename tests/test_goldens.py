"""The recorded outputs of the public decoders, replayed through `generate` and the loaders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.check_goldens import main

GOLDENS = Path(__file__).parent / "data" / "goldens"


def test_every_recorded_output_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GOLDENS) == 0
    printed = capsys.readouterr().out
    for line in ("total                        81/81", "block lengths                14/14", "forward logits"):
        assert line in printed


def test_a_changed_record_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "goldens"
    shutil.copytree(GOLDENS, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["cases"] = manifest["cases"][:2]
    manifest["cases"][0]["expected"]["sequences"][0][-1] ^= 1
    manifest["cases"][1]["expected"]["commit_step"][0][0] += 50
    manifest["scheduler_step_cases"]["items"] = []
    manifest["block_length_cases"]["items"][0]["expected_block_length"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert main(folder) == 1
    printed = capsys.readouterr()
    assert "total                        0/2" in printed.out and "block lengths                13/14" in printed.out
    assert "position 31" in printed.err and "commits at step" in printed.err
