"""The commands that decode, on a device that this machine lacks: as on a GPU, nothing may be made on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from dllm_bench.cli import cli
from dllm_reference_model.model import Config, Transformer
from dllm_sdk.elsewhere import ELSEWHERE, elsewhere
from tests.bench.toys import EOS, HERE, MASK, Letters

MODEL = ("--model", f"{__file__}:load")
SOME = ("fixed-block:block=4,steps=2", "confidence-adaptive:threshold=0.2", "p2:steps=6")


def load(*, device: str, dtype: Any) -> Transformer:
    """A random transformer that knows the letters of the toys."""
    torch.manual_seed(0)
    config = Config(
        vocab_size=MASK + 1, mask_id=MASK, eos_ids=(EOS,), width=16, layers=2, heads=2, kv_heads=1, mlp_width=16
    )
    model = Transformer(config, Letters()).to(torch.float64)
    for weight in model.parameters():
        weight.detach().normal_()
    return model.to(device).freeze()


def run(*arguments: str, device: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, *MODEL, "--device", device])
    assert result.exit_code == 0, result.output
    return result.stdout


def twice(*arguments: str) -> tuple[str, str]:
    """What a command prints for the CPU and for the other device."""
    here = run(*arguments, device="cpu")
    with elsewhere():
        return here, run(*arguments, device=str(ELSEWHERE))


def numbers(results: Path) -> list[list[Any]]:
    """What must not depend on the device."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return [[line.get(key) for key in ("scheduler", "text", "nfe", "fed", "refreshes", "blocks")] for line in lines]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_compare_measures_the_same(cache: str, tmp_path: Path) -> None:
    some = [item for spec in SOME for item in ("--scheduler", spec)]
    options = ("compare", "--task", f"{HERE}:task", "--limit", "4", "--cache", cache, *some)
    run(*options, "--output", str(tmp_path / "here"), device="cpu")
    with elsewhere():
        run(*options, "--output", str(tmp_path / "there"), device=str(ELSEWHERE))
    here, there = (numbers(tmp_path / name / "results.jsonl") for name in ("here", "there"))
    assert here == there and len({str(line) for line in here}) > 8


def test_trace_shows_the_same() -> None:
    here, there = twice("trace", "--task", f"{HERE}:task", "--scheduler", SOME[2])
    assert here == there and "steps, wrong" in here


@pytest.mark.slow
def test_speed_races_with_equal_tokens_and_counts_the_same() -> None:
    sizes = ("--prompt-length", "4", "--gen-length", "8", "--block", "4", "--rounds", "1", "--batch-size", "2")
    here, there = (json.loads(text) for text in twice("speed", *sizes, "--format", "json"))
    for part, fields in (("races", ("cache", "equal", "nfe")), ("steps", ("kind", "fed", "host_reads"))):
        told = [[[one[field] for field in fields] for one in found[part]] for found in (here, there)]
        assert told[0] == told[1] != []
