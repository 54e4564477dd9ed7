"""A sweep on models whose numbers are known: what it measures, keeps, goes on with, refuses and says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import dllm_bench.journal
from dllm_bench import Sweep, compare, read_sweep, sweep
from dllm_bench.cli import cli
from dllm_bench.grids import axes
from dllm_bench.sweeps.engines import answer_on_a_node
from dllm_bench.sweeps.grid import expand
from dllm_bench.sweeps.journal import SweepJournal
from dllm_bench.sweeps.run import Standing
from dllm_bench.sweeps.work import Worker
from dllm_sdk import ConfigError, load_scheduler
from dllm_strategies import AdaBlock
from tests.bench.test_kept import ReadOnlyLater
from tests.bench.toys import HERE

TOYS = str(HERE)
SETTINGS: dict[str, Any] = {"model": f"{TOYS}:load", "tasks": [f"{TOYS}:task"], "limit": 9, "batch_size": 4}
COMMAND = ["sweep", "--model", f"{TOYS}:load", "--task", f"{TOYS}:task", "--limit", "2"]
FAILS_UNTIL_MENDED = """
from pathlib import Path
from dataclasses import dataclass
from tests.bench.toys import Pairs

@dataclass(frozen=True)
class Mine(Pairs):
    def select(self, view, state):
        if self.block == 8 and not Path("mended").exists():
            raise ValueError("not yet")
        return super().select(view, state)
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def lines(kind: str, file: str = "out/sweep.jsonl") -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_numbers_are_those_of_compare() -> None:
    """All but the timing, with agreement and differences; and the journal gives them once more."""
    specs = ["fixed-block:block=4,steps=2", "fixed-block:block=4,steps=4"]
    found = sweep(["fixed-block:block=4"], grid={"steps": list(np.array([2, 4]))}, output="out", **SETTINGS)
    expected = compare(schedulers=specs, **SETTINGS)
    timing = {"tokens_per_second", "latency_p50_s", "latency_p95_s", "latency_p99_s"}
    for one, other in zip(found.to_dict()["rows"], expected.to_dict()["rows"], strict=True):
        assert {name: one[name] for name in one.keys() - timing} == {name: other[name] for name in one.keys() - timing}
    assert found.differences == expected.differences and found.aup == expected.aup
    assert found.prompts == expected.prompts
    assert read_sweep("out") == read_sweep("out/sweep.jsonl") == found


def test_with_several_caches_a_row_agrees_with_its_own_scheduler() -> None:
    specs = ["threshold:threshold=0.5", "threshold"]
    found = sweep(specs, caches=["none", "dual"], output="out", tasks=["expr"], limit=2)
    assert [row.scheduler for row in found.rows] == [f"{spec}, {cache}" for spec in specs for cache in ("none", "dual")]
    assert [row.agreement for row in found.rows if row.cache == "none"] == [1.0, 1.0]
    assert {one.scheduler: one.baseline for one in found.differences} == {
        f"{spec}, dual": f"{spec}, none" for spec in specs
    }


def test_what_is_measured_is_not_measured_again_and_another_grid_adds_to_it() -> None:
    seen: list[Standing] = []
    first = sweep(["threshold"], grid={"block": [4, 8]}, output="out", progress=seen.append, **SETTINGS)
    assert [(at.done, at.total, at.before) for at in seen] == [(0, 2, 0), (1, 2, 0), (2, 2, 0)]
    seen.clear()
    same = sweep(["threshold"], grid={"block": [4, 8]}, output="out", progress=seen.append, **SETTINGS)
    assert seen == [Standing(0, 0, 0, 2, "")] and same == first
    seen.clear()
    more = sweep(["threshold"], grid={"block": [8, 12]}, output="out", progress=seen.append, **SETTINGS)
    assert seen[-1] == Standing(1, 1, 0, 1, "threshold:block=12, none: done")
    assert [row.fields["block"] for row in more.rows] == [4, 8, 12] and more.rows[:2] == first.rows
    assert len(lines("done")) == len(lines("configuration")) == 3


def test_a_torn_last_line_is_cut_off_and_measured_once_more() -> None:
    whole = sweep(["threshold"], grid={"block": [4, 8]}, output="out", **SETTINGS)
    file = Path("out/sweep.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    assert read_sweep("out").waiting == ["threshold:block=8"]
    again = sweep(["threshold"], grid={"block": [4, 8]}, output="out", **SETTINGS)
    assert len(lines("done")) == 2 and [row.nfe for row in again.rows] == [row.nfe for row in whole.rows]


def test_what_ran_at_the_same_time_or_on_several_machines_is_said() -> None:
    alone = sweep(["threshold", "adablock"], output="out", **SETTINGS)
    assert not alone.notes
    text = Path("out/sweep.jsonl").read_text().replace('"together": 1', '"together": 2')
    Path("out/sweep.jsonl").write_text(re.sub('"host": "[^"]*"', '"host": "b"', text, count=1))
    several = read_sweep("out").notes
    assert several[0].startswith("Up to 2 configurations ran at the same time: tokens per second and latencies say")
    assert several[1].startswith("Measured on 2 machines: ") and len(several) == 2


def test_a_sweep_torn_in_its_first_line_begins_anew() -> None:
    Path("out").mkdir()
    Path("out/sweep.jsonl").write_text('{"kind": "swe')
    assert len(sweep(["threshold"], output="out", **SETTINGS).rows) == 1 and len(lines("sweep")) == 1


def test_a_failure_is_kept_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(FAILS_UNTIL_MENDED)
    arguments = [*COMMAND, "--scheduler", "mine.py:Mine", "--grid", "block=4,8,12", "--output", "out"]
    failed = run(*arguments)
    sentence = f"ValueError: not yet in select ({Path('mine.py').resolve()}, line 10)"
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == (
        f"Error: 1 of 3 configurations failed, the first is mine.py:Mine:block=8: {sentence} "
        "(--retry-failed measures them once more)"
    )
    assert "mine.py:Mine:block=12" in failed.stdout and "mine.py:Mine:block=8 failed: ValueError" in failed.stdout
    assert dict(read_sweep("out").failed) == {"mine.py:Mine:block=8": sentence}
    Path("mended").touch()
    assert run(*arguments).exit_code == 1 and len(lines("failed")) == 1  # kept, and not tried
    mended = run(*arguments, "--retry-failed", "--format", "json")
    assert mended.exit_code == 0, mended.stderr
    assert len(json.loads(mended.stdout)["rows"]) == 3 and not json.loads(mended.stdout)["failed"]
    assert "1 of 1 configuration, 2 before" in mended.stderr


def test_a_row_whose_baseline_failed_agrees_with_itself() -> None:
    Path("mine.py").write_text(FAILS_UNTIL_MENDED)
    found = sweep(["mine.py:Mine"], grid={"block": [8, 4, 12]}, output="out", **SETTINGS)
    assert [row.agreement for row in found.rows] == [1.0, 1.0] and found.differences == []
    assert any("mine.py:Mine:block=8 is not there to agree with" in note for note in found.notes)


def test_when_all_fail_the_table_says_so() -> None:
    result = run(*COMMAND, "--scheduler", f"{TOYS}:Stalls", "--scheduler", f"{TOYS}:Broken", "--output", "out")
    assert result.exit_code == 1 and result.stdout.startswith("No configuration is done.\n")
    assert "Error: 2 of 2 configurations failed" in result.stderr
    assert read_sweep("out").rows == [] and json.loads(read_sweep("out").to_json())["rows"] == []
    with pytest.raises(ConfigError, match="no configuration of the sweep is done"):
        read_sweep("out").to_html()


def test_changed_code_is_another_configuration() -> None:
    code = "from dataclasses import dataclass\nfrom tests.bench.toys import Pairs\n"
    Path("mine.py").write_text(f"{code}Mine = Pairs\n")
    own = f"{code}@dataclass(frozen=True)\nclass Mine(Pairs):\n    pass\n"
    Path("mine.py").write_text(own)
    sweep(["mine.py:Mine"], output="out", **SETTINGS)
    Path("mine.py").write_text(f"{own}# changed\n")
    found = sweep(["mine.py:Mine"], output="out", **SETTINGS)
    assert len(lines("done")) == 2 and len(found.rows) == 1 and "code changed" in found.notes[-1]


def test_code_that_is_changed_back_is_what_the_table_shows() -> None:
    code = "from dataclasses import dataclass\nfrom tests.bench.toys import Pairs\n"
    own = f"{code}@dataclass(frozen=True)\nclass Mine(Pairs):\n    pass\n"
    passes = []
    for end in ("", "# changed\n", ""):
        Path("mine.py").write_text(own + end)
        found = sweep(["mine.py:Mine", "threshold"], output="out", **SETTINGS)
        assert [row.scheduler for row in found.rows] == ["mine.py:Mine", "threshold"]
        passes.append(read_sweep("out").rows[0].latency_p50_s)
    assert len(lines("done")) == 3 and passes[0] == passes[2] != passes[1]


def test_a_row_is_what_its_spec_stands_for_now() -> None:
    """Whatever else is asked for, and whether or not that was measured under another name."""

    def swept(threshold: float, *specs: str) -> dict[str, Any]:
        Path("mine.toml").write_text(f'scheduler = "threshold"\n[fields]\nthreshold = {threshold}\n')
        found = sweep(specs, output="out", **SETTINGS)
        outdated = sum("Left out: 1 configuration" in note for note in found.notes)
        return {row.scheduler: row.fields["threshold"] for row in found.rows} | {"outdated": outdated}

    assert swept(0.9, "@mine.toml") == {"@mine.toml": 0.9, "outdated": 0}
    assert swept(0.5, "@mine.toml") == {"@mine.toml": 0.5, "outdated": 1}
    assert swept(0.5, "threshold", "@mine.toml") == {"@mine.toml": 0.5, "threshold": 0.9, "outdated": 0}
    assert swept(0.9, "@mine.toml") == {"@mine.toml": 0.9, "threshold": 0.9, "outdated": 1}
    assert len(lines("done")) == 2


def test_a_row_of_another_cache_is_what_its_spec_stands_for_now() -> None:
    """Else what a SPEC once stood for would be what its other caches are measured against."""
    on_tiny = SETTINGS | {"model": "tiny", "tasks": ["sort"]}

    def swept(threshold: float, *caches: str) -> dict[str, Any]:
        Path("mine.toml").write_text(f'scheduler = "threshold"\n[fields]\nthreshold = {threshold}\n')
        found = sweep(["@mine.toml"], caches=caches, output="out", **on_tiny)
        return {row.scheduler: row.fields["threshold"] for row in found.rows}

    both = ("none", "dual")
    assert swept(0.9, *both) == {"@mine.toml, none": 0.9, "@mine.toml, dual": 0.9}
    assert swept(0.5, "dual") == {"@mine.toml": 0.5}
    assert swept(0.5, *both) == {"@mine.toml, none": 0.5, "@mine.toml, dual": 0.5}
    assert swept(0.9, "dual") == {"@mine.toml, none": 0.9, "@mine.toml, dual": 0.9} and len(lines("done")) == 4
    assert swept(0.7, "prefix") == {"@mine.toml": 0.7}  # a cache that it was never asked for with


def test_a_file_that_tries_a_package_it_is_not_in_is_measured() -> None:
    tries = "try:\n    from .toys import Pairs\nexcept ImportError:\n    from tests.bench.toys import Pairs\n"
    Path("mine.py").write_text(tries + "class Mine(Pairs):\n    pass\n")
    assert len(sweep(["mine.py:Mine"], output="out", **SETTINGS).rows) == 1


@pytest.mark.parametrize("take", ["from .sizes import SIZE", "import kit.sizes\nSIZE = kit.sizes.SIZE"])
def test_a_changed_helper_is_another_configuration(take: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that a helper imports, and of which it takes a number only."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mine.py").write_text("import kit.base\nMine = kit.base.Mine\n")
    Path("kit").mkdir()
    Path("kit/base.py").write_text(
        f"from dataclasses import dataclass\nfrom tests.bench.toys import Pairs\n{take}\n"
        "@dataclass(frozen=True)\nclass Mine(Pairs):\n    size: int = min(SIZE, 1)\n"
    )
    for done, size in enumerate((1, 2, 2)):
        Path("kit/sizes.py").write_text(f"SIZE = {size}\n")
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "kit")]:
            monkeypatch.delitem(sys.modules, name)  # as in a new process
        sweep(["mine.py:Mine"], output="out", **SETTINGS)
        assert len(lines("done")) == min(done, 1) + 1


def test_a_changed_part_of_a_plain_class_is_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mine.py").write_text(
        "from dllm_sdk import load_scheduler\nfrom tests.bench.toys import Pairs\nclass Mine(Pairs):\n"
        "    def __init__(self):\n        object.__setattr__(self, 'block', 32)\n"
        "        object.__setattr__(self, 'part', load_scheduler('./part.py:Part'))\n"
    )
    for size in (1, 2):
        Path("part.py").write_text(f"from tests.bench.toys import Pairs\nclass Part(Pairs):\n    size = {size}\n")
        for name in [name for name in sys.modules if name in ("mine", "part")]:
            monkeypatch.delitem(sys.modules, name)
        sweep(["mine.py:Mine"], output="out", **SETTINGS)
    assert len(lines("done")) == 2


def test_a_head_that_was_trained_anew_is_another_configuration() -> None:
    code = "from dataclasses import dataclass, field\nimport torch\nfrom tests.bench.toys import Pairs\n"
    load = "field(default_factory=lambda: torch.load('head.pt'), compare=False, repr=False)"
    Path("mine.py").write_text(f"{code}@dataclass(frozen=True)\nclass Mine(Pairs):\n    head: torch.Tensor = {load}\n")
    for done, value in enumerate((0.0, 1.0, 1.0)):
        torch.save(torch.full((3,), value), "head.pt")
        sweep(["mine.py:Mine"], output="out", **SETTINGS)
        assert len(lines("done")) == min(done, 1) + 1
    Path("mine.py").write_text(Path("mine.py").read_text().replace("torch.load('head.pt')", "torch.rand(3)"))
    with pytest.raises(ConfigError, match=r"scheduler mine.py:Mine has other tensors each time it is loaded"):
        sweep(["mine.py:Mine"], output="random", **SETTINGS)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"limit": 3}, "limit 9, this one 3"),
        ({"seed": 1}, "seed 0, this one 1"),
        ({"batch_size": 5}, "batch_size 4, this one 5"),
        ({"tasks": [f"{TOYS}:other_task"]}, "tasks"),
        ({"gen_length": 10}, "tasks"),
        ({"model": f"{TOYS}:load_and_interrupt"}, "model"),
    ],
)
def test_one_table_holds_numbers_of_one_kind(other: dict[str, Any], says: str) -> None:
    sweep(["threshold"], output="out", **SETTINGS)
    before = Path("out/sweep.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"the sweep in out/sweep.jsonl has {says}.*give another folder"):
        sweep(["threshold"], output="out", **{**SETTINGS, **other})
    assert Path("out/sweep.jsonl").read_bytes() == before


def test_one_table_has_one_rule_of_what_is_right() -> None:
    code = "from tests.bench.toys import CountTask\ntask = CountTask('mine')\n"
    settings = {**SETTINGS, "tasks": ["mine_task.py:task"]}
    Path("mine_task.py").write_text(code)
    sweep(["threshold"], output="out", **settings)
    Path("mine_task.py").write_text(code.replace("'mine'", "'mine', broken=True"))
    with pytest.raises(ConfigError, match=r"has tasks .* this one .* give another folder"):
        sweep(["threshold"], grid={"block": [4]}, output="out", **settings)
    Path("mine_task.py").write_text(code)
    assert len(sweep(["threshold"], grid={"block": [4]}, output="out", **settings).rows) == 2


def test_two_sweeps_cannot_write_one_journal() -> None:
    with SweepJournal("out"):
        result = run(*COMMAND, "--scheduler", "threshold", "--output", "out")
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr == "Error: another sweep is writing out/sweep.jsonl: wait, or give another folder\n"
    assert run(*COMMAND, "--scheduler", "threshold", "--output", "out").exit_code == 0


def test_a_disk_that_becomes_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*COMMAND, "--scheduler", "threshold", "--grid", "block=4,8,12", "--output", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(dllm_bench.journal, "open", ReadOnlyLater, raising=False)
        result = run(*arguments)  # three writes: the head, and two configurations of two prompts
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "Error: out/sweep.jsonl cannot be written any more: Read-only file system; it keeps the 4 generations measured "
        "until then"
    )
    assert run(*arguments).exit_code == 0 and len(lines("done")) == 3


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("sweep/1", "sweep/9"), "line 1 has the schema dllm-bench-sweep/9"),
        (lambda text: text.replace('"definitions": 1', '"definitions": 9', 1), "line 1 has the definitions 9"),
        (lambda text: text.replace('"notes"', '"nots"', 1), "line 1 is damaged: notes must be a list"),
        (lambda text: text.replace('"spec"', '"spek"', 1), "line 2 is damaged: spec is missing"),
        (lambda text: text.replace('"nfe": ', '"nfe": "many", "was": ', 1), "line 3 is damaged: nfe"),
        (lambda text: text.replace('"outcomes"', '"outcome"', 1), "line 3 is damaged: it has no outcomes"),
        (lambda text: text.replace('{"kind": "done"', "{kind", 1), "line 3 is not JSON"),
        (
            lambda text: "\n".join(line for line in text.splitlines() if '"spec"' not in line) + "\n",
            "line 2 is damaged",
        ),
        (lambda text: "", "is empty"),
    ],
)
def test_other_damage_is_refused(spoil: Any, says: str) -> None:
    sweep(["threshold"], output="out", **SETTINGS)
    file = Path("out/sweep.jsonl")
    file.write_text(spoil(file.read_text()))
    result = run("sweep", "out")
    assert result.exit_code == 2 and says in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_file_holds_the_same_words_and_an_option_overrules_it() -> None:
    Path("sweep.toml").write_text(
        f'scheduler = "threshold"\ncache = "none"\ntask = ["{TOYS}:task"]\nmodel = "{TOYS}:load"\nlimit = 2\n'
        'batch-size = 2\noutput = "out"\n[grid]\nblock = [4, 8]\n'
    )
    result = run("sweep", "sweep.toml", "--limit", "3", "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["scheduler"], row["n"]) for row in rows] == [("threshold:block=4", 3), ("threshold:block=8", 3)]
    assert lines("sweep")[0]["settings"]["batch_size"] == 2
    shown = run("sweep", "out", "--format", "jsonl")
    assert shown.exit_code == 0 and shown.stdout == result.stdout and shown.stderr == ""


def test_a_grid_becomes_specs_that_every_command_takes() -> None:
    assert expand(["adablock", "threshold:block=4"], {"threshold": [0.5, 1]}) == [
        "adablock:threshold=0.5", "adablock:threshold=1", "threshold:block=4,threshold=0.5",
        "threshold:block=4,threshold=1",
    ]  # fmt: skip
    combined = expand(["adablock+fixed-block:steps=4"], axes(["window=0.5", "defer=true,false"]))
    assert combined == [f"adablock:window=0.5+fixed-block:steps=4,defer={value}" for value in ("true", "false")]
    (spec,) = expand(["adablock"], axes(['delimiters=["\\n", 3]', "delimiter-threshold=inf"]))
    scheduler: Any = load_scheduler(spec)
    assert scheduler.delimiters == ("\n", 3) and scheduler.delimiter_threshold == float("inf")
    (spec,) = expand(['prophet:inner="prophet:early=9"'], {"early": [5.0]})  # which another one in quotes sets, too
    assert spec == 'prophet:inner="prophet:early=9",early=5.0'
    (spec,) = expand(["adablock"], {"delimiters": [["\x7f"]]})
    assert load_scheduler(spec) == AdaBlock(delimiters=("\x7f",))
    with pytest.raises(ConfigError, match=r"delimiters cannot be .None.: give numbers, texts"):
        expand(["adablock"], {"delimiters": [[None]]})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scheduler", "adablock", "--grid", "threshold"], ["'threshold'", "field=value,value"]),
        (["--scheduler", "adablock", "--grid", "threshold=a"], ["'a'", "TOML values"]),
        (["--scheduler", "adablock", "--grid", "threshold="], ["threshold", "at least one value"]),
        (["--scheduler", "adablock", "--grid", "threshhold=1"], ["'threshhold'", "did you mean 'threshold'"]),
        (["--scheduler", "adablock", "--grid", "threshold=0.5,-1"], ["threshold", ">= 0", "-1"]),
        (["--scheduler", "adablock", "--grid", "threshold=0.5,0.50"], ["threshold=0.5 is given twice"]),
        (["--scheduler", "adablock:block=4", "--grid", "block=8"], ["'adablock:block=4' sets block", "leave one out"]),
        (["--scheduler", "adablock", "--grid", "block=4", "--grid", "block=8"], ["block is given twice"]),
        (["--scheduler", "adablock+threshold", "--grid", "block=8"], ["both parts have the field 'block'"]),
        (["--scheduler", "adablock+threshold", "--grid", "steps=8"], ["no part has the field 'steps'"]),
        (["--scheduler", "threshold", "--scheduler", "threshold:threshold=0.9"], ["the same configuration"]),
        (["--scheduler", "threshold", "--cache", "duall"], ["'duall'", "did you mean 'dual'"]),
        (["--scheduler", "threshold", "--cache", "dual"], ["wrapped callable", "NoCache"]),
        (["--scheduler", "threshold", "--limit", "0"], ["limit", ">= 1", "got 0"]),
        (["--scheduler", "threshold", "--engine", "dask"], ["'dask'", "process", "ray"]),
        (["--scheduler", "threshold", "--jobs", "0"], ["jobs", ">= 1", "got 0"]),
        (["--scheduler", "threshold", "--jobs", "2"], ["engine serial", "jobs 2"]),
        (["--scheduler", "threshold", "--gen-length", "1000"], ["context holds 40"]),
        (["--scheduler", "threshold", "--output", TOYS], ["toys.py", "must be a folder"]),
        (["--scheduler", "threshold", "--output", "/proc/nothing/here"], ["/proc/nothing/here", "cannot be written"]),
        (["--scheduler", "threshold", "--output", ""], ["--output FOLDER"]),
        ([], ["no scheduler", "--scheduler SPEC"]),
        (["nowhere.toml"], ["there is no sweep file nowhere.toml"]),
        (["bad.toml"], ["bad.toml", "'shceduler'", "did you mean 'scheduler'"]),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], says: list[str]) -> None:
    Path("bad.toml").write_text('shceduler = "threshold"\n')
    result = run(*COMMAND, "--output", "out", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    for part in ["Error: ", *says]:
        assert part in line
    assert not Path("out").exists()


def test_a_folder_without_a_sweep() -> None:
    for arguments, says in (
        (["nowhere"], "there is no sweep in nowhere"),
        (["out", "--limit", "3"], "takes no --limit:"),
        (["out", "--grid", "block=4"], "takes no --grid:"),
        (["out", "-j", "2"], "takes no --jobs:"),
    ):
        result = run("sweep", *arguments)
        assert result.exit_code == 2 and says in result.stderr and len(result.stderr.splitlines()) == 1


def test_arguments_from_python() -> None:
    wrong: list[Any] = [{"schedulers": "threshold"}, {"schedulers": [load_scheduler("threshold")]}, {"caches": "none"}]
    wrong += [{"tasks": [3]}, {"grid": {"block": 4}}, {"grid": ["block=4"]}, {"engine": "dask"}, {"model": 5}]
    for one in wrong:
        with pytest.raises(ConfigError):
            sweep(**{"schedulers": ["threshold"], "output": "out", **SETTINGS, **one})
    with pytest.raises(TypeError, match="limt"):
        sweep(["threshold"], output="out", limt=3)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(*COMMAND, "--scheduler", "threshold", "--output", "out", "--engine", "ray")
    assert result.exit_code == 2
    assert result.stderr == "Error: engine ray needs the extra `ray`: pip install 'dllm-sdk[ray]'\n"


def test_a_machine_that_differs_measures_nothing() -> None:
    """A node of a cluster with other weights, prompts, versions or code knows the configuration by another key."""
    asked = {"spec": "threshold", "cache": "none", "key": "of the driver"}
    reply = json.loads(Worker(json.dumps(SETTINGS)).answer(json.dumps({"measure": asked})))
    assert "has other weights, prompts, versions or code for threshold" in reply["error"]
    reply = json.loads(answer_on_a_node(json.dumps(SETTINGS), "/nowhere", json.dumps({"measure": asked})))
    assert reply["error"].endswith("has no folder /nowhere: No such file or directory")


def test_a_file_calibrated_for_another_model_is_said_below_the_table() -> None:
    Path("mine.toml").write_text('scheduler = "fixed-block"\n[fields]\nblock = 4\n[calibration]\nmodel = "other"\n')
    found = sweep(["@mine.toml"], grid={"steps": [2]}, output="out", **SETTINGS)
    assert [note for note in found.notes if note.startswith("@mine.toml:steps=2 was calibrated for the model other")]
    for _ in range(2):  # also one that is added to the table
        more = sweep(["@mine.toml"], grid={"steps": [4]}, output="out", **SETTINGS)
        assert [note.split(" was ")[0] for note in more.notes] == ["@mine.toml:steps=2", "@mine.toml:steps=4"]


def test_that_is_said_beside_rows_without_notes_too() -> None:
    Path("mine.toml").write_text('scheduler = "fixed-block"\n[fields]\nblock = 4\n[calibration]\nmodel = "other"\n')
    result = run(*COMMAND, "--scheduler", "@mine.toml", "--output", "out", "--format", "csv")
    assert result.exit_code == 0 and "@mine.toml was calibrated for the model other" in result.stderr
    assert "calibrated" not in result.stdout
    shown = run("sweep", "out", "--format", "csv")
    assert shown.stdout == result.stdout and "@mine.toml was calibrated for the model other" in shown.stderr


def test_a_sweep_is_a_comparison() -> None:
    found = sweep(["threshold"], grid={"block": [4, 8]}, output="out", **SETTINGS)
    assert isinstance(found, Sweep) and " against threshold:block=4: " not in str(found)
    assert found.to_csv().count("\n") == 2 and "threshold:block=8" in found.to_html()
