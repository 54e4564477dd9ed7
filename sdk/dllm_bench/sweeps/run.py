"""`sweep`: the driver. It checks, hands out what is not measured yet, and alone writes the journal. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dllm_bench.inputs import check_whole, load_schedulers, with_caches
from dllm_bench.setups import Setup
from dllm_bench.sweeps.engines import Engine, start
from dllm_bench.sweeps.grid import expand, texts
from dllm_bench.sweeps.journal import Configuration, SweepJournal
from dllm_bench.sweeps.report import Sweep, read_sweep
from dllm_sdk import ConfigError, DllmError


class Standing(NamedTuple):
    """How far a sweep is, in configurations."""

    done: int  # in this run, failed ones among them
    total: int  # in this run
    failed: int
    before: int  # asked for, and measured by an earlier run
    last: str  # what ended last, and how; empty at the start


Report = Callable[[Standing], None]


def sweep(
    schedulers: Sequence[str],
    *,
    output: str | Path,
    grid: Mapping[str, Iterable[Any]] | None = None,
    caches: Sequence[str] = ("none",),
    engine: str = "serial",
    jobs: int | None = None,
    retry_failed: bool = False,
    progress: Report | None = None,
    **settings: Any,
) -> Sweep:
    """Measure every scheduler at every point of a grid with every cache, and keep it in `output`/sweep.jsonl.

    What is in the journal already is not measured again, so the same call goes on after an interrupt or a kill, and
    another grid adds to the table; `retry_failed` takes what failed once more. `schedulers` and `caches` are SPECs,
    `grid` the values of fields, in lists or arrays. `settings` are those of `compare`: model, tasks, limit, batch_size,
    gen_length, seed, temperature, device, dtype, backend; model and tasks by name.

    `engine`: "serial", "process" (`jobs` at a time; None: one per processor, or one on a GPU) or "ray", which uses the
    cluster at RAY_ADDRESS and else makes one of `jobs` processors. A script that takes "process" is imported by
    its workers: put the call under `if __name__ == "__main__"`.

    Everything is checked before anything runs: ConfigError and RegistryError say what was wrong. What goes wrong in a
    configuration is in `failed` of the result, and the others go on.
    """
    texts("model", [settings.get("model", "")])
    texts("tasks", settings.get("tasks") or [])
    setup = Setup(**settings)
    specs = expand(schedulers, grid or {})
    with_caches(load_schedulers(specs), texts("caches", caches))
    setup.questions()
    check_whole("jobs", jobs, 1, optional=True)
    gpu = str(setup.device).startswith("cuda")
    request = {"describe": {"schedulers": specs, "caches": list(caches)}}
    with closing(start(engine, json.dumps(asdict(setup)), jobs, gpu=gpu)) as workers:
        ((_, plan),) = workers.run([json.dumps(request)])
        if "error" in plan:
            raise (ConfigError if plan["code"] == 2 else DllmError)(plan["error"])
        configurations = [Configuration(**one) for one in plan["configurations"]]
        _refuse_doubles(configurations)
        with SweepJournal(output) as journal:
            journal.adopt(plan)
            kept = journal.kept
            skipped = kept.done if retry_failed else {*kept.done, *kept.failed}
            todo = [one for one in configurations if one.key not in skipped]
            first = Standing(0, len(todo), 0, len(configurations) - len(todo), "")
            _measure(workers, journal, todo, first, progress or _say_nothing)
    return read_sweep(output)


def _measure(
    workers: Engine,
    journal: SweepJournal,
    todo: Sequence[Configuration],
    standing: Standing,
    report: Report,
) -> None:
    """Every configuration in the journal when this returns."""
    report(standing)
    requests = [json.dumps({"measure": {"spec": one.spec, "cache": one.cache, "key": one.key}}) for one in todo]
    for number, reply in workers.run(requests):
        if "worker" in reply:
            reply["worker"]["together"] = min(workers.together, len(todo))
        one = todo[number]
        journal.note(one.key, reply)
        standing = standing._replace(
            done=standing.done + 1,
            failed=standing.failed + ("error" in reply),
            last=f"{one.spec}, {one.cache}: {reply.get('error', 'done')}",
        )
        report(standing)


def _say_nothing(standing: Standing) -> None:
    pass


def _refuse_doubles(configurations: Sequence[Configuration]) -> None:
    seen: dict[str, str] = {}
    for one in configurations:
        name = f"{one.spec}, {one.cache}"
        if one.key in seen:
            raise ConfigError(f"{seen[one.key]} and {name} are the same configuration: give it once")
        seen[one.key] = name
