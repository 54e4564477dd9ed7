"""`calibrate`: what it tries, chooses, writes and warns of; and that its guarantee holds on the model in the box."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from dllm_bench import Calibration, Target, calibrate, compare
from dllm_bench.calibration.found import Score, Setting
from dllm_bench.calibration.observing import observe
from dllm_bench.calibration.reliability import Reliability
from dllm_bench.cli import cli
from dllm_bench.inputs import batches_of, with_caches
from dllm_bench.measure import Run
from dllm_bench.questions import collect
from dllm_bench.toml import as_toml, left_out
from dllm_sdk import ConfigError, Sampler, load_scheduler, load_task
from dllm_sdk.errors import CalibrationWarning
from dllm_strategies import EarlyEOS, Threshold
from tests.bench.toys import EOS, HERE, LETTERS, CountTask, counting, task
from tests.browser import Browser

TOYS = str(HERE)
GOOD = ["calibrate", "--model", f"{TOYS}:load", "--task", f"{TOYS}:task", "--limit", "8", "--scheduler", "threshold"]
GRID = ["--grid", "threshold=0.5,1.5"]  # all at once, or one token per step


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(counting(6), "threshold", [task], grid={"threshold": [0.5, 1.5]}, limit=8)


def test_it_takes_the_cheapest_setting_within_the_bound(found: Calibration) -> None:
    by_role = {one.role: one for one in found.settings}
    assert found.chosen in ("threshold=0.5", "threshold=0.9")  # equally good: all positions are equally sure
    assert (
        by_role["reference"].calibration.nfe
        > by_role["given, chosen" if "given, chosen" in by_role else "chosen"].calibration.nfe
    )
    reference = by_role["reference"]
    assert found.quality == "accuracy" and reference.validation is not None
    assert reference.calibration.accuracy + reference.validation.accuracy == 5 / 4  # of 8 prompts 6, 7 and 8 are wrong
    slow = next(one for one in found.settings if one.name == "threshold=1.5")
    assert not slow.front
    assert slow.validation is None  # nobody needs it there
    assert all(one.calibration.loss == 0 for one in found.settings)


def test_the_prompts_of_the_halves_are_different_and_of_the_validation_split() -> None:
    @dataclass(frozen=True)
    class Asked(CountTask):
        splits: list[str] = field(default_factory=list)
        checked: list[str] = field(default_factory=list)

        def prompts(self, split: str, n: int, seed: int) -> list[str]:
            self.splits.append(split)
            return super().prompts(split, n, seed)

        def check(self, prompt: str, text: str) -> Any:
            self.checked.append(prompt)
            return super().check(prompt, text)

    asked = Asked()
    found = calibrate(counting(), "threshold", [asked], grid={"threshold": [0.5]}, limit=9)
    assert set(asked.splits) == {"validation"}
    settings = len(found.settings)
    first, second = asked.checked[: 4 * settings], asked.checked[4 * settings :]
    assert not set(first) & set(second)
    assert set(first) | set(second) == set("123456789")


def test_a_reference_that_lets_nothing_wait() -> None:
    """It commits everything at once, so no draft says how far confidence can be trusted."""
    found = calibrate(counting(), "threshold", [task], grid={}, reference="threshold:threshold=0.0", limit=4)
    assert found.chosen is not None
    assert not found.reliability.curve
    assert "no draft of the reference had to wait" in str(found).replace("\n ", "")
    assert "no draft of the reference had to wait" in found.to_html()


def test_accuracy_is_lost_against_the_reference() -> None:
    """The reference writes the right letters; a scheduler that ends rows early gets the strict answers wrong."""
    steps, reference = torch.tensor([1, 4]), "threshold:threshold=2"
    found = calibrate(counting(), "fixed-block", [task], grid={"steps": steps}, limit=8, reference=reference)
    assert found.settings[0].calibration.accuracy == 1
    assert [one.calibration.loss for one in found.settings] == pytest.approx(
        [1 - one.calibration.accuracy for one in found.settings]
    )


def test_without_answers_agreement_with_the_reference_counts(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(1, 9)), encoding="utf-8")
    found = calibrate(counting(), "threshold", [path], grid={"threshold": [0.5]}, gen_length=12)
    assert found.quality == "agreement"
    assert found.settings[0].calibration.accuracy == 1
    assert "agreement" in str(found)


@pytest.mark.parametrize("unknown", range(1, 9))
def test_one_prompt_without_an_answer_is_enough_for_agreement_in_both_halves(tmp_path: Path, unknown: int) -> None:
    path = tmp_path / "mine.jsonl"
    answers = ["" if i == unknown else ', "answer": "wrong"' for i in range(1, 9)]
    path.write_text("".join(f'{{"prompt": "{i}"{it}}}\n' for i, it in enumerate(answers, 1)), encoding="utf-8")
    found = calibrate(counting(), "threshold", [path], grid={"threshold": [0.5]}, gen_length=12)
    assert found.quality == "agreement"
    reference = found.settings[0]
    assert reference.validation is not None
    assert reference.calibration.accuracy == reference.validation.accuracy == 1


def test_the_numbers_are_those_of_compare_with_the_same_cache_and_temperature() -> None:
    """A file has no splits, so both see the same prompts, each in one batch."""
    prompts = load_task("story").prompts("validation", 6, 0)
    Path("mine.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    asked: dict[str, Any] = {"tasks": ["mine.jsonl"], "gen_length": 32, "limit": 6, "temperature": np.float64(0.5)}
    any_loss = Target(max_accuracy_loss=100)
    found = calibrate(scheduler="threshold", grid={"threshold": [0.9]}, target=any_loss, cache="dual", **asked)
    halves = [half for one in found.settings for half in (one.calibration, one.validation) if half]
    passes = [sum(half.n * half.nfe for half in halves[i : i + 2]) / 6 for i in (0, 2)]
    rows = compare(schedulers=["fixed-block", "threshold"], caches=["dual"], **asked).rows
    assert passes == pytest.approx([row.nfe for row in rows])
    assert passes != pytest.approx([row.nfe for row in compare(schedulers=["fixed-block", "threshold"], **asked).rows])
    assert found.environment["cache"] == "dual" and "cache dual, temperature 0.5" in str(found)
    assert found.file is not None and 'cache = "dual"\ntemperature = 0.5\n' in found.file


def test_the_same_seed_finds_the_same(found: Calibration) -> None:
    again = calibrate(counting(6), "threshold", [task], grid={"threshold": [0.5, 1.5]}, limit=8)
    assert again.settings == found.settings
    assert again.file == found.file


def test_drafts_of_a_model_that_never_changes_its_mind_stay(found: Calibration) -> None:
    (full,) = [one for one in found.reliability.before if one.count]
    assert full.stays == 1
    assert full.confidence == pytest.approx(1, abs=1e-6)


def test_falls_of_confidence_behind_the_end_do_not_count() -> None:
    """Each answer is letters and an EOS: what follows that one, more of them, says nothing of where blocks end."""
    model = counting()
    (batch,) = batches_of(model, collect([task], limit=4, seed=0, gen_length=12), 4)
    contenders = with_caches([("fixed-block", load_scheduler("fixed-block"))], ["none"])
    count, _, _ = observe(Run(model, contenders, (), Sampler(), 0, "eager"), batch).drops
    assert count[LETTERS.index("a")] > 0 and count[EOS] == 0


@pytest.mark.parametrize("format", ["table", "md", "json", "jsonl", "csv"])
def test_every_format_names_the_choice(found: Calibration, format: Any) -> None:
    text = found.to(format)
    assert "chosen" in text
    if format == "json":
        assert len(json.loads(text)["settings"]) == len(found.settings)
    if format == "jsonl":
        assert [json.loads(line)["name"] for line in text.splitlines()] == [one.name for one in found.settings]


def test_the_table_says_what_was_found(found: Calibration) -> None:
    def setting(threshold: float, role: str, front: bool, one: Any, other: Any) -> Setting:
        scores = [Score(4, *half) for half in (one, other)]
        return Setting(f"threshold={threshold}", {"threshold": threshold}, role, front, scores[0], scores[1])

    made = replace(
        found,
        settings=[
            setting(2.0, "reference", False, (1.0, 0.0, 12.0), (0.75, 0.0, 11.0)),
            setting(1.5, "", True, (1.0, 0.0, 6.0), (0.875, -0.125, 5.5)),
            setting(0.9, "given", False, (0.75, 0.25, 4.0), (0.5, 0.25, 3.5)),
            setting(0.8, "", False, (0.5, 0.5, 3.0), (0.5, 0.5, 3.0)),
            setting(0.5, "chosen", True, (0.875, 0.125, 2.0), (0.625, 0.125, 2.25)),
        ],
        reliability=Reliability([], [], 0.123, 0.045, [(0.2, 0.25), (0.8, 0.5), (0.9, 0.75)]),
    )
    text = made.to("md")
    assert [line for line in text.splitlines() if line.startswith("|")][2:] == [
        "| reference |  | 100.0 | 0.0 | 12.00 | 75.0 | 0.0 | 11.00 |",
        "| front | 1.5 | 100.0 | 0.0 | 6.00 | 87.5 | -12.5 | 5.50 |",
        "| given | 0.9 | 75.0 | 25.0 | 4.00 | 50.0 | 25.0 | 3.50 |",
        "| chosen, front | 0.5 | 87.5 | 12.5 | 2.00 | 62.5 | 12.5 | 2.25 |",
    ]
    assert "does not lie on the front: threshold=0.5 is at least as good with 2.00 passes instead of 4.00." in text
    assert "confidence: 0.5: 25.0 %, 0.7: 25.0 %, 0.9: 75.0 %, " in text
    assert "expected calibration error 12.3 points, after isotonic recalibration 4.5." in text
    assert "before: error 12.3 points; after: error 4.5 points" in made.to_html()


def test_any_other_format_is_refused(found: Calibration) -> None:
    wrong: Any = "html"
    with pytest.raises(ConfigError, match="format must be one of table, json, jsonl, csv, md, got 'html'"):
        found.to(wrong)


def test_the_page_has_the_front_and_the_diagram(found: Calibration) -> None:
    page = found.to_html()
    assert "Reliability of confidence" in page
    assert page.count("<svg") > 4
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.extra
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_the_page_works_in_a_browser(found: Calibration, browser: Browser, width: int, dark: bool) -> None:
    browser.open(found.to_html(), width=width, dark=dark)
    assert browser.requests() == [] and browser.problems() == [] and browser.overflow() == 0
    plane, rows = (
        [
            (one.get_attribute("data-series"), browser.run("return arguments[0].querySelector('.mark').outerHTML", one))
            for one in browser.find(f"{element}[data-series]")
        ]
        for element in ("svg.tall > g:has(.at)", "tr")
    )
    assert plane == rows and len(rows) == len(found.settings) - 1
    browser.point(browser.find("tr[data-series]")[1])
    assert {one.get_attribute("data-series") for one in browser.find("[data-series].on")} == {"1"}
    next(one for one in browser.find("thead button") if one.text.startswith("NFE")).click()
    assert browser.find("tbody tr")[0].text.startswith("reference")
    assert browser.barriers() == []


def test_the_command_writes_a_file_that_other_commands_take() -> None:
    result = run(*GOOD, *GRID, "--output", "fast.toml", "--page", "fast.html")
    assert result.exit_code == 0, result.output
    assert "--scheduler @fast.toml" in result.stderr
    assert "<svg" in Path("fast.html").read_text(encoding="utf-8")
    here = ["--model", f"{TOYS}:load", "--limit", "4", "--scheduler", "@fast.toml"]
    same = run("compare", *here, "--task", f"{TOYS}:task")
    assert same.exit_code == 0, same.output
    assert "Warning" not in same.stderr
    other = run("compare", *here, "--task", f"{TOYS}:other_task", "--scheduler", "threshold")
    assert other.exit_code == 0, other.output
    (line,) = [line for line in other.stderr.splitlines() if "Warning" in line]
    assert line == "Warning: @fast.toml was calibrated for the task count, not other: its thresholds may not fit"


@pytest.mark.parametrize(
    ("tasks", "says"),
    [('tasks = {sort = "0"}', "the task sort, not count"), ("", "tasks that it does not name")],
)
def test_a_file_for_another_model_and_other_tasks(tasks: str, says: str) -> None:
    Path("old.toml").write_text(f'scheduler = "threshold"\n[calibration]\nmodel = "other"\n{tasks}\n')
    line = run("compare", *GOOD[1:5], "--scheduler", "@old.toml", "--limit", "1").stderr.splitlines()[0]
    assert line.endswith(f"{TOYS}:load, and for {says}: its thresholds may not fit")


def test_a_file_is_written_as_a_person_would_write_it() -> None:
    assert run(*GOOD, *GRID, "--max-accuracy-loss", "1", "--output", "fast.toml").exit_code == 0
    text = Path("fast.toml").read_text(encoding="utf-8")
    assert "at most 1 point of accuracy lost" in text
    assert "{n = 4, accuracy = " in text and 'tasks = {count = "' in text
    assert as_toml({"a b.c": 1}) == '{"a b.c" = 1}'


def test_a_file_holds_what_toml_can_hold() -> None:
    code = "from dataclasses import dataclass, field\nimport torch\nfrom dllm_strategies import Threshold\n"
    head = "field(default_factory=lambda: torch.nn.Linear(1, 1), compare=False)"
    fields = f"    head: torch.nn.Module = {head}\n    cut: float | None = None\n"
    Path("mine.py").write_text(f"{code}@dataclass(frozen=True)\nclass Mine(Threshold):\n{fields}", encoding="utf-8")
    own = ["mine.py:Mine" if one == "threshold" else one for one in GOOD]
    result = run(*own, *GRID, "--output", "fast.toml")
    assert result.exit_code == 0, result.output
    text = Path("fast.toml").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if "TOML" in line] == ["# Not here, since TOML cannot hold it: head."]
    assert type(load_scheduler("@fast.toml").head).__name__ == "Linear"


def test_what_toml_cannot_hold_is_found_within_parts() -> None:
    @dataclass(frozen=True)
    class Headed(Threshold):
        head: Any = field(default_factory=object)
        cap: int | None = None

    assert left_out(EarlyEOS(Headed())) == ["inner.head"]
    assert as_toml(None) == "None" and as_toml(np.int64(1)) != as_toml(np.int64(2))  # names of settings stay apart


@pytest.mark.parametrize("option", ["--page", "--output"])
def test_what_is_written_is_written_whole(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def on_a_full_disk(path: Path, content: bytes) -> int:
        write(path, content[:9])
        raise OSError(28, "No space left on device")

    Path("file").write_text("before")
    monkeypatch.setattr(Path, "write_bytes", on_a_full_disk)
    result = run(*GOOD, *GRID, option, "file")
    assert result.exit_code == 1 and "No space left on device: 'file'" in result.stderr
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("file", "before")]


def test_another_model_warns() -> None:
    assert run(*GOOD, *GRID, "--output", "fast.toml").exit_code == 0
    with pytest.warns(CalibrationWarning, match=r"@fast.toml was calibrated for the model .*, not CallableModel"):
        compare(counting(), ["@fast.toml"], [task], limit=2)
    Path("old.toml").write_text('scheduler = "threshold"\n', encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(counting(), ["@old.toml", "threshold"], [task], limit=2)


def test_a_target_that_nothing_reaches_writes_nothing() -> None:
    result = run(
        *GOOD, *GRID, "--max-nfe", "1", "--scheduler", "fixed-block", "--grid", "steps=4", "--output", "x.toml"
    )
    assert result.exit_code == 2  # fixed-block has no threshold
    result = run(*GOOD[:-2], "--scheduler", "fixed-block", "--grid", "steps=4", "--max-nfe", "1", "--output", "x.toml")
    assert result.exit_code == 1, result.output
    assert "No setting reaches the target" in result.stdout
    assert "x.toml was not written" in result.stderr
    assert not Path("x.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scheduler", "adablok"], ["'adablok'", "did you mean 'adablock'"]),
        (["--scheduler", "fixed-block"], ["FixedBlock", "no threshold", "--grid", "steps"]),
        (["--scheduler", "adablock+threshold"], ["one scheduler", "adablock+threshold"]),
        (["--reference", "nothing"], ["'nothing'"]),
        (["--grid", "threshold"], ["'threshold'", "field=value,value"]),
        (["--grid", "threshold=0.5", "--grid", "threshold=0.6"], ["threshold is given twice"]),
        (["--grid", "threshold="], ["threshold must be a list of at least one value"]),
        (["--grid", "threshold=x"], ["'x'", "TOML"]),
        (["--grid", "treshold=0.5"], ["'treshold'", "threshold"]),
        (["--grid", "threshold=-1"], ["threshold=-1", ">= 0"]),
        (["--max-accuracy-loss", "-1"], ["max_accuracy_loss", "from 0 to 100", "-1"]),
        (["--max-accuracy-loss", "nan"], ["max_accuracy_loss", "nan"]),
        (["--max-nfe", "0"], ["max_nfe", ">= 1"]),
        (["--max-nfe", "5", "--max-accuracy-loss", "1"], ["max_nfe", "without max_accuracy_loss"]),
        (["--max-nfe", "5", "--guarantee", "0.9"], ["without guarantee"]),
        (["--guarantee", "90"], ["guarantee", "between 0 and 1", "90"]),
        (["--guarantee", "0.9", "--limit", "3"], ["3 prompts", "needs 4", "raise limit"]),
        (["--limit", "1"], ["1 prompt here", "needs 2"]),
        (["--limit", "0"], ["limit", ">= 1"]),
        (["--delimiters"], ["Threshold", "no field of token ids"]),
        (["--seed", "-1"], ["seed", ">= 0"]),
        (["--gen-length", "0"], ["gen_length", ">= 1"]),
        (["--batch-size", "0"], ["batch_size", ">= 1"]),
        (["--task", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--model", f"{TOYS}:load_no_tokenizer"], ["no tokenizer"]),
        (["--output", "/proc/nothing/x.toml"], ["cannot be written"]),
        (["--page", "."], ["Error: . is a folder: give a file"]),
    ],
    ids=lambda value: " ".join(value).replace(TOYS, "toys.py") if value and str(value[0]).startswith("--") else "",
)  # fmt: skip
def test_bad_input_is_a_sentence(arguments: list[str], says: list[str]) -> None:
    result = run(*GOOD, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in says:
        assert part in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('scheduler = "threshold"\ncalibration = 5', "tables"),
        ("scheduler = 5", 'scheduler = "NAME"'),
        ("scheduler = ", "not valid TOML"),
        ('scheduler = "threshold"\n[fields]\nblok = 3', "'blok'"),
    ],
)
def test_a_damaged_scheduler_file_is_a_sentence(content: str, says: str) -> None:
    Path("bad.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_scheduler("@bad.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scheduler("@.")


@pytest.mark.slow
def test_the_guarantee_holds_over_200_splits_on_the_model_in_the_box() -> None:
    """Decoded once; 160 prompts, drawn again and again out of 240, calibrate, against the loss on all of them."""
    specs = [f"threshold:threshold={value}" for value in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)]
    found = compare("tiny", ["threshold:threshold=0.99", *specs], ["expr"], limit=240, batch_size=60)
    rows = [[one for one in found.outcomes if one.scheduler == row.scheduler] for row in found.rows]
    right, cost = (np.array([[float(getattr(one, name)) for one in row] for row in rows]) for name in ("strict", "nfe"))
    loss, cost, rng = right[:1] - right[1:], cost[1:], np.random.default_rng(0)
    draws = [rng.integers(240, size=160) for _ in range(200)]

    def chosen(target: Target) -> list[int]:
        return [i for draw in draws if (i := target.choose(loss[:, draw], cost[:, draw])) is not None]

    sure, plain = chosen(Target(max_accuracy_loss=10, guarantee=0.9)), chosen(Target(max_accuracy_loss=10))
    assert sum(loss[i].mean() > 0.1 for i in sure) <= 20
    assert sum(loss[i].mean() > 0.1 for i in plain) > 40, "no setting tempts: nothing is tested"
    assert len(sure) > 100, "a guarantee that never chooses is worth nothing"
