"""Where the configurations of a sweep run: in this process, in several of this machine, or on a Ray cluster.

An engine takes requests and yields replies as they come, text both; it knows neither journal nor schedulers. A request
whose worker dies goes to another one, three times in all.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, cast

from dllm_bench.memory import keep_freed_memory
from dllm_sdk.errors import ConfigError

if TYPE_CHECKING:
    from dllm_bench.sweeps.work import Worker

TRIES = 3  # how many workers a request may outlive
RAY_ADDRESS = "RAY_ADDRESS"  # Ray's own variable: the cluster to use
_OBJECT_STORE = 100_000_000  # bytes; what travels is text
Replies = Iterator[tuple[int, dict[str, Any]]]


class Engine(Protocol):
    """Made of a setup, as `work.Worker` takes it, and of how many requests may run at the same time."""

    together: int  # how many do

    def run(self, requests: Sequence[str]) -> Replies:
        """Number of the request, and its reply."""
        ...

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        ...


def start(engine: str, setup: str, jobs: int | None, *, gpu: bool) -> Engine:
    """The engine of a name. ConfigError for any other, and for one that is not installed or cannot be reached."""
    if engine == "serial" and jobs not in (None, 1):
        raise ConfigError(f"engine serial runs one configuration at a time, got jobs {jobs}: take process or ray")
    if engine == "serial":
        return Serial(setup)
    if engine == "process":
        return Processes(setup, jobs or (1 if gpu else os.cpu_count() or 1))
    if engine == "ray":
        return Ray(setup, jobs, gpu=gpu)
    raise ConfigError(f"engine must be one of serial, process, ray, got {engine!r}")


class Serial:
    """One after another in this process."""

    together = 1

    def __init__(self, setup: str) -> None:
        from dllm_bench.sweeps.work import Worker

        self._worker = Worker(setup)

    def run(self, requests: Sequence[str]) -> Replies:
        """In their order."""
        for number, request in enumerate(requests):
            yield number, json.loads(self._worker.answer(request))

    def close(self) -> None:
        """Nothing to end."""


class Processes:
    """Several processes of this machine, each with a model of its own."""

    def __init__(self, setup: str, jobs: int) -> None:
        self._setup, self.together = setup, jobs
        self._spawn = get_context("spawn")
        self._workers: dict[Connection, Any] = {}  # a process by our end of its pipe
        self._idle: list[Connection] = []

    def run(self, requests: Sequence[str]) -> Replies:
        """As they come."""
        waiting, busy, deaths = deque(range(len(requests))), dict[Connection, int](), Counter[int]()
        while waiting or busy:
            while waiting and len(busy) < self.together:
                pipe = self._idle.pop() if self._idle else self._new()
                busy[pipe] = number = waiting.popleft()
                with suppress(OSError):  # it died while it was idle, which reading from it will show
                    pipe.send_bytes(requests[number].encode())
            for pipe in cast(list[Connection], wait(list(busy))):
                number = busy.pop(pipe)
                try:
                    reply = pipe.recv_bytes()
                except (EOFError, OSError):
                    code = self._bury(pipe)
                    deaths[number] += 1
                    if deaths[number] < TRIES:
                        waiting.appendleft(number)
                    else:
                        yield number, _died(f"exit code {code}")
                else:
                    self._idle.append(pipe)
                    yield number, json.loads(reply)

    def close(self) -> None:
        """Kill them."""
        for pipe in list(self._workers):
            self._workers[pipe].kill()
            self._bury(pipe)
        self._idle.clear()

    def _new(self) -> Connection:
        ours, theirs = self._spawn.Pipe()
        worker = self._spawn.Process(target=_serve, args=(theirs, self._setup, self.together), daemon=True)
        worker.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._workers[ours] = worker
        return ours

    def _bury(self, pipe: Connection) -> int | None:
        worker = self._workers.pop(pipe)
        worker.join()
        pipe.close()
        code: int | None = worker.exitcode
        return code


class Ray:
    """Tasks of a Ray cluster: the one at RAY_ADDRESS, else one of this machine that ends with the sweep."""

    def __init__(self, setup: str, jobs: int | None, *, gpu: bool) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise ConfigError("engine ray needs the extra `ray`: pip install 'dllm-sdk[ray]'") from None
        self._setup, self._jobs = setup, jobs or sys.maxsize
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, jobs or os.cpu_count() or 1)
        room = int(self._ray.cluster_resources().get("GPU" if gpu else "CPU", 0))
        if not room:
            self.close()
            raise ConfigError(f"the Ray cluster has no {'GPU' if gpu else 'CPU'}: a task would wait for ever")
        self.together = min(self._jobs, room)
        options = {"num_cpus": 1, "num_gpus": int(gpu), "max_retries": TRIES - 1}
        self._answer = self._ray.remote(**options)(answer_on_a_node)

    def run(self, requests: Sequence[str]) -> Replies:
        """As they come."""
        waiting, pending = deque(range(len(requests))), dict[Any, int]()
        while waiting or pending:
            while waiting and len(pending) < self._jobs:
                number = waiting.popleft()
                pending[self._answer.remote(self._setup, os.getcwd(), requests[number])] = number
            for reference in self._ray.wait(list(pending))[0]:
                number = pending.pop(reference)
                try:
                    reply = json.loads(self._ray.get(reference))
                except self._ray.exceptions.RayError as error:
                    reply = _died(type(error).__name__)
                yield number, reply

    def close(self) -> None:
        """Leave the cluster, or end it if it is ours."""
        if self._ours:
            self._ray.shutdown()


def _connect(ray: Any, jobs: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no request leaves the machine
    address = os.environ.get(RAY_ADDRESS)
    here = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        _knock(address or "")
        # "local": else Ray would join any cluster that was ever started on this machine
        ray.init(address or "local", log_to_driver=False, logging_level="error", **({} if address else here))
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        where = f"the cluster at {RAY_ADDRESS}={address}" if address else "a cluster on this machine"
        hint = " (one that asks for a token: RAY_AUTH_MODE=token)" if address else ""
        raise ConfigError(f"engine ray cannot use {where}: {error}{hint}") from error


def _knock(address: str) -> None:
    """OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _died(how: str) -> dict[str, Any]:
    return {"error": f"its worker ended {TRIES} times before it was done ({how})", "code": 1}


def _serve(pipe: Connection, setup: str, jobs: int) -> None:
    """The life of a process: answer until the driver hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends us
    os.dup2(2, 1)  # what a user's code prints must not mix with the driver's result
    Thread(target=_end_with_the_driver, daemon=True).start()
    import torch

    from dllm_bench.sweeps.work import Worker

    keep_freed_memory()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    worker = Worker(setup)
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(worker.answer(pipe.recv_bytes().decode()).encode())


def _end_with_the_driver() -> None:
    """A killed driver ends nobody: without this, a worker would finish what no one waits for."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def answer_on_a_node(setup: str, folder: str, request: str) -> str:
    """What a Ray task does; a worker of the cluster keeps the model from task to task."""
    try:
        os.chdir(folder)  # where FILE.py and FILE.jsonl are looked for
    except OSError as error:
        return json.dumps({"error": f"{platform.node()} has no folder {folder}: {error.strerror}", "code": 1})
    if "" not in sys.path:
        sys.path.append("")
    return _kept_worker(setup).answer(request)


@lru_cache(maxsize=1)
def _kept_worker(setup: str) -> Worker:
    from dllm_bench.sweeps.work import Worker

    keep_freed_memory()
    return Worker(setup)
