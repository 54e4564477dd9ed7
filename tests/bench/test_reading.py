"""results.jsonl read back: the same comparison, whatever happened to the run, or one sentence why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dllm_bench import Comparison, compare, read_results
from dllm_sdk import ConfigError
from tests.bench.toys import CountTask, Pairs, counting, task

THREE = ["fixed-block", "confidence-adaptive", Pairs()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "out"


@pytest.fixture(scope="module")
def made(folder: Path) -> Comparison:
    tasks = [task, CountTask("other", 8)]
    return compare(counting(6), THREE, tasks, limit=12, batch_size=2, output=folder)


@pytest.fixture
def lines(made: Comparison, folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text().splitlines(keepends=True)


def test_what_is_read_is_what_was_made(made: Comparison, folder: Path) -> None:
    for path in (folder, str(folder / "results.jsonl")):
        read = read_results(path)
        assert read.to_json() == made.to_json() and str(read) == str(made)
        assert read.outcomes == made.outcomes and read.prompts == made.prompts
    assert made.prompts["other"] == {i: str(i + 1) for i in range(6)}


def test_a_torn_last_line_costs_that_line_only(lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "torn.jsonl"
    file.write_text("".join(lines)[:-5])  # in the last line, which holds no result
    assert read_results(file).rows[0].n == 12
    file.write_text("".join(lines[:-1])[:-5])  # in the last result: its prompt is not complete any more
    read = read_results(file)
    assert [row.n for row in read.rows] == [11, 11, 11]
    assert read.notes == [
        f"{file}: the run did not come to its end; it is summed up over 11 prompts that all schedulers decoded."
    ]
    assert read.notes[0].split("; ")[1] in " ".join(str(read).split())


def changed(lines: list[str], at: int, **changes: Any) -> list[str]:
    entry = {**json.loads(lines[at]), **changes}
    kept = {key: value for key, value in entry.items() if value is not ...}
    return [*lines[:at], json.dumps(kept) + "\n", *lines[at + 1 :]]


def test_files_that_cannot_be_read_say_why(lines: list[str], tmp_path: Path) -> None:
    spoilt = {
        "is empty": [],
        "torn in its first line": ['{"kind": "ru'],
        "line 1 is not the first line of a file that dllm-bench compare": ['{"prompt": "1"}\n'],
        "line 2 is not JSON": [lines[0], lines[1][:-9] + "\n", *lines[2:]],
        "line 2 must be an object": [lines[0], "[1]\n", *lines[2:]],
        "line 2 is damaged: nfe is missing": changed(lines, 1, nfe=...),
        'line 2 is damaged: nfe cannot be "4"': changed(lines, 1, nfe="4"),
        "line 2 is damaged: blocks cannot be \\[true": changed(lines, 1, blocks=[True]),
        "line 2 is damaged: nfe cannot be 0": changed(lines, 1, nfe=0),
        "line 2 is damaged: seconds cannot be NaN": changed(lines, 1, seconds=float("nan")),
        "line 2 is damaged: batch_lanes cannot be -4": changed(lines, 1, batch_lanes=-4),
        "line 1 is damaged: schedulers lacks all rows": changed(lines, 0, schedulers=[]),
        "line 1 is damaged: schedulers lacks fixed-block": changed(
            lines, 0, schedulers=json.loads(lines[0])["schedulers"][1:]
        ),
        "line 1 is damaged: schedulers must be a list": changed(lines, 0, schedulers=...),
        "line 1 is damaged: environment must be an object": changed(lines, 0, environment="cpu"),
        "schema dllm-bench/1 .version 0.1.0 wrote it., but this version reads dllm-bench/": changed(
            lines, 0, schema="dllm-bench/1"
        ),
        "definitions 0 .* but this version reads 1": changed(lines, 0, definitions=0),
        "no prompt that all of its schedulers have decoded": lines[:3],
        f"line {len(lines) + 1} begins another run": [*lines, *lines],
    }
    file = tmp_path / "spoilt.jsonl"
    for says, content in spoilt.items():
        file.write_text("".join(content))
        with pytest.raises(ConfigError, match=says):
            read_results(file)
    file.write_bytes(lines[0].encode() + b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="line 2 is not JSON"):
        read_results(file)
    with pytest.raises(ConfigError, match="no results file"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "folder.jsonl" / "results.jsonl").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_results(tmp_path / "folder.jsonl")
