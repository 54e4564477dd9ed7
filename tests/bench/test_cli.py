"""The command: what it prints where, with which exit code, and what it does not import."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dllm_sdk
from dllm_bench.cli import cli
from dllm_bench.measure import Progress
from dllm_bench.progress import Meter
from tests.bench.toys import HERE

TOYS = str(HERE)
GOOD = ["compare", "--model", f"{TOYS}:load", "--task", f"{TOYS}:task", "--limit", "9"]

MINE = '''
from dataclasses import dataclass
from dllm_sdk import Decision, Scheduler
from dllm_sdk.rules import first, top_k

@dataclass(frozen=True)
class Mine(Scheduler):
    """The {count} surest of the next eight."""
    count: int = 2

    def plan(self, view, state):
        return first(view.open, 8), state

    def select(self, view, state):
        return Decision(commit=top_k(view.open, view.confidence, self.count)), state
'''


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_compare_prints_a_table_on_stdout() -> None:
    result = run(*GOOD)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("scheduler"))
    assert " ".join(lines[head].split()) == "scheduler n accuracy [95 %] answer NFE TPF tokens/s p50 s p95 s"
    names = ["fixed-block", "confidence-adaptive", "adablock"]
    assert [line.split()[:2] for line in lines[head + 2 : head + 5]] == [[name, "9"] for name in names]
    assert result.stderr == "count: 0 of 27 generations done\n"


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "md"])
def test_other_formats_are_alone_on_stdout(format: str) -> None:
    result = run(*GOOD, "--format", format, "--scheduler", "fixed-block")
    assert result.exit_code == 0
    if format == "json":
        data = json.loads(result.stdout)
        assert list(data) == ["rows", "tasks", "differences", "aup", "environment", "notes"]
        assert data["rows"][0]["accuracy"] == pytest.approx(5 / 9)
    elif format == "jsonl":
        assert json.loads(result.stdout)["scheduler"] == "fixed-block"
    else:
        assert "fixed-block" in result.stdout


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_forms_of_rows_alone_leave_what_a_reader_should_know_to_stderr(format: str) -> None:
    Path("mine.jsonl").write_text('{"prompt": "sort: 2 1"}\n' * 2)
    asked = ["compare", "--task", "mine.jsonl", "--limit", "1", "--gen-length", "4", "--scheduler", "fixed-block"]
    result = run(*asked, "--format", format)
    assert result.exit_code == 0 and "(--limit)" not in result.stdout
    assert result.stderr.splitlines()[-1] == "mine.jsonl: the first 1 of 2 prompts (--limit)."


def test_output_says_where_the_results_are() -> None:
    result = run(*GOOD, "--output", "out", "--scheduler", "adablock")
    assert result.exit_code == 0 and "out/results.jsonl" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["report.html", "results.jsonl"]
    assert len(Path("out/results.jsonl").read_text().splitlines()) == 11


def test_a_scheduler_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_schedulers.py").write_text(MINE)
    specs = ["./my_schedulers.py:Mine", "my_schedulers:Mine:count=3"]
    result = run(*GOOD, "--format", "json", *(part for spec in specs for part in ("--scheduler", spec)))
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["scheduler"] for row in rows] == specs
    assert [row["fields"] for row in rows] == [{"count": 2}, {"count": 3}]
    assert 1.5 < rows[0]["tpf"] < rows[1]["tpf"]
    assert run("check", specs[0], "--examples", "5").exit_code == 0


def test_check_says_what_holds() -> None:
    result = run("check", "fixed-block:block=4", "--examples", "3")
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("FixedBlock(block=4, ")
    assert "ok  row by row" in result.stdout and "properties hold on 3 random cases (seed 0)" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_check_says_what_does_not_hold() -> None:
    result = run("check", f"{TOYS}:Stalls", "--examples", "5")
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith('Error: the property "progress" does not hold: ') and "smallest example: Case(" in line
    result = run("check", f"{TOYS}:Broken", "--examples", "5")
    assert result.exit_code == 1
    assert 'property "runs" does not hold: IndexError' in result.stderr.splitlines()[-1]
    assert "return Decision(commit=view.open[:, 10**6]), state" in result.stderr


def test_a_scheduler_that_stalls_is_a_failed_run() -> None:
    result = run(*GOOD, "--scheduler", f"{TOYS}:Stalls")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: Stalls(block=32) brought no fewer masks")


@pytest.mark.parametrize(
    ("arguments", "frames", "last"),
    [
        (["--scheduler", f"{TOYS}:Broken"], ["in select"], "IndexError: index 1000000 is out of bounds"),
        (["--task", f"{TOYS}:broken_task", "--limit", "9"], ["in check"], "RuntimeError: no idea in check"),
        (["--model", f"{TOYS}:load_and_fail"], ["in load_and_fail"], "KeyError: 'weights' in load_and_fail"),
    ],
    ids=["scheduler", "task", "model"],
)
def test_what_user_code_raises_shows_its_own_frames(arguments: list[str], frames: list[str], last: str) -> None:
    options = [
        "--model",
        f"{TOYS}:load",
        *([] if "--task" in arguments else ["--task", f"{TOYS}:task", "--limit", "3"]),
    ]
    result = run("compare", *options, *arguments)
    assert result.exit_code == 1
    shown = [line for line in result.stderr.splitlines() if line.startswith("  File ")]
    assert len(shown) == len(frames)
    for line, frame in zip(shown, frames, strict=True):
        assert "toys.py" in line and frame in line
    assert f"Error: {last}" in result.stderr.splitlines()[-1]
    everything = run("compare", *options, *arguments, "--traceback")
    assert "Traceback (most recent call last)" in everything.stderr
    assert len(everything.stderr) > len(result.stderr)
    assert everything.stderr.splitlines()[-1] == result.stderr.splitlines()[-1]


def test_traceback_may_stand_before_the_command() -> None:
    result = run("--traceback", "compare", "--scheduler", "adablok")
    assert result.exit_code == 2 and "registry.py" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: there is no scheduler 'adablok'")


@pytest.mark.usefixtures("heard")
def test_an_interrupt_keeps_what_was_measured() -> None:
    arguments = ["compare", "--model", f"{TOYS}:load_and_interrupt", "--task", f"{TOYS}:task", "--limit", "9"]
    result = run(*arguments, "--batch-size", "2", "--output", "out")
    assert result.exit_code == 130 and result.stdout == ""
    kept = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert kept[0]["kind"] == "run" and 0 < len(kept) - 1 < 27
    assert result.stderr.splitlines()[-1] == (
        f"Interrupted after {len(kept) - 1} of 27 generations; they are in out/results.jsonl."
    )
    result = run(*arguments, "--batch-size", "2")
    assert result.exit_code == 130 and "--output FOLDER would have kept them" in result.stderr


def test_a_full_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():  # pragma: no cover
        return
    Path("out").mkdir()
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  closed by the journal
    monkeypatch.setattr("dllm_bench.journal.open", lambda *a, **k: full, raising=False)
    result = run(*GOOD, "--output", "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: out/results.jsonl cannot be written any more: No space left on device; "
        "it keeps the 0 generations measured until then"
    ]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_onto_a_full_disk_is_a_sentence(option: str) -> None:
    command = [sys.executable, "-c", "from dllm_bench.cli import main; main()", option]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "Error: No space left on device\n"


def test_list_names_what_is_installed() -> None:
    result = run("list")
    assert result.exit_code == 0
    for name in ("fixed-block", "adablock", "tiny", "expr", "dllm_strategies.adablock:AdaBlock", "dllm-sdk 0.1.0"):
        assert name in result.stdout
    long = {entry["name"]: entry for entry in json.loads(run("list", "--long", "--format", "json").stdout)}
    assert {"block": "32", "steps": "32"}.items() <= long["fixed-block"]["fields"].items()
    assert long["fixed-block"]["papers"] == ["arXiv:2502.09992"] and long["fixed-block"]["summary"].startswith(
        "Equal blocks"
    )
    assert not any(entry["error"] for entry in long.values())


def test_version_and_help() -> None:
    assert run("--version").stdout == f"dllm-bench {dllm_sdk.__version__}\n"
    assert run("-h").stdout == run("--help").stdout == run().stdout
    for command in ("compare", "list", "check"):
        result = run(command, "--help")
        assert result.exit_code == 0 and "--traceback" in result.stdout


CHEAP = """
import sys
from click.testing import CliRunner
from dllm_bench.cli import cli
result = CliRunner().invoke(cli, {arguments!r})
assert result.exit_code == 0, result.output
heavy = ("torch", "numpy", "hypothesis", "dllm_strategies", "dllm_reference_model")
print(*[name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["list"], ["--version"], ["diff", "--help"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = CHEAP.format(arguments=arguments)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ""


def test_completion_knows_names_and_imports_nothing_heavy() -> None:
    code = "import sys\nfrom dllm_bench.cli import cli\n"
    code += "try: cli(prog_name='dllm-bench')\nfinally: print('torch' in sys.modules)"
    asked = {
        "_DLLM_BENCH_COMPLETE": "bash_complete",
        "COMP_WORDS": "dllm-bench compare --scheduler ada",
        "COMP_CWORD": "3",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert done.stdout.split() == ["plain,adablock", "False"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_closed_stderr_costs_no_result() -> None:
    command = [sys.executable, "-c", "from dllm_bench.cli import main; main()", *GOOD, "--format", "csv"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "confidence-adaptive" in done.stdout


def test_the_meter_on_a_terminal_and_elsewhere() -> None:
    live, plain = Meter(Terminal()), Meter(io.StringIO())
    for meter in (live, plain):
        for at in (
            Progress(0, 4, "t", "a"),
            Progress(2, 4, "t", "b"),
            Progress(3, 4, "u", "a"),
            Progress(4, 4, "", ""),
        ):
            meter(at)
    assert isinstance(live.stream, io.StringIO) and isinstance(plain.stream, io.StringIO)
    assert "50 %  t  b" in live.stream.getvalue() and live.stream.getvalue().endswith("\r\033[K")
    assert plain.stream.getvalue() == "t: 0 of 4 generations done\nu: 3 of 4 generations done\n"
    assert (live.done, live.total) == (4, 4)


def test_a_long_task_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, now = Meter(io.StringIO()), 0.0
    monkeypatch.setattr("dllm_bench.progress.time.monotonic", lambda: now)
    meter(Progress(0, 8, "compiling", "a"))
    for done in range(10, 18):
        now = 10.0 * done
        meter(Progress(done - 10, 8, "t", "a"))
    assert isinstance(meter.stream, io.StringIO)
    before, first, *later = meter.stream.getvalue().splitlines()
    assert before == "compiling: 0 of 8 generations done" and first == "t: 0 of 8 generations done"
    assert later == ["t: 3 of 8 generations done, 0:50 left", "t: 6 of 8 generations done, 0:20 left"]
