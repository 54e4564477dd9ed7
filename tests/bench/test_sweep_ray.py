"""A sweep on a Ray cluster that was there before it: the same command, with RAY_ADDRESS. Needs the extra `ray`."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dllm_bench import read_sweep

pytestmark = pytest.mark.extra
COMMAND = [sys.executable, "-c", "from dllm_bench.cli import main; main()", "sweep", "--engine", "ray"]
COMMAND += ["--scheduler", "adablock", "--grid", "threshold=0.7,0.9", "--task", "expr", "--limit", "2"]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for the cluster's token
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(secrets.token_hex())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


def free_port() -> int:
    """Below the ports that a system gives away by itself: whoever knocks at one of those may meet himself."""
    return next(port for port in random.sample(range(20000, 30000), 100) if not listens(port))


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def sweep(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def cluster(somewhere: None) -> Iterator[str]:
    """The address of a cluster of two processors, which ends with the test."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port", str(port)]
    command += ["--num-cpus", "2", "--object-store-memory", "100000000", "--include-dashboard", "false"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "--disable-usage-stats"], **quiet) as head:
        deadline = time.monotonic() + 120
        while not listens(port):
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        head.terminate()


@pytest.mark.slow
def test_the_same_command_runs_on_a_cluster(cluster: str) -> None:
    done = sweep(cluster, "--output", "out")
    assert done.returncode == 0, done.stderr
    assert len(read_sweep("out").rows) == 2
    refused = sweep(cluster, "--output", "other", "--device", "cuda")
    assert refused.returncode == 2 and refused.stderr.startswith("Error: the Ray cluster has no GPU")


def test_a_cluster_that_is_not_there() -> None:
    address = f"127.0.0.1:{free_port()}"
    refused = sweep(address, "--output", "out")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith(f"Error: engine ray cannot use the cluster at RAY_ADDRESS={address}: ")
    assert len(refused.stderr.splitlines()) == 1 and not Path("out").exists()
