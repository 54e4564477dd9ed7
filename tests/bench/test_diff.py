"""`diff`: an equal pair passes, a planted regression fails, and what cannot be compared is refused with a sentence."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dllm_bench import Comparison, compare, diff, read_results
from dllm_bench.cli import cli
from dllm_bench.metrics import sum_up
from dllm_bench.results import Entrant
from dllm_sdk import ConfigError, load_model
from tests.bench.test_compare import outcome
from tests.bench.toys import CountTask, Pairs, counting, task

TWO = ["fixed-block", Pairs()]
BLOCKS_OF_4 = "fixed-block:block=4,steps=2"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["diff", *arguments])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the same model: twice the same, one on fewer prompts, one with wrong answers from the digit 3 on."""
    root = tmp_path_factory.mktemp("runs")
    compare(counting(6), TWO, [task], limit=9, output=root / "a")
    compare(
        counting(6), [Pairs(), "fixed-block:block=32", BLOCKS_OF_4], [task], limit=9, batch_size=2, output=root / "b"
    )
    compare(counting(6), TWO, [task], limit=4, output=root / "short")
    compare(counting(3), TWO, [task], limit=9, output=root / "worse")
    compare(counting(6), ["fixed-block"], [task], limit=9, output=root / "fewer")
    compare(counting(6), TWO, [CountTask("other")], limit=9, output=root / "task")
    compare(counting(6), TWO, [task], limit=9, gen_length=11, output=root / "length")
    compare(counting(6), ["fixed-block:block=8", Pairs()], [task], limit=9, output=root / "changed")
    return root


def test_an_equal_pair_passes(folders: Path) -> None:
    result = run(str(folders / "a"), str(folders / "b" / "results.jsonl"))
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("scheduler"))
    assert " ".join(lines[head + 2].split()) == (  # matched by configuration, named as in B
        "fixed-block:block=32 9 55.6 55.6 +0.0 [+0.0, +0.0] 6.0 6.0 +0.0 [+0.0, +0.0]"
    )
    assert lines[head + 3].startswith("Pairs(block=32) ") and max(map(len, lines)) <= 100
    assert f"Only in B: {BLOCKS_OF_4}." in lines and "batch_size: 32 in A, 2 in B." in lines
    assert "No row is worse than allowed." in lines


def test_a_planted_regression_fails(folders: Path) -> None:
    result = run(str(folders / "a"), str(folders / "worse"))
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: worse than allowed: fixed-block: accuracy fell by 33.3 points, 0 allowed; "
        "Pairs(block=32): accuracy fell by 33.3 points, 0 allowed\n"
    )
    assert "fixed-block in B against A: -33.3 points [-66.7, +0.0], within chance on 9 prompts" in result.stdout
    assert run(str(folders / "a"), str(folders / "worse"), "--max-accuracy-loss", "33.4").exit_code == 0
    assert run(str(folders / "worse"), str(folders / "a")).exit_code == 0  # better is not worse


def test_bounds_are_met_exactly() -> None:
    def made(right: int, nfe: int) -> Comparison:
        outcomes = [outcome(i, "s", i < right, nfe=nfe) for i in range(100)]
        texts = {"t": {i: str(i) for i in range(100)}}
        return sum_up([Entrant("s", "S", {}, "none", "s")], outcomes, {}, (), texts)

    assert diff(made(60, 10), made(57, 11), max_accuracy_loss=3, max_nfe_increase=10).worse == []
    assert diff(made(60, 10), made(56, 11), max_accuracy_loss=3, max_nfe_increase=10).worse == [
        "s: accuracy fell by 4.0 points, 3 allowed"
    ]
    assert diff(made(60, 10), made(60, 11), max_nfe_increase=9.9).worse == [
        "s: forward passes rose by 10.0 %, 9.9 % allowed"
    ]
    assert diff(made(60, 10), made(10, 90), max_accuracy_loss=float("inf"), max_nfe_increase=float("inf")).worse == []


def test_what_went_beyond_its_bound_is_shown_to_be_beyond_it() -> None:
    """One pass more in 40,000 is not 0.0 %, of which 0 % are allowed."""

    def made(right: int, more: int) -> Comparison:
        outcomes = [outcome(i, "s", i < right, nfe=10 + (i < more)) for i in range(4000)]
        texts = {"t": {i: str(i) for i in range(4000)}}
        return sum_up([Entrant("s", "S", {}, "none", "s")], outcomes, {}, (), texts)

    assert diff(made(3600, 0), made(3559, 1), max_accuracy_loss=1).worse == [
        "s: accuracy fell by 1.03 points, 1 allowed",
        "s: forward passes rose by 0.002 %, 0 % allowed",
    ]
    assert diff(made(4000, 0), made(2667, 0), max_accuracy_loss=33.3249999).worse == [
        "s: accuracy fell by 33.325 points, 33.3249999 allowed"
    ]


def test_answers_that_one_file_does_not_know_are_told(tmp_path: Path) -> None:
    """Else a bound on accuracy is kept by a file of prompts that has lost its answers."""
    own = tmp_path / "own.jsonl"
    for name, answer in (("a", ', "answer": "aa"'), ("b", "")):
        own.write_text(f'{{"prompt": "1", "answer": "a"}}\n{{"prompt": "2"{answer}}}\n')
        compare(counting(), TWO, [own], gen_length=4, output=tmp_path / name)
    assert diff(tmp_path / "a", tmp_path / "a").notes == []
    assert diff(tmp_path / "a", tmp_path / "b").notes == [
        "Accuracies are compared where both files know the answer: A knows 2, B 1, both 1."
    ]


def test_only_the_prompts_of_both_count(folders: Path) -> None:
    found = diff(folders / "a", folders / "short")
    assert [change.difference.n for change in found.changes] == [4, 4]
    assert found.changes[0].a.accuracy == found.changes[0].b.accuracy == 1.0
    assert found.notes == ["Compared on 4 prompts that both files have: A has 9, B 4."] and not found.worse
    for name in ("tokens_per_second", "padding_efficiency"):  # of whole batches: no prompt can be taken out of one
        assert getattr(found.changes[0].a, name) == getattr(read_results(folders / "a").rows[0], name)


def test_another_backend_and_seed_are_listed(tmp_path: Path) -> None:
    """With a temperature the same prompts of a file are answered otherwise under another seed."""
    (tmp_path / "own.jsonl").write_text('{"prompt": "2"}\n')
    own = [tmp_path / "own.jsonl"]
    compare(counting(), ["threshold"], own, limit=1, temperature=1.0, gen_length=4, output=tmp_path / "a")
    compare(counting(), ["threshold"], own, limit=1, temperature=1.0, gen_length=4, output=tmp_path / "b", seed=1)
    before, after = read_results(tmp_path / "a"), other(read_results(tmp_path / "b"), backend="compile")
    assert diff(before, after).settings == {"backend": ("eager", "compile"), "seed": (0, 1)}


def test_another_dtype_of_the_same_model_is_compared_and_listed(tmp_path: Path) -> None:
    for dtype in ("float32", "float64"):
        compare("tiny", ["threshold"], ["sort"], limit=2, dtype=dtype, output=tmp_path / dtype)
    found = diff(tmp_path / "float32", tmp_path / "float64")
    assert found.settings == {"dtype": ("float32", "float64")} and not found.worse
    assert found.notes == ["Weights of another dtype have another digest: here the model goes by its name."]
    with pytest.raises(ConfigError, match='model differs: "tiny" in A, "another" in B'):
        diff(tmp_path / "float32", other(read_results(tmp_path / "float64"), model="another"))
    compare(load_model("tiny"), ["threshold"], ["sort"], limit=2, output=tmp_path / "object")
    with pytest.raises(ConfigError, match="model_sha256 differs"):  # a class says little of a model
        diff(tmp_path / "object", tmp_path / "float64")


def test_formats(folders: Path) -> None:
    pair = [str(folders / "a"), str(folders / "worse"), "--max-accuracy-loss", "50", "--format"]
    data = json.loads(run(*pair, "json").stdout)
    assert list(data) == ["changes", "settings", "notes", "title", "worse"]
    assert data["changes"][0]["difference"]["accuracy"] == pytest.approx(-1 / 3)
    (line, _) = map(json.loads, run(*pair, "jsonl").stdout.splitlines())
    (row, _) = csv.DictReader(io.StringIO(run(*pair, "csv").stdout))
    assert line["accuracy_a"] == pytest.approx(5 / 9) and line["nfe_difference"] == 0.0 and line["worse"] == []
    assert list(row) == list(line) and json.loads(row["fields"]) == line["fields"]
    assert float(row["accuracy_b"]) == pytest.approx(2 / 9)
    shown = run(*pair, "md").stdout.splitlines()
    assert shown[2].startswith("| scheduler | n | accuracy A | B | B - A [95 %] |") and "`Pairs(block=32)`" in shown[5]


def other(comparison: Comparison, **environment: Any) -> Comparison:
    return replace(comparison, environment={**comparison.environment, **environment})


def test_what_cannot_be_compared_is_refused(folders: Path) -> None:
    for name, says in {
        "fewer": "B has no row with the class, fields and cache of Pairs(block=32) in A, only fixed-block",
        "changed": "of fixed-block in A, only fixed-block:block=8 (block 32 in A, 8 in B), Pairs(block=32): run B with",
        "task": "they ran other tasks: count in A, other in B",
        "length": 'gen_length differs: {"count": 12} in A, {"count": 11} in B',
        "nowhere": "there is no results file",
    }.items():
        result = run(str(folders / "a"), str(folders / name))
        assert result.exit_code == 2 and result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ") and says in line
    for bound in ("-1", "nan", "many"):
        result = run(str(folders / "a"), str(folders / "a"), "--max-nfe-increase", bound)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and bound in result.stderr
    mine = compare(counting(6), TWO, [task], limit=3)
    refused = {
        'model_sha256 differs: null in A, "ab': other(mine, model_sha256="ab" * 32),
        'model differs: "CallableModel" in A, "tiny" in B': other(mine, model="tiny"),
        "temperature differs: 0.0 in A, 1.0 in B": other(mine, temperature=1.0),
        "share no prompt: run both with the same --seed": replace(mine, prompts={"count": {0: "9", 1: "8", 2: "7"}}),
    }
    for says, wrong in refused.items():
        with pytest.raises(ConfigError, match=says):
            diff(mine, wrong)
