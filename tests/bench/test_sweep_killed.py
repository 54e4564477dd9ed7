"""A sweep of the model in the box, killed at random moments: nothing is lost, and nothing is done twice.

Every sweep here is the command in a process of its own; what dies, dies of SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dllm_bench import read_sweep

GRID = ["--grid", "threshold=0.5,0.7,0.9,0.95", "--grid", "block=8,16,32", "--cache", "none", "--cache", "dual"]
COMMAND = [sys.executable, "-c", "from dllm_bench.cli import main; main()", "sweep", "--task", "expr", "--limit", "2"]
CONFIGURATIONS = 24
POISON = """
import os, signal
from dataclasses import dataclass
from dllm_strategies.threshold import Threshold

@dataclass(frozen=True)
class Poison(Threshold):
    def select(self, view, state):
        if self.block == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().select(view, state)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, **pipes)


def entries(kind: str, folder: str = "out") -> list[dict[str, Any]]:
    """The whole lines of a kind in a journal that may be growing."""
    file = Path(folder) / "sweep.jsonl"
    whole = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [entry for entry in map(json.loads, whole) if entry["kind"] == kind]


def wait_until(done: int, process: subprocess.Popen[str]) -> None:
    """Until so many configurations are done."""
    while len(entries("done")) < done:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def workers(driver: int) -> list[int]:
    """The processes that measure: children of the driver, or Ray's, which are named after what they do."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    table = [line.split(maxsplit=2) for line in listed.splitlines()]
    family = {driver}
    for _ in range(4):  # the driver, what it starts, the raylet's workers
        family |= {int(pid) for pid, parent, *_ in table if int(parent) in family}
    named = {int(pid): " ".join(name) for pid, _, *name in table}
    return [pid for pid in family if re.search("spawn_main|ray::(answer|IDLE)", named[pid])]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def measured(folder: str) -> dict[str, Any]:
    """By configuration all that a sweep measured, but how long it took and where."""
    found = entries("done", folder)
    assert len({entry["key"] for entry in found}) == len(found)  # nothing twice
    return {
        entry["key"]: [{name: value for name, value in one.items() if name != "seconds"} for one in entry["outcomes"]]
        for entry in found
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start("--scheduler", "adablock", *GRID, "--output", str(folder))
    _, says = process.communicate()
    assert process.returncode == 0, says
    return measured(str(folder))


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "engine",
    [
        "serial",
        pytest.param("process", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.extra]),
    ],
)
def test_three_kills_change_nothing(engine: str, undisturbed: dict[str, Any]) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra `ray`")
    seed = random.randrange(10**6)
    print(f"random moments of seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    jobs = [] if engine == "serial" else ["--jobs", "2"]
    command = ["--scheduler", "adablock", *GRID, "--output", "out", "--engine", engine, *jobs]

    first = start(*command)  # the driver is killed
    wait_until(moments.randint(1, 6), first)
    time.sleep(moments.uniform(0, 0.3))
    kill(first)

    second = start(*command)  # a worker is killed, and then the driver
    wait_until(moments.randint(8, 12), second)
    time.sleep(moments.uniform(0, 0.3))
    victims = workers(second.pid)
    assert victims or engine == "serial"  # where the driver is the worker
    for pid in victims[:1]:
        os.kill(pid, signal.SIGKILL)
    wait_until(moments.randint(14, 16), second)
    kill(second)

    torn = json.dumps({"kind": "done", "key": "0", "outcomes": []})  # the last line is torn
    with Path("out/sweep.jsonl").open("a") as file:
        file.write(torn[: moments.randrange(1, len(torn))])
    kept = len(entries("done"))
    last = start(*command)
    _, says = last.communicate()
    assert last.returncode == 0, says
    assert f"{CONFIGURATIONS - kept} of {CONFIGURATIONS - kept} configurations, {kept} before" in says
    assert len(entries("done")) == len(undisturbed) == CONFIGURATIONS and not entries("failed")
    assert measured("out") == undisturbed
    assert len(read_sweep("out").rows) == CONFIGURATIONS


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["process", pytest.param("ray", marks=pytest.mark.extra)])
def test_what_kills_every_worker_fails_and_the_others_go_on(engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra `ray`")
    Path("poison.py").write_text(POISON)
    grid = ["--scheduler", "poison.py:Poison", "--grid", "block=4,8,16", "--output", "out"]
    process = start(*grid, "--engine", engine, "--jobs", "2", "--format", "jsonl")
    results, says = process.communicate()
    assert process.returncode == 1 and len(entries("done")) == len(list(map(json.loads, results.splitlines()))) == 2
    (failed,) = entries("failed")
    assert failed["error"].startswith("its worker ended 3 times before it was done"), says
    assert says.splitlines()[-1].startswith("Error: 1 of 3 configurations failed")


@pytest.mark.slow
def test_workers_end_with_a_killed_driver() -> None:
    process = start("--scheduler", "adablock", *GRID, "--output", "out", "--engine", "process", "--jobs", "1")
    wait_until(1, process)
    (worker,) = workers(process.pid)
    kill(process)
    deadline = time.monotonic() + 30
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
