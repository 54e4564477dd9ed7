"""What the box promises: `dllm-bench compare` on the model that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import dllm_reference_model
from dllm_bench.cli import cli

WEIGHTS = Path(dllm_reference_model.__file__).parent / "weights" / "tiny" / "model.safetensors"


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the shipped weights are not there")
def test_three_strategies_on_the_model_in_the_box() -> None:
    result = CliRunner().invoke(cli, ["compare", "--limit", "15", "--format", "json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    fixed, adaptive, adablock = data["rows"]
    assert [row["scheduler"] for row in data["rows"]] == ["fixed-block", "confidence-adaptive", "adablock"]
    assert {row["n"] for row in data["rows"]} == {15} and list(data["tasks"]) == [
        "expr",
        "record",
        "sort",
        "story",
        "trace",
    ]
    assert max(adaptive["nfe"], adablock["nfe"]) < fixed["nfe"] / 1.5
    assert min(row["accuracy"] for row in data["rows"]) > 0.2  # by chance: none
    assert len(data["environment"]["model_sha256"]) == 64 and data["environment"]["dtype"] == "float32"
