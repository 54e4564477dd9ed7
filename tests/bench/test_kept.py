"""What was measured is kept, whatever ends the run, and the message says where: a full disk, a broken task, Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dllm_bench.journal
from dllm_bench import read_results
from dllm_bench.cli import cli
from dllm_bench.measure import Run
from tests.bench.toys import HERE

TOYS = str(HERE)


def arguments(model: str = "load", task: str = "task", scheduler: str = "fixed-block") -> list[str]:
    given = ["--model", f"{TOYS}:{model}", "--task", f"{TOYS}:{task}", "--scheduler", scheduler]
    return ["compare", *given, "--limit", "9", "--batch-size", "2", "--output", "out"]


def run(**given: str) -> Result:
    return CliRunner().invoke(cli, arguments(**given))


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def kept(code: int, stdout: str, stderr: str, reason: str) -> None:
    """The one line on stderr names reason, file and number, and the file holds as many whole results."""
    assert code == 1 and stdout == ""
    comparison = read_results("out")
    n = len(comparison.outcomes)
    assert 0 < n < 9 and comparison.rows[0].n == n and "did not come to its end" in comparison.notes[0]
    keeps = f"it keeps the {n} generations measured until then"
    assert stderr.splitlines()[1:] == [f"Error: out/results.jsonl cannot be written any more: {reason}; {keeps}"]
    assert Path("out/results.jsonl").read_bytes().endswith(b"\n")


SMALL_DISK = """
import resource, sys
from dllm_bench.cli import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
cli(sys.argv[1:])
"""


def test_a_disk_that_fills_up() -> None:
    """No file may grow beyond 4,000 bytes: a write is cut there. In a process of its own, whose output is a pipe."""
    command = [sys.executable, "-c", SMALL_DISK, *arguments()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    kept(done.returncode, done.stdout, done.stderr, "No space left on device")
    assert 2000 < Path("out/results.jsonl").stat().st_size < 4000


class ReadOnlyLater:
    """A file that takes three writes; then its disk is remounted read-only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.file, self.left = open(*arguments, **options), 3  # noqa: SIM115  closed by the journal

    def write(self, data: bytes) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(30, "Read-only file system")
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_becomes_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dllm_bench.journal, "open", ReadOnlyLater, raising=False)
    done = run()
    kept(done.exit_code, done.stdout, done.stderr, "Read-only file system")
    assert len(read_results("out").outcomes) == 3  # the head, a batch of one and a batch of two


def test_a_folder_that_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(dllm_bench.journal, "open", refuse, raising=False)
    result = run()
    assert result.exit_code == 2 and result.stdout == ""  # before anything runs: there is no line of progress
    assert result.stderr == "Error: output out cannot be written: Read-only file system\n"


def test_an_error_in_the_users_code_says_what_is_kept() -> None:
    Path("late.py").write_text(
        "from tests.bench.toys import CountTask\n"
        "class Late(CountTask):\n"
        "    def check(self, prompt, text):\n"
        "        return super().check(prompt, text) if int(prompt) < 6 else undefined\n"
        "task = Late()\n"
    )
    arguments = ["compare", "--model", f"{TOYS}:load", "--task", "late.py:task", "--limit", "9", "--batch-size", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--scheduler", "fixed-block", "--output", "out"])
    assert result.exit_code == 1 and "NameError" in result.stderr.splitlines()[-1]
    assert "Failed after 5 of 9 generations; they are in out/results.jsonl." in result.stderr.splitlines()
    assert len(read_results("out").outcomes) == 5


def test_nothing_is_kept_of_a_run_that_measured_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "warm_up", interrupted)
        assert run().exit_code == 130
    assert not Path("out/results.jsonl").exists()
    assert run().exit_code == 0  # and so the same command can be run again


@pytest.mark.usefixtures("heard")
def test_what_ctrl_c_keeps_can_be_read() -> None:
    result = run(model="load_and_interrupt")
    n = len(read_results("out").outcomes)
    assert result.exit_code == 130 and 0 < n < 9
    assert result.stderr.splitlines()[-1] == f"Interrupted after {n} of 9 generations; they are in out/results.jsonl."
