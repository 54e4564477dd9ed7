"""The study: what is watched is what happened, and the page says what the data say."""

import importlib
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from dllm_sdk import load_model

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("study", "study_page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("study")


def made_up(study: ModuleType, data: Path) -> None:
    rng = random.Random(0)
    for setting in study.SETTINGS:
        spec = setting.spec
        rate = 0.9 if spec == study.fixed(64) else 0.5
        digits = {task: "".join("01"[rng.random() < rate] for _ in range(100)) for task in study.TASKS}
        counts = {task: [20 if spec == study.ONE_TOKEN else 5] * 100 for task in study.TASKS}
        line = {"model": setting.model, "weights": "abc", "limit": 500, "strict": digits, "answer": digits}
        many = {task: [20] * 100 for task in study.TASKS}
        study._append(data, {"name": setting.name, **line, "nfe": counts, "fed": many, "generated": many})
    for block in study.BLOCKS:
        band = {share: [[0.1, 0.5, 0.9], [0.0, 0.2, 0.4]] for share in ("0", "0.5")}
        watch = {"late": 0.125, "premature": 0.25, "tokens": 4321, "band": band}
        study._append(data, {"model": "tiny", "weights": "abc", "limit": 500, "name": f"watch:{block}", **watch})


def test_the_page_says_what_the_data_say(study: ModuleType, tmp_path: Path) -> None:
    made_up(study, tmp_path / "data.jsonl")
    options = ["page", "--data", str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "page.md")]
    done = CliRunner().invoke(study.main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.md").read_text()
    better = next(line for line in page.splitlines() if line.startswith("| 64 |"))
    assert "| 5.00 | 4.00 | +" in better and better.endswith("* |")
    one = next(line for line in page.splitlines() if line.startswith("| 1.01 (one token) |"))
    assert "| 20.00 | 1.00 |" in one
    assert "| 32 | 12.5 | 25.0 | 4,321 |" in page
    pairs = [line for line in page.splitlines() if line.startswith(f"| `{study.fixed(64)}` |")]
    assert [line.count("| 5.0 |") for line in pairs] == [2, 2]  # without clean prefixes in training; from a second seed
    assert (tmp_path / "study-band.svg").read_text().count("<polygon") == 2


def test_a_page_needs_every_setting(study: ModuleType, tmp_path: Path) -> None:
    made_up(study, data := tmp_path / "data.jsonl")
    data.write_text("".join(data.read_text().splitlines(keepends=True)[1:]))
    done = CliRunner().invoke(study.main, ["page", "--data", str(data), "--output", str(tmp_path / "page.md")])
    assert done.exit_code == 1 and "lacks 1 settings" in done.output and not (tmp_path / "page.md").exists()


def test_a_model_that_is_not_shipped_needs_its_folder(study: ModuleType) -> None:
    done = CliRunner().invoke(study.main, ["measure", "--folder", "clean"])
    assert done.exit_code == 2 and "--folder takes clean=FOLDER or independent=FOLDER or second=FOLDER" in done.output


def test_a_torn_line_is_measured_again_and_other_weights_are_refused(study: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    line = json.dumps({"weights": "abc", "limit": 5, "name": "x", "model": "tiny"})
    data.write_text(f"{line}\n{line[:20]}")
    keys = {"tiny": {"weights": "abc", "limit": 5}}
    assert [one["name"] for one in study._lines(data, keys)] == ["x"]
    study._append(data, {**keys["tiny"], "name": "y", "model": "tiny"})
    assert [one["name"] for one in study._lines(data, keys)] == ["x", "y"]
    with pytest.raises(Exception, match="other weights or another limit: move it away"):
        study._lines(data, {"tiny": {"weights": "abd", "limit": 5}})


def test_no_token_is_late_where_every_block_is_open(study: ModuleType) -> None:
    model = load_model("tiny")
    whole, small = (study.watched(model, block, 10) for block in (64, 4))
    assert whole["late"] == 0 < small["late"] < 1
    assert 0 < whole["premature"] < 1 and 0 < small["premature"] < 1
    assert whole["tokens"] > 100
    start = whole["band"]["0"]
    assert len(start) == 32 and all(0 <= low <= middle <= high <= 1 for low, middle, high in start)


def test_a_configuration_is_measured_once(study: ModuleType, tmp_path: Path) -> None:
    data, spec = tmp_path / "data.jsonl", "threshold:block=32,threshold=0.9"
    options = ["measure", "--limit", "5", "--data", str(data), "--only", spec]
    for _ in range(2):
        assert CliRunner().invoke(study.main, options, catch_exceptions=False).exit_code == 0
    (line,) = [json.loads(text) for text in data.read_text().splitlines()]
    assert line["name"] == spec and all(len(digits) == 1 for digits in line["strict"].values())
